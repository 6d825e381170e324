"""A whole Baton on one machine: an embedded NATS and the four services as supervised child processes."""
