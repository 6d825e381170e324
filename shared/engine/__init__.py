"""The engine: a model, its KV memory and its sampler. Knows nothing of NATS, sessions' clients or HTTP."""
