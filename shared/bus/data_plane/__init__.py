"""A narrow NATS client for bulk: CONNECT, PING, SUB, UNSUB, PUB and MSG, and few copies.

`connection.DataPlane` is the way in; everything else is its parts. The control connection is `shared.bus.connection`.
"""
