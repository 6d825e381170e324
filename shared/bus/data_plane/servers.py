"""Which NATS servers there are: those of the settings, and those the cluster has told of since."""

from __future__ import annotations

import random
from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

from shared.errors import ConfigError

DEFAULT_PORT = 4222


class Address(msgspec.Struct, frozen=True):
    """One server. `tls` insists on TLS; `tls_name` is whose certificate is expected. A user without a password is a
    token, as in every NATS client."""

    host: str
    port: int
    tls: bool
    tls_name: str
    user: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Servers:
    """The pool. Any may be chosen, so that a cluster that lost a node is not stormed in one place."""

    def __init__(self, urls: Iterable[str]) -> None:
        """Raises ConfigError."""
        self._pool = {str(address): address for address in map(read_address, urls)}
        if not self._pool:
            raise ConfigError("no NATS server is named")

    def choose(self) -> Address:
        return random.choice(list(self._pool.values()))

    def learn(self, urls: Iterable[str], teller: Address) -> None:
        """`teller` says that these `host:port` serve too. They want what it wants: TLS by its name, its user."""
        for url in urls:
            try:
                found = read_address(url)
            except ConfigError:
                continue
            address = msgspec.structs.replace(
                found, tls=teller.tls, tls_name=teller.tls_name, user=teller.user, password=teller.password
            )
            self._pool.setdefault(str(address), address)


def read_address(url: str) -> Address:
    """`[nats://|tls://][user[:password]@]host[:port]`. Raises ConfigError; the message names no password."""
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise ConfigError(f"a NATS url cannot be read: {error}") from error
    if parts.scheme not in ("nats", "tls") or not parts.hostname:
        raise ConfigError(f"a NATS url must be nats://host:port or tls://host:port, not {parts.scheme}://...")
    return Address(
        host=parts.hostname,
        port=port,
        tls=parts.scheme == "tls",
        tls_name=parts.hostname,
        user=parts.username,
        password=parts.password,
    )
