"""Model folders on disk: which models are known, where they lie, and how they get there."""
