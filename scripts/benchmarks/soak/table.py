"""The result as tables for a person and as one object for a program."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.soak.pauses import Pauses
from benchmarks.soak.rest import Rest
from benchmarks.soak.soak import Result

TROUBLES_SHOWN = 20


def show(result: Result, console: Console) -> None:
    """Print all of it."""
    console.print(_totals(result))
    console.print(_pauses(result.pauses, result.skipped))
    console.print(_memory(result.peak_rss_bytes))
    for trouble, count in result.tally.troubles.most_common(TROUBLES_SHOWN):
        console.print(f"{count:>5} x {trouble}", markup=False, soft_wrap=True)
    for line in (*_leaks(result.rest), *result.unasked_ends):
        console.print(line, markup=False, soft_wrap=True)
    for name, count in result.tracebacks.items():
        console.print(f"{count} tracebacks in the log of {name}", markup=False, soft_wrap=True)


def summary(result: Result, seed: int) -> dict[str, object]:
    """For `--json`."""
    return {
        "seed": seed,
        "duration_s": round(result.duration_s, 1),
        **{key: value for key, value in msgspec.to_builtins(result.tally).items() if key != "troubles"},
        "faults": sum(pauses.count for pauses in result.pauses.values()),
        "longest_pause_s": {kind: round(pauses.max_s, 2) for kind, pauses in result.pauses.items()},
        "leaked_bytes": result.rest.leaked_bytes,
        "sessions_left": sum(result.rest.sessions.values()),
        "subscriptions_left": sum(result.rest.subscriptions.values()),
        "missing": result.rest.missing,
        "unasked_ends": len(result.unasked_ends),
        "tracebacks": result.tracebacks.total(),
        "peak_rss_bytes": result.peak_rss_bytes,
    }


def _totals(result: Result) -> Table:
    tally = result.tally
    table = Table("what", "count", title=f"{result.duration_s:.0f} s of load and faults")
    table.columns[1].justify = "right"
    rows = {
        "requests": tally.requests,
        "answered to the end": tally.finished,
        "left by their client": tally.left,
        "failed": tally.failed,
        "tokens compared": tally.tokens,
        "tokens duplicated, missing or wrong": tally.token_errors,
        "refused with Retry-After, asked again": tally.refused,
        "resumed after a lost connection": tally.resumed,
        "lost with gateway or client's connection, asked again": tally.lost,
        "leaked bytes of KV memory": result.rest.leaked_bytes,
        "sessions left": sum(result.rest.sessions.values()),
        "subscriptions of sessions left": sum(result.rest.subscriptions.values()),
        "processes that ended unasked": len(result.unasked_ends),
        "tracebacks in logs": result.tracebacks.total(),
    }
    for what, count in rows.items():
        table.add_row(what, f"{count:,}")
    return table


def _pauses(pauses: Mapping[str, Pauses], skipped: Mapping[str, int]) -> Table:
    columns = ("fault", "times", "skipped", "p50", "p99", "max", "first token, max")
    table = Table(*columns, title="longest pause of any running stream after a fault, longest wait for a first token")
    for kind, one in pauses.items():
        seconds = (f"{value:.2f} s" for value in (one.p50_s, one.p99_s, one.max_s, one.first_s))
        table.add_row(kind, str(one.count), str(skipped.get(kind, 0)), *seconds)
    return table


def _memory(peak_rss_bytes: Mapping[str, int]) -> Table:
    table = Table("process", "peak RSS")
    for name, size_bytes in peak_rss_bytes.items():
        table.add_row(name, f"{size_bytes / (1 << 20):.0f} MiB")
    return table


def _leaks(rest: Rest) -> list[str]:
    lines = [f"{name} still has {count} sessions" for name, count in rest.sessions.items()]
    lines += [f"{name} still has {count} subscriptions of sessions" for name, count in rest.subscriptions.items()]
    return lines + [f"{name} is not ready" for name in rest.missing]
