"""A stream of JetStream in the memory of the NATS servers: bounded in bytes and age, and gone when they are.

Speaks JetStream's API by plain requests, for one message brings all of a subject here (batched direct get), which
nats-py does not know. Knows nothing of what is kept. The gateway's journal uses it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from nats.aio.msg import Msg

from shared.bus.connection import Bus, Unreached
from shared.errors import BatonError, DeadlineExceeded, Unavailable
from shared.protocol.wire import Message, encode

API = "$JS.API"
ANSWER_TIMEOUT_S = 2.0
BATCH = 1024
NAME_IN_USE = 10058
# Not enabled, or not for this account; no memory for so large a stream; replicas where there is no cluster.
NOT_TO_BE_HAD = (10039, 10076, 10028, 10074)
WRONG_LAST_SEQUENCE = 10071
STATUS_HEADER = "Status"
SEQUENCE_HEADER = "Nats-Sequence"
SUBJECT_HEADER = "Nats-Subject"
PENDING_HEADER = "Nats-Num-Pending"
END_OF_BATCH = "204"
NOT_FOUND = "404"


class StreamLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Past `max_bytes` the oldest messages go, past `max_age_s` each one does. `replicas` servers hold a copy."""

    max_bytes: int
    max_age_s: float
    replicas: int = 1


class Stored(msgspec.Struct, frozen=True):
    """One message of the stream; `sequence` grows with time."""

    sequence: int
    subject: str
    data: bytes


class NoJetStream(Unavailable):
    """The NATS servers have no JetStream, or not for us, or no room for this stream: waiting does not help."""


class WrittenMeanwhile(BatonError):
    """The subject's last message is not the expected one: somebody else wrote first."""

    code = "written_meanwhile"


class _ApiError(msgspec.Struct, frozen=True):
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct, frozen=True):
    error: _ApiError | None = None
    created: str = ""
    seq: int = 0


class MemoryStream:
    """The stream `name` of everything under `root`."""

    def __init__(self, bus: Bus, name: str, root: str, limits: StreamLimits) -> None:
        self._bus = bus
        self._name = name
        self._root = root
        self._limits = limits

    async def ensure(self) -> str:
        """Create the stream unless it is there. Returns when it was created, which tells one from another.

        One with other limits is used as it is. Raises NoJetStream, Unavailable and DeadlineExceeded.
        """
        answer = await self._api(f"STREAM.CREATE.{self._name}", self._configuration())
        if answer.error is not None and answer.error.err_code == NAME_IN_USE:
            answer = await self._api(f"STREAM.INFO.{self._name}", b"")
        if answer.error is None:
            return answer.created
        kind = NoJetStream if answer.error.err_code in NOT_TO_BE_HAD else Unavailable
        raise kind(f"JetStream: {answer.error.description}")

    async def put(self, subject: str, message: Message, *, expect: int | None = None) -> int:
        """Keep `message`; returns its sequence once it is kept.

        With `expect`, only if the last message of `subject` has that sequence (0: there is none); else raises
        WrittenMeanwhile. Raises Unreached when there is no such stream, Unavailable when it says no.
        """
        headers = {"Nats-Expected-Stream": self._name}
        if expect is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(expect)
        answer = _read(await self._bus.ask(subject, encode(message), ANSWER_TIMEOUT_S, headers))
        if answer.error is None:
            return answer.seq
        if answer.error.err_code == WRONG_LAST_SEQUENCE:
            raise WrittenMeanwhile(answer.error.description)
        raise Unavailable(f"JetStream: {answer.error.description}")

    async def append(self, subject: str, message: Message) -> None:
        """Keep `message`, without waiting to hear that it is. Raises Unavailable and PayloadTooLarge."""
        await self._bus.publish(subject, encode(message))

    async def read(self, subject: str) -> list[Stored]:
        """All messages on `subject`, which may have wildcards, the oldest first.

        Raises Unreached when there is no such stream, Unavailable, DeadlineExceeded.
        """
        found: list[Stored] = []
        pending = True
        while pending:
            batch, pending = await self._batch(subject, found[-1].sequence + 1 if found else 1)
            found += batch
            pending = pending and bool(batch)
        return found

    async def _batch(self, subject: str, first: int) -> tuple[Sequence[Stored], bool]:
        """Messages from sequence `first` on, and whether there are more."""
        inbox = self._bus.inbox()
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        listening = await self._bus.listen_raw(inbox, arrived.put_nowait)
        ask = msgspec.json.encode({"batch": BATCH, "next_by_subj": subject, "seq": first})
        try:
            await self._bus.publish(f"{API}.DIRECT.GET.{self._name}", ask, reply=inbox)
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await _until_end(arrived)
        except TimeoutError:
            raise DeadlineExceeded("JetStream does not answer") from None
        finally:
            await listening.close()

    async def _api(self, call: str, body: bytes) -> _Answer:
        try:
            return _read(await self._bus.ask(f"{API}.{call}", body, ANSWER_TIMEOUT_S))
        except Unreached as error:
            if not self._bus.connected:
                raise
            raise NoJetStream("the NATS server has no JetStream") from error

    def _configuration(self) -> bytes:
        return msgspec.json.encode(
            {
                "name": self._name,
                "subjects": [f"{self._root}.>"],
                "storage": "memory",
                "retention": "limits",
                "discard": "old",
                "max_bytes": self._limits.max_bytes,
                "max_age": int(self._limits.max_age_s * 1e9),
                "num_replicas": self._limits.replicas,
                "allow_direct": True,
            }
        )


async def _until_end(arrived: asyncio.Queue[Msg]) -> tuple[list[Stored], bool]:
    found: list[Stored] = []
    while True:
        message = await arrived.get()
        headers = message.headers or {}
        status = headers.get(STATUS_HEADER)
        if status is None:
            found.append(Stored(int(headers[SEQUENCE_HEADER]), headers[SUBJECT_HEADER], message.data))
        elif status in (END_OF_BATCH, NOT_FOUND):
            return found, int(headers.get(PENDING_HEADER, 0)) > 0
        else:
            raise Unreached(f"JetStream: {headers.get('Description', status)}")


def _read(data: bytes) -> _Answer:
    try:
        return msgspec.json.decode(data, type=_Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Unavailable(f"JetStream: an answer that cannot be read: {error}") from error
