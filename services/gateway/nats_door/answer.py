"""The answer to one NATS request: messages to its inbox, the last of which is the end.

Knows the inbox and the bus, not how text is generated. The door makes one per request.

Every message has a reply subject of the door's own. Where nobody subscribes to the inbox any more, the NATS server
says so there ("no responders"), and the door ends the generation.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
from msgspec import UNSET, UnsetType

from shared.bus.connection import Bus
from shared.bus.reply_errors import ERROR_HEADER
from shared.protocol.to_client import EVENT_HEADER, Event, Failed, Started, Waiting, event_name

_ENCODER = msgspec.msgpack.Encoder()


class Answer:
    """A stream of events to `inbox`.

    `no_responders` is where the NATS server reports that nobody is there; a message to `cancel_subject` ends it.
    """

    def __init__(
        self,
        bus: Bus,
        inbox: str,
        no_responders: str,
        cancel_subject: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bus = bus
        self._inbox = inbox
        self._no_responders = no_responders
        self._cancel_subject = cancel_subject
        self._clock = clock
        self._session: str | UnsetType = UNSET
        self._n = 0
        self._published_at_s = clock()

    async def begin(self) -> None:
        """The request was admitted, and its sender surely listens."""

    async def put(self, event: Event) -> None:
        """Publish `event`. Raises Unavailable and PayloadTooLarge."""
        if isinstance(event, Started):
            self._session = event.session
            event = msgspec.structs.replace(event, cancel_subject=self._cancel_subject)
        await self._publish(event)

    async def probe(self, interval_s: float) -> None:
        """Make the server look whether anyone listens, if the last message is older than `interval_s`."""
        if self._clock() - self._published_at_s >= interval_s:
            await self._publish(Waiting())

    def is_gone(self, _probe: str) -> bool:
        """Whether the server's report means that the requester is gone. Here it does, always."""
        return True

    async def _publish(self, event: Event) -> None:
        body = _ENCODER.encode(msgspec.structs.replace(event, session=self._session, n=self._n))
        headers = {EVENT_HEADER: event_name(event)}
        if isinstance(event, Failed):
            headers[ERROR_HEADER] = event.code
        self._n += 1
        self._published_at_s = self._clock()
        await self._bus.publish(self._inbox, body, headers, reply=self._no_responders)


class WholeAnswer(Answer):
    """One message to `inbox` and no other, so that any library's plain `request()` can ask.

    Probes therefore go to `beside`, a subject beside the inbox, which a client hears if all its requests share one
    subscription, and ignores. Where the first probe, sent while the requester surely listens, finds nobody, the
    client has no such subscription: probing would say nothing and stops.
    """

    def __init__(
        self,
        bus: Bus,
        inbox: str,
        no_responders: str,
        cancel_subject: str,
        *,
        beside: str | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(bus, inbox, no_responders, cancel_subject, clock=clock)
        self._beside = beside
        self._probes = 0
        self._probed_at_s = clock()

    async def begin(self) -> None:
        await self._probe_beside()

    async def put(self, event: Event) -> None:
        if isinstance(event, Started):
            self._session = event.session
        else:
            await self._publish(event)

    async def probe(self, interval_s: float) -> None:
        if self._clock() - self._probed_at_s >= interval_s:
            await self._probe_beside()

    def is_gone(self, probe: str) -> bool:
        if probe == "0":
            self._beside = None
            return False
        return True

    async def _probe_beside(self) -> None:
        if self._beside is None:
            return
        reply = f"{self._no_responders}.{self._probes}"
        self._probes += 1
        self._probed_at_s = self._clock()
        await self._bus.publish(self._beside, b"", reply=reply)
