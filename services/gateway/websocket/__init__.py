"""The WebSocket door: many generations on one socket."""
