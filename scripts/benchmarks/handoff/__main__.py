"""`scripts/bench handoff`: measures, prints tables, and with `--json` one object as the last line."""

from __future__ import annotations

import argparse
import json
import statistics

from benchmarks.handoff.bench import CHUNK_BYTES, LANES, Bench, Measured
from benchmarks.handoff.plan import PROMPT_TOKENS, Way
from services.decode.settings import DecodeSettings

WINDOW_BYTES = DecodeSettings(id="bench").window_bytes
SWEPT_CHUNK_BYTES = sorted({CHUNK_BYTES, *(1 << exponent for exponent in range(16, 23))})


def main() -> None:
    arguments = _arguments()
    with Bench(arguments.window_bytes) as bench:
        _print_head()
        speeds = []
        for chunk_bytes in (CHUNK_BYTES,) if arguments.quick else SWEPT_CHUNK_BYTES:
            for lanes in LANES:
                speeds.append(bench.speeds(chunk_bytes, lanes, arguments.repeats))
                _print_speeds(speeds[-1])
        visible_ms = bench.visible_ms(arguments.prompts)
        _print_visible("decode idle", visible_ms)
        _print_visible("the same, by whole slices", bench.visible_ms(arguments.prompts, by_layers=False))
        busy_ms = bench.visible_ms(arguments.prompts, busy_receiver=True)
        _print_visible("decode stepping for others", busy_ms)
    if arguments.json:
        product = next(one for one in speeds if one.chunk_bytes == CHUNK_BYTES)
        print(json.dumps(_summary(product, visible_ms, busy_ms)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench handoff", description="The hand-off against raw sockets.")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--quick", action="store_true", help="only the chunk size the product uses")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each way (default: 7)")
    parser.add_argument("--prompts", type=int, default=10, help="prompts for the visible part (default: 10)")
    parser.add_argument("--window-bytes", type=int, default=WINDOW_BYTES, help="credit per transfer")
    return parser.parse_args()


def _print_head() -> None:
    print("payload in GB/s as median (min to max); CPU seconds per GB of sender + receiver + server, median")
    columns = " ".join(f"{name:>19}" for name in ("raw", "nats-py", "baton", "baton int8", "baton/raw"))
    print(f"{'chunk':>9} {'at once':>7} {columns}  CPU raw / baton / int8")


def _print_speeds(one: Measured) -> None:
    columns = [_spread(one.gb_per_s[way]) if way in one.gb_per_s else "-" for way in Way]
    counted = [way for way in (Way.RAW, Way.BATON, Way.INT8) if way in one.cpu_s_per_gb]
    cpu = " / ".join("+".join(f"{part:.2f}" for part in one.cpu_s_per_gb[way]) for way in counted)
    row = " ".join(f"{column:>19}" for column in (*columns, _spread(one.ratios(Way.BATON))))
    print(f"{one.chunk_bytes >> 10:>5} KiB {one.lanes:>7} {row}  {cpu}", flush=True)


def _print_visible(what: str, milliseconds: list[float]) -> None:
    spread = f"median {statistics.median(milliseconds):.1f}, min {min(milliseconds):.1f}, max {max(milliseconds):.1f}"
    print(f"visible hand-off of {PROMPT_TOKENS} tokens in ms, {what}: {spread}, of {len(milliseconds)} prompts")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _summary(product: Measured, visible_ms: list[float], busy_ms: list[float]) -> dict[str, object]:
    """`product`: one transfer at a time, with the chunk size the product uses."""
    return {
        "handoff_over_raw": round(statistics.median(product.ratios(Way.BATON)), 3),
        "visible_ms": round(statistics.median(visible_ms), 2),
        "visible_ms_max": round(max(visible_ms), 2),
        "visible_busy_ms": round(statistics.median(busy_ms), 2),
        "nats_py_over_raw": round(statistics.median(product.ratios(Way.NATS_PY)), 3),
        "chunk_bytes": product.chunk_bytes,
        "window_bytes": product.window_bytes,
        "gb_per_s": {way.value: round(statistics.median(product.gb_per_s[way]), 3) for way in Way},
    }


if __name__ == "__main__":
    main()
