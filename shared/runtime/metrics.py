"""Prometheus metrics of a process: one registry, names that start with `baton_`, buckets that suit LLM serving.

Modules define their metrics once, at import, with the functions here. The gateway answers /metrics with `exposition`;
other processes open a port of their own with `serve` when their settings ask for one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    start_http_server,
)

from shared.errors import ConfigError

TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 20, 40, 80)
PREFILL_BUCKETS_S = TTFT_BUCKETS_S
QUEUE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
HANDOFF_BUCKETS_S = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
ITL_BUCKETS_S = (0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5)
REQUEST_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 600)
LOOP_LAG_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5)
TOKENS_BUCKETS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)

CONTENT_TYPE: str = CONTENT_TYPE_LATEST


def counter(name: str, doc: str, labels: Sequence[str] = ()) -> Counter:
    """A counter `baton_<name>_total`."""
    return Counter(f"baton_{name}", doc, labels)


def gauge(name: str, doc: str, labels: Sequence[str] = ()) -> Gauge:
    """A gauge `baton_<name>`."""
    return Gauge(f"baton_{name}", doc, labels)


def histogram(name: str, doc: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
    """A histogram `baton_<name>`; the unit stands in the name: `ttft_seconds`, `prompt_tokens`."""
    return Histogram(f"baton_{name}", doc, labels, buckets=buckets)


def exposition() -> bytes:
    """All metrics of this process in the Prometheus text format, `CONTENT_TYPE`."""
    return bytes(generate_latest(REGISTRY))


@contextlib.contextmanager
def serve(host: str, port: int) -> Iterator[None]:
    """Answer scrapes on `host:port` from a thread while the context lasts; port 0: not at all. Raises ConfigError."""
    if port == 0:
        yield
        return
    try:
        server, thread = start_http_server(port, addr=host)
    except OSError as error:
        raise ConfigError(f"cannot serve metrics on {host}:{port}: {error}", param="metrics_port") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
