"""One sequence for one client of the WebSocket or of NATS: parameters in, events out."""
