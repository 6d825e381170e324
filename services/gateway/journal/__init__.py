"""The journal of resumable sessions, in JetStream: what a gateway must know to go on with a session of another one."""
