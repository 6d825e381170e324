"""The timeline of one generation as a small table: which worker ran which phase, and how long it took."""

from __future__ import annotations

from rich.table import Table

from shared.protocol.to_client import Finished, Timings


def timings_table(finished: Finished) -> Table:
    timings = finished.timings if isinstance(finished.timings, Timings) else Timings()
    table = Table("phase", "worker", "measure", "value")
    table.add_row("queue", "", "waited for a place", _ms(timings.queue_ms))
    table.add_row("prefill", timings.prefill_worker or "-", "waited its turn", _ms(timings.prefill_queue_ms))
    table.add_row("", "", _prompt(finished, timings), _ms(timings.prefill_ms))
    table.add_row("hand-off", "", "publish: last token computed, to all sent", _ms(timings.publish_ms))
    table.add_row("", "", "wire: until decode says it has all", _ms(timings.wire_ms))
    table.add_row("", "", "import, most of it during prefill", _ms(timings.import_ms))
    table.add_row("", "", f"{_cache(timings)}; visible", _ms(timings.handoff_ms))
    table.add_row("decode", timings.decode_worker or "-", "first step", _ms(timings.first_step_ms))
    table.add_row("", "", _rate(finished, timings), _ms(timings.itl_ms))
    table.add_row("client", "", "TTFT, time to first token", _ms(timings.ttft_ms))
    table.add_row("", "", "whole answer", _ms(timings.total_ms))
    return table


def _prompt(finished: Finished, timings: Timings) -> str:
    cached = f", {timings.cached_tokens} cached" if timings.cached_tokens else ""
    return f"{finished.usage.prompt_tokens} prompt tokens{cached}"


def _cache(timings: Timings) -> str:
    encoding = f", {timings.kv_encoding}" if timings.kv_encoding else ""
    return f"{_size(timings.kv_bytes)} of KV{encoding}"


def _rate(finished: Finished, timings: Timings) -> str:
    rate = f" ({1000 / timings.itl_ms:.0f} tokens/s)" if timings.itl_ms else ""
    return f"{finished.usage.completion_tokens} tokens{rate}; ITL"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return "?"
    return f"{size_bytes / 1024:.0f} KiB" if size_bytes < 1 << 20 else f"{size_bytes / (1 << 20):.1f} MiB"
