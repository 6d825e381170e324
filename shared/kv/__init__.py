"""The hand-off: cutting a cache into chunks, sending them under credit, receiving them into their place."""
