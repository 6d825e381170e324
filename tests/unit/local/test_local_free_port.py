"""A port that can be listened on."""

from __future__ import annotations

import socket

from services.local.free_port import port_or_free


def test_a_free_port_is_kept_and_a_taken_one_replaced() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        other = port_or_free("127.0.0.1", taken)
        assert other != taken
    assert port_or_free("127.0.0.1", taken) == taken
