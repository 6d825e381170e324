"""`baton chat`: a terminal client of the gateway's WebSocket."""
