"""What the int8 hand-off costs in quality: the same prompts handed over exactly and as int8, logit by logit."""
