"""How fast a KV cache goes from one process's memory into another's, through a real nats-server.

Three ways in the same run, one after the other and around again, so that a busy machine is busy for all of them:

- raw: two processes move bytes through the server with as little as a socket needs. What the bus can do at best.
- nats-py: the hand-off over the control connection's client.
- baton: the hand-off as workers do it.

The last two include everything: export, checksums, chunks, credit, import; and what was imported is compared.
"""
