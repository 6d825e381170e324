"""`scripts/soak`: random faults on real processes under steady load, every stream compared token by token."""
