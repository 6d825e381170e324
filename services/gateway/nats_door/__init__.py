"""The NATS door: `baton.v1.generate`, answered into the requester's inbox."""
