"""One request through all services, against the same work done by an engine alone.

The services and the engine take turns, request by request, so that whatever else the machine does hits both. Each
request has another `cache_salt`: nothing is found in a prefix cache.
"""
