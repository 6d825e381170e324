"""What is left when nobody asks any more: it must be nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from benchmarks.soak.ears import held
from benchmarks.soak.fleet import Fleet

REST_WITHIN_S = 40.0
OF_A_SESSION = ("baton.v1.kv.", "baton.v1.kvback.")
TRACEBACK = "Traceback (most recent call last)"


class Rest(msgspec.Struct, frozen=True, kw_only=True):
    """`missing` are processes that are not ready, `subscriptions` those of sessions at the NATS server."""

    leaked_bytes: int
    sessions: dict[str, int]
    missing: list[str]
    subscriptions: dict[str, int]

    @property
    def clean(self) -> bool:
        return not (self.leaked_bytes or self.sessions or self.missing or self.subscriptions)


async def rest_of(fleet: Fleet) -> Rest:
    """Wait until nothing is left, but not for ever, and say what is."""
    try:
        async with asyncio.timeout(REST_WITHIN_S):
            await fleet.ears.until(lambda: _quiet(fleet))
    except TimeoutError:
        pass
    beats = {name: fleet.ears.beat(name) for name in fleet.services}
    return Rest(
        leaked_bytes=sum(map(held, beats.values())),
        sessions={name: beat.sessions for name, beat in beats.items() if beat.sessions},
        missing=[name for name in fleet.services if not fleet.ready(name)],
        subscriptions=await _session_subscriptions(fleet.monitor_url),
    )


def tracebacks(log_dir: Path) -> Counter[str]:
    """How many each log has, by name."""
    logs = {file.stem: file.read_text(errors="replace").count(TRACEBACK) for file in log_dir.glob("*.log")}
    return Counter({name: count for name, count in logs.items() if count})


def _quiet(fleet: Fleet) -> bool:
    if not all(fleet.ready(name) for name in fleet.services):
        return False
    beats = [fleet.ears.beat(name) for name in fleet.services]
    return not any(held(beat) or beat.sessions for beat in beats)


async def _session_subscriptions(monitor_url: str) -> dict[str, int]:
    """By the name of the connection."""
    async with aiohttp.ClientSession() as http, http.get(f"{monitor_url}/connz?subs=true&limit=1000") as answer:
        connections: list[dict[str, Any]] = (await answer.json(content_type=None))["connections"]
    counts = {one.get("name", ""): sum(map(_is_of_a_session, one.get("subscriptions_list", ()))) for one in connections}
    return {name: count for name, count in counts.items() if count}


def _is_of_a_session(subject: str) -> bool:
    return subject.startswith(OF_A_SESSION)
