"""A NATS server as many have it: without JetStream."""

from __future__ import annotations

from bus_servers import RestartableServer

from services.local import nats_server


class ServerWithoutJetStream(RestartableServer):
    def configure(self, port: int) -> list[str]:
        configuration = self._folder / "nats-server.conf"
        configuration.write_text(f"host: 127.0.0.1\nport: {port}\n", encoding="utf-8")
        return [str(nats_server.find_program()), "--config", str(configuration)]
