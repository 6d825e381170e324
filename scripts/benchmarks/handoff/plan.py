"""What is measured, and what a measurement says. Sent between the processes."""

from __future__ import annotations

import enum

import msgspec

from shared.core import KvLayout, ModelSpec

SPEC = ModelSpec(
    name="smollm2-135m",
    fingerprint="0123456789abcdef",
    vocab_size=49152,
    context_tokens=8192,
    eos_token_ids=(2,),
    layout=KvLayout(layers=30, kv_heads=3, head_dim=64, dtype="bfloat16"),
)
PROMPT_TOKENS = 1500
SLICE_TOKENS = 256
RAW_WINDOW_LIMIT_BYTES = 48 << 20
SESSION = "00112233445566778899aabbccddeeff"


class Way(enum.StrEnum):
    """How the bytes go. `INT8` goes as `BATON`, lossy; its speed counts bytes of the cache, not those on the wire."""

    RAW = "raw"
    NATS_PY = "nats-py"
    BATON = "baton"
    INT8 = "int8"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement: `lanes` transfers at once, `rounds` one after the other in each. Of `way` raw, their bytes.

    With `slice_s`, each slice of the prompt is computed that long before it may go, or its layers may, `by_layers`.
    """

    way: Way
    url: str
    chunk_bytes: int
    window_bytes: int
    lanes: int = 1
    rounds: int = 1
    slice_s: float = 0.0
    by_layers: bool = True
    busy_receiver: bool = False

    @property
    def raw_window_bytes(self) -> int:
        """As much credit as all transfers at once have together, up to what the server would cut the connection for."""
        return min(self.lanes * self.window_bytes, RAW_WINDOW_LIMIT_BYTES)

    @property
    def transfers(self) -> int:
        return self.lanes * self.rounds

    @property
    def transfer_bytes(self) -> int:
        return PROMPT_TOKENS * SPEC.layout.token_bytes

    @property
    def payload_bytes(self) -> int:
        return self.transfers * self.transfer_bytes


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """What one side saw, on the clock both sides share.

    `computed_s`: when the last slice of each transfer was computed; `ready_s`: when each could be decoded. `digests`
    are of each lane's cache.
    """

    started_s: float = 0.0
    ended_s: float = 0.0
    cpu_s: float = 0.0
    computed_s: tuple[float, ...] = ()
    ready_s: tuple[float, ...] = ()
    digests: tuple[int, ...] = ()
