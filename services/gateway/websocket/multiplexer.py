"""The generations of one socket: starts, cancels and answers by the client's ids. No I/O.

Knows messages and the outbox, not the socket. The socket's reader calls it.
"""

from __future__ import annotations

from functools import partial

from services.gateway.generation import Generator
from services.gateway.requests import RequestBuilder
from services.gateway.sequence.run import SequenceRun
from services.gateway.websocket.lane import Lane
from services.gateway.websocket.outbox import Outbox
from shared.errors import Draining, InvalidRequest, Overloaded
from shared.protocol.from_client import Cancel, Generate, Ping, Resume, SocketMessage
from shared.protocol.to_client import Pong
from shared.runtime.tasks import Tasks


class Multiplexer:
    """Each generation runs in a task of `tasks`, whose owner closes them with the socket."""

    def __init__(
        self,
        generator: Generator,
        builder: RequestBuilder,
        outbox: Outbox,
        tasks: Tasks,
        *,
        generation_limit: int,
        request_id: str,
    ) -> None:
        self._generator = generator
        self._builder = builder
        self._outbox = outbox
        self._tasks = tasks
        self._generation_limit = generation_limit
        self._request_id = request_id
        self._started = 0
        self._runs: dict[str, SequenceRun] = {}
        self.draining = False

    def receive(self, message: SocketMessage) -> None:
        """Do what `message` says. Raises InvalidRequest, Overloaded and Draining for a generation that cannot start."""
        match message:
            case Generate() | Resume():
                self._start(message)
            case Cancel():
                if message.id in self._runs:
                    self._runs[message.id].cancel()
            case Ping():
                self._outbox.notice(Pong())

    def _start(self, message: Generate | Resume) -> None:
        if self.draining:
            raise Draining("this gateway is shutting down, connect again")
        if message.id in self._outbox:
            raise InvalidRequest(f"a generation {message.id!r} is active on this socket", param="id")
        if len(self._outbox) >= self._generation_limit:
            raise Overloaded(f"{self._generation_limit} generations are active on this socket")
        request_id = f"{self._request_id}-{self._started}"
        self._started += 1
        lane = self._outbox.open(message.id)
        run = SequenceRun(self._generator, self._builder, partial(self._outbox.put, lane), request_id=request_id)
        self._runs[message.id] = run
        self._tasks.start(self._run(run, lane, message), name=f"generation {request_id}")

    async def _run(self, run: SequenceRun, lane: Lane, message: Generate | Resume) -> None:
        try:
            if isinstance(message, Resume):
                await run.resume(message)
            else:
                await run.run(message.params)
        finally:
            if self._runs.get(lane.name) is run:
                del self._runs[lane.name]
