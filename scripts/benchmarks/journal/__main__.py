"""`scripts/bench journal`: measures, prints a table, and with `--json` one object as the last line."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics

import msgspec

from benchmarks.journal.load import Load, run
from benchmarks.journal.stack import Stack, running


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One round. CPU in ms per 1,000 tokens."""

    itl_p50_ms: float
    itl_p99_ms: float
    gateway_cpu_ms: float
    nats_cpu_ms: float


COLUMNS = Measured.__struct_fields__


def main() -> None:
    arguments = _arguments()
    load = Load(streams=arguments.streams, tokens=arguments.tokens)
    rounds: dict[bool, list[Measured]] = {False: [], True: []}
    with running(arguments.step_ms / 1000) as stack:
        asyncio.run(run(stack.url, load, resumable=True))
        for _ in range(arguments.rounds):
            for resumable in (False, True):
                rounds[resumable].append(_measure(stack, load, resumable))
    print(f"{load.streams} streams of {load.tokens} tokens, a step of {arguments.step_ms:g} ms; medians of rounds")
    print(f"{'':>10} " + " ".join(f"{name:>15}" for name in COLUMNS))
    for resumable, name in ((False, "plain"), (True, "resumable")):
        print(f"{name:>10} " + " ".join(f"{_median(rounds[resumable], column):>15.2f}" for column in COLUMNS))
    ratios = {column: _ratio(rounds, column) for column in COLUMNS}
    print(f"{'ratio':>10} " + " ".join(f"{ratios[column]:>15.3f}" for column in COLUMNS))
    if arguments.json:
        print(json.dumps({f"{column}_ratio": round(ratio, 3) for column, ratio in ratios.items()}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench journal", description="What resumable requests cost.")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--streams", type=int, default=16, help="at once (default: 16)")
    parser.add_argument("--tokens", type=int, default=200, help="of each stream (default: 200)")
    parser.add_argument("--step-ms", type=float, default=20.0, help="of the fake engine (default: 20)")
    parser.add_argument("--rounds", type=int, default=7, help="of each kind (default: 7)")
    return parser.parse_args()


def _measure(stack: Stack, load: Load, resumable: bool) -> Measured:
    before = stack.cpu_s()
    gaps_s = sorted(asyncio.run(run(stack.url, load, resumable=resumable)))
    gateway_s, nats_s = (after - earlier for after, earlier in zip(stack.cpu_s(), before, strict=True))
    thousands = load.streams * load.tokens / 1000
    return Measured(
        itl_p50_ms=1000 * statistics.median(gaps_s),
        itl_p99_ms=1000 * gaps_s[int(len(gaps_s) * 0.99)],
        gateway_cpu_ms=1000 * gateway_s / thousands,
        nats_cpu_ms=1000 * nats_s / thousands,
    )


def _median(rounds: list[Measured], column: str) -> float:
    return statistics.median(getattr(one, column) for one in rounds)


def _ratio(rounds: dict[bool, list[Measured]], column: str) -> float:
    """Median of the ratios of neighbours."""
    pairs = zip(rounds[True], rounds[False], strict=True)
    return statistics.median(getattr(with_it, column) / getattr(without, column) for with_it, without in pairs)


if __name__ == "__main__":
    main()
