"""`scripts/soak`: runs, prints tables, and with `--json` one object as the last line. Exit code 1: something was wrong.

Ctrl-C ends the load; what was asked is still answered and shown. A second one ends everything at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from benchmarks.soak.plan import KINDS, Plan
from benchmarks.soak.soak import Result, Soak
from benchmarks.soak.table import show, summary
from shared.models.catalogue import DEFAULT_MODEL
from shared.models.store import resolve
from shared.runtime import logging
from shared.runtime.process_settings import EngineKind, LogFormat, LogLevel
from shared.runtime.settings import cache_folder, process_environment

RATE_PER_S = {EngineKind.FAKE: 4.0, EngineKind.TORCH: 1.0}
FAULT_EVERY_S = {EngineKind.FAKE: 4.0, EngineKind.TORCH: 8.0}


def main() -> int:
    arguments = _arguments()
    plan = _plan(arguments)
    environ = process_environment()
    logging.configure("soak", LogLevel.ERROR, LogFormat.KEY_VALUE, environ)
    model = resolve(DEFAULT_MODEL, cache_folder(environ.get("BATON_CACHE_DIR", ""))).path
    console = Console(file=sys.stdout, width=110)
    _say(f"soak of {plan.duration_s / 60:g} min, {plan.engine} engine, --seed {plan.seed}")
    with ExitStack() as stack:
        folder = _empty(arguments.log_dir or stack.enter_context(tempfile.TemporaryDirectory(prefix="baton-soak-")))
        result = asyncio.run(_run(plan, model, folder, environ))
    show(result, console)
    if arguments.json:
        print(json.dumps(summary(result, plan.seed)))
    return 0 if result.good else 1


async def _run(plan: Plan, model: Path, log_dir: Path, environ: Mapping[str, str]) -> Result:
    soak = Soak(plan, model, log_dir, environ, _say)
    loop = asyncio.get_running_loop()
    running = asyncio.current_task()
    assert running is not None

    def interrupted() -> None:
        loop.add_signal_handler(signal.SIGINT, running.cancel)
        _say("no more requests; what was asked is still answered; Ctrl-C again ends it at once")
        soak.cut_short()

    loop.add_signal_handler(signal.SIGINT, interrupted)
    loop.add_signal_handler(signal.SIGTERM, running.cancel)
    return await soak.run()


def _say(text: str) -> None:
    """Progress; stdout is for the result."""
    print(text, file=sys.stderr, flush=True)


def _empty(folder: str) -> Path:
    """`folder`, without the logs of an earlier run."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    for log in path.glob("*.log"):
        log.unlink()
    return path


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=str(__doc__).splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="how long load and faults last (default: 1)")
    parser.add_argument("--seed", type=int, help="of requests and faults (default: a random one, which is printed)")
    parser.add_argument("--engine", type=EngineKind, choices=list(EngineKind), default=EngineKind.FAKE)
    parser.add_argument("--rate", type=float, help="requests per second (default: 4; with the real model 1)")
    parser.add_argument("--fault-every", type=float, help="mean seconds between faults (default: 4; real model 8)")
    parser.add_argument("--faults", default="", help=f"only these, comma-separated, of: {', '.join(KINDS)}")
    parser.add_argument("--log-dir", default="", help="keep the processes' logs there")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    unknown = set(filter(None, arguments.faults.split(","))) - KINDS.keys()
    if unknown:
        parser.error(f"no such faults: {', '.join(sorted(unknown))}")
    return arguments


def _plan(arguments: argparse.Namespace) -> Plan:
    kinds = tuple(filter(None, arguments.faults.split(","))) or tuple(KINDS)
    return Plan(
        duration_s=60 * arguments.minutes,
        seed=random.SystemRandom().randrange(1 << 31) if arguments.seed is None else arguments.seed,
        engine=arguments.engine,
        rate_per_s=arguments.rate or RATE_PER_S[arguments.engine],
        fault_every_s=arguments.fault_every or FAULT_EVERY_S[arguments.engine],
        kinds=kinds,
    )


if __name__ == "__main__":
    sys.exit(main())
