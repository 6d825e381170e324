"""Addresses as people write them, and servers a cluster tells of."""

from __future__ import annotations

import pytest

from shared.bus.data_plane.servers import Address, Servers, read_address
from shared.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("nats://127.0.0.1:4333", Address("127.0.0.1", 4333, False, "127.0.0.1")),
        ("example.org", Address("example.org", 4222, False, "example.org")),
        ("example.org:1", Address("example.org", 1, False, "example.org")),
        ("tls://example.org", Address("example.org", 4222, True, "example.org")),
        ("nats://user:word@example.org", Address("example.org", 4222, False, "example.org", "user", "word")),
        ("nats://token@example.org:5", Address("example.org", 5, False, "example.org", "token")),
        ("nats://[::1]:4222", Address("::1", 4222, False, "::1")),
    ],
)
def test_a_url_is_read(url: str, expected: Address) -> None:
    assert read_address(url) == expected


@pytest.mark.parametrize(
    "url", ["", "http://a", "ws://a:1", "nats://", "nats://a:port", "nats://a:99999", "nats://[::1"]
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Servers([url])


def test_no_server_at_all_is_refused() -> None:
    with pytest.raises(ConfigError):
        Servers([])


def test_a_refusal_tells_no_password() -> None:
    with pytest.raises(ConfigError) as refused:
        read_address("http://user:secret@a")
    assert "secret" not in str(refused.value)


def test_servers_of_the_cluster_are_chosen_too_and_get_what_the_teller_got() -> None:
    servers = Servers(["tls://user:secret@known:1"])
    teller = servers.choose()
    servers.learn(["known:1", "10.0.0.2:2", "nonsense:port", "[::1"], teller)
    chosen = {servers.choose() for _ in range(200)}
    other = Address(host="10.0.0.2", port=2, tls=True, tls_name="known", user="user", password="secret")
    assert chosen == {teller, other}
