"""NATS as Baton uses it: one connection object, typed requests, liveness by beats. Knows no model and no session."""
