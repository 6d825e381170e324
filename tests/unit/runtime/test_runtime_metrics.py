"""The metrics port of a worker."""

from __future__ import annotations

import socket
import urllib.request

import pytest

from shared.errors import ConfigError
from shared.runtime import metrics


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_the_port_answers_while_served_and_is_free_after() -> None:
    steps = metrics.counter("metrics_test_steps", "Steps of this test")
    steps.inc(3)
    port = free_port()
    with (
        metrics.serve("127.0.0.1", port),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer,
    ):
        assert b"baton_metrics_test_steps_total 3.0" in answer.read()
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_taken_port_is_a_config_error() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with (
            pytest.raises(ConfigError, match="cannot serve metrics"),
            metrics.serve("127.0.0.1", sock.getsockname()[1]),
        ):
            pass


def test_port_0_serves_nothing() -> None:
    with metrics.serve("127.0.0.1", 0):
        pass
