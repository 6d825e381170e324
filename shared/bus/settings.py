"""How to reach NATS. Read by the settings layer, passed down to `Bus.connect`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class BusSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Files are paths; an empty string means none."""

    url: Annotated[str, Meta(description="NATS servers, comma-separated")] = "nats://127.0.0.1:4222"
    credentials_file: Annotated[str, Meta(description="file with a NATS user JWT and seed")] = ""
    nkey_seed_file: Annotated[str, Meta(description="file with an NKey seed")] = ""
    token: Annotated[str, Meta(description="NATS token; better set as BATON_NATS_TOKEN")] = ""
    tls_ca_file: Annotated[str, Meta(description="certificate authority of the NATS servers; turns TLS on")] = ""
    tls_cert_file: Annotated[str, Meta(description="client certificate for NATS")] = ""
    tls_key_file: Annotated[str, Meta(description="key of the client certificate")] = ""
    ping_interval_s: Annotated[int, Meta(ge=1, description="time between two pings to the NATS server")] = 5
    reconnect_wait_s: Annotated[float, Meta(gt=0, description="pause before a reconnect, give or take half")] = 0.25

    @property
    def servers(self) -> list[str]:
        return [server.strip() for server in self.url.split(",") if server.strip()]
