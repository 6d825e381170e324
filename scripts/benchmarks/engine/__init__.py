"""The engine against its floor: what the matrix products alone would take, measured in the same run."""
