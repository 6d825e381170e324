"""What it costs to make requests resumable: the same load with the journal and without, in turn."""
