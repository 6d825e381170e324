"""How to reach NATS. Read by the settings layer, passed down to `Bus.connect`."""

from __future__ import annotations

import msgspec


class BusSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`url` may name several servers, comma-separated. Files are paths; an empty string means none."""

    url: str = "nats://127.0.0.1:4222"
    credentials_file: str = ""
    nkey_seed_file: str = ""
    token: str = ""
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    ping_interval_s: int = 5
    reconnect_wait_s: float = 0.25

    @property
    def servers(self) -> list[str]:
        return [server.strip() for server in self.url.split(",") if server.strip()]
