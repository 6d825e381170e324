"""The wire: every message and subject of Baton, one module per receiver. No I/O here."""
