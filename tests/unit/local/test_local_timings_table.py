"""The table of one generation's timeline."""

from __future__ import annotations

import io

from rich.console import Console

from services.local.timings_table import timings_table
from shared.core import FinishReason
from shared.protocol.to_client import Finished, Timings, Usage


def rendered(timings: Timings) -> str:
    finished = Finished(finish_reason=FinishReason.STOP, usage=Usage(40, 20, 60), timings=timings)
    console = Console(file=io.StringIO(), width=100)
    console.print(timings_table(finished))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_it_names_workers_times_and_bytes() -> None:
    text = rendered(
        Timings(
            prefill_worker="prefill-0",
            decode_worker="decode-1",
            queue_ms=1.0,
            prefill_ms=50.25,
            prefill_queue_ms=2.5,
            publish_ms=3.25,
            wire_ms=3.75,
            import_ms=11.5,
            first_step_ms=19.5,
            kv_encoding="int8 (lossy)",
            handoff_ms=7.0,
            kv_bytes=900 << 10,
            ttft_ms=60.0,
            itl_ms=20.0,
            total_ms=460.0,
        )
    )
    for part in ("prefill-0", "decode-1", "50.2 ms", "900 KiB", "50 tokens/s", "60.0 ms", "460.0 ms", "40 prompt"):
        assert part in text
    for part in ("2.5 ms", "3.2 ms", "3.8 ms", "11.5 ms", "19.5 ms", "int8 (lossy)"):
        assert part in text


def test_what_is_not_known_is_a_dash() -> None:
    assert "│ -" in rendered(Timings())
