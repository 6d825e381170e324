"""The events of a generation, the same on the WebSocket and on NATS, told to a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.soak.ends import Failed, ended_by
from benchmarks.soak.record import Record


def take_event(event: Mapping[str, Any], record: Record, *, left: bool, resumable: bool) -> bool:
    """Whether `event` was the last. `left`: the client asked for the end. Raises Refused, Failed and Hopped."""
    match event["type"]:
        case "started":
            record.session = event["session"]
        case "delta":
            record.take(event["token_ids"], event["index"])
            record.hop()
        case "finished" if event["finish_reason"] != "cancelled":
            record.finish()
            return True
        case "finished":
            if not left:
                raise Failed("cancelled by nobody")
            return True
        case "error":
            raise ended_by(
                event["code"], event["message"], event.get("retry_after_ms"), begun=record.begun and not resumable
            )
    return False
