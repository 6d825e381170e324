"""One NATS connection: publish, request, serve, listen. Errors of nats-py end here and become ours.

Callbacks of nats-py run one at a time per subscription, so nothing here waits inside one: listeners are plain
functions, requests are answered in tasks that the owner's `spawn` starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from shared.bus.client import SturdyClient, connect_options
from shared.bus.reply_errors import error_headers, raise_reply_error
from shared.bus.settings import BusSettings
from shared.errors import BatonError, DeadlineExceeded, PayloadTooLarge, Unavailable
from shared.protocol.wire import Message, decode, encode

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

PENDING_MESSAGES = 1 << 20
PENDING_BYTES = 256 << 20
HEADERS_BYTES = len(b"NATS/1.0\r\n\r\n")
HEADER_LINE_BYTES = len(b": \r\n")


class Spawn(Protocol):
    """Starts a task that its owner closes: `shared.runtime.tasks.Tasks.start`."""

    def __call__(self, coro: Coroutine[Any, Any, None], *, name: str) -> object: ...


Listener = Callable[[str, bytes], None]
Handler = Callable[[M], Awaitable[Message]]


class Unreached(Unavailable):
    """Nobody took the request, or the connection could not take it: nothing has come of it."""


class Listening:
    """A subscription. Whoever asked for it closes it."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    async def drain(self) -> None:
        """Take nothing new; return when what has arrived was handed to the listener."""
        with contextlib.suppress(nats.errors.Error, OSError):
            await self._subscription.drain()

    async def close(self) -> None:
        """Stop listening. Idempotent; does nothing once the connection is closed."""
        with contextlib.suppress(nats.errors.Error, OSError):
            await self._subscription.unsubscribe()


class Bus:
    """A NATS connection that reconnects for ever. Build it with `Bus.connect`, end it with `close`."""

    def __init__(self, client: SturdyClient, spawn: Spawn) -> None:
        self._client = client
        self._spawn = spawn
        self._closing = False

    @classmethod
    async def connect(
        cls,
        settings: BusSettings,
        *,
        name: str,
        spawn: Spawn,
        on_disconnect: Callable[[], None] = lambda: None,
        on_reconnect: Callable[[], None] = lambda: None,
        on_loss: Callable[[str], None] = lambda _reason: None,
    ) -> Bus:
        """Connect, waiting for a server as long as it takes.

        `on_loss` is told when messages may have been lost: a disconnect, or a subscription past its pending limit.
        Where the server ends the connection for good, as it does for a violation of its rules, a task fails.
        """
        client = SturdyClient()
        bus = cls(client, spawn)

        async def errored(error: Exception) -> None:
            logger.warning("NATS (%s): %s", name, str(error) or type(error).__name__)
            if isinstance(error, nats.errors.SlowConsumerError):
                on_loss(f"slow consumer on {error.subject}")
            _raise_swallowed_cancellation()

        async def disconnected() -> None:
            on_disconnect()
            on_loss("disconnected")

        async def reconnected() -> None:
            logger.info("NATS (%s): connected again", name)
            on_reconnect()

        async def closed() -> None:
            if not bus._closing:
                spawn(bus._ended(name), name="connection")

        await client.connect(
            **connect_options(settings),
            name=name,
            error_cb=errored,
            disconnected_cb=disconnected,
            reconnected_cb=reconnected,
            closed_cb=closed,
        )
        return bus

    async def _ended(self, name: str) -> None:
        raise Unavailable(f"NATS ({name}) ended the connection: {self._client.last_error}")

    @property
    def max_payload(self) -> int:
        """The server's limit on one message, in bytes."""
        return int(self._client.max_payload)

    @property
    def connected(self) -> bool:
        return bool(self._client.is_connected)

    @property
    def reconnects(self) -> int:
        """How often the connection was lost and is back."""
        return int(self._client.stats["reconnects"])

    def inbox(self) -> str:
        """A fresh subject nobody else listens on."""
        return str(self._client.new_inbox())

    async def publish(self, subject: str, data: bytes, headers: dict[str, str] | None = None, reply: str = "") -> None:
        """Raises PayloadTooLarge before anything is sent, and Unavailable when the connection is gone."""
        self._check_size("message", len(data) + _headers_bytes(headers))
        with _keeping_cancellation():
            try:
                await self._client.publish(subject, data, reply=reply, headers=headers)
            except (nats.errors.Error, OSError) as error:
                raise Unavailable(f"NATS: {error}") from error

    async def send(self, subject: str, message: Message) -> None:
        """`publish` of one message."""
        await self.publish(subject, encode(message))

    async def request(self, subject: str, message: Message, reply: type[M], timeout_s: float) -> M:
        """Ask one responder. Raises what it answered, Unreached for nobody, DeadlineExceeded for silence."""
        answer = await self._ask(subject, encode(message), timeout_s)
        raise_reply_error(answer.headers, answer.data)
        return decode(reply, answer.data)

    async def ask(self, subject: str, data: bytes, timeout_s: float, headers: dict[str, str] | None = None) -> bytes:
        """`request` of bytes, for what does not speak our protocol. Raises Unreached and DeadlineExceeded."""
        return bytes((await self._ask(subject, data, timeout_s, headers)).data)

    async def _ask(self, subject: str, data: bytes, timeout_s: float, headers: dict[str, str] | None = None) -> Msg:
        self._check_size("request", len(data) + _headers_bytes(headers))
        try:
            with _keeping_cancellation():
                return await self._client.request(subject, data, timeout=timeout_s, headers=headers)
        except nats.errors.NoRespondersError as error:
            raise Unreached(f"nobody answers on {subject}") from error
        except nats.errors.TimeoutError as error:
            raise DeadlineExceeded(f"no answer on {subject} within {timeout_s:.1f} s") from error
        except (nats.errors.Error, OSError) as error:
            raise Unreached(f"NATS: {error}") from error

    async def serve(self, subject: str, kind: type[M], handler: Handler[M], *, queue: str = "") -> Listening:
        """Answer requests: each in its own task. An error the handler raises is the answer.

        Another error than a BatonError is answered as internal and logged: one request must not end the process.
        """

        async def answer(msg: Msg) -> None:
            try:
                reply = encode(await handler(decode(kind, msg.data)))
            except BatonError as error:
                await self._refuse(msg, error)
            except Exception as error:
                logger.exception("answering on %s failed", subject)
                await self._refuse(msg, BatonError(f"{type(error).__name__}: {error}"))
            else:
                await self._respond(msg, reply)

        async def received(msg: Msg) -> None:
            self._spawn(answer(msg), name=f"serve {subject}")

        return await self._subscribe(subject, received, queue)

    async def _respond(self, msg: Msg, reply: bytes) -> None:
        try:
            if msg.reply:
                await self.publish(msg.reply, reply)
        except BatonError as error:
            await self._refuse(msg, error)

    async def _refuse(self, msg: Msg, error: BatonError) -> None:
        try:
            if msg.reply:
                await self.publish(msg.reply, error.info_bytes(), error_headers(error))
        except BatonError as unsent:
            logger.warning("could not answer on %s: %s", msg.subject, unsent)

    async def listen(self, subject: str, listener: Listener, *, queue: str = "") -> Listening:
        """Call `listener(subject, data)` for each message, in order. It must not block and must not raise."""

        async def received(msg: Msg) -> None:
            listener(msg.subject, msg.data)

        return await self._subscribe(subject, received, queue)

    async def listen_raw(self, subject: str, listener: Callable[[Msg], None], *, queue: str = "") -> Listening:
        """As `listen`, with the whole message: reply subject and headers."""

        async def received(msg: Msg) -> None:
            listener(msg)

        return await self._subscribe(subject, received, queue)

    async def _subscribe(self, subject: str, received: Callable[[Msg], Awaitable[None]], queue: str) -> Listening:
        try:
            subscription = await self._client.subscribe(
                subject,
                queue=queue,
                cb=received,
                pending_msgs_limit=PENDING_MESSAGES,
                pending_bytes_limit=PENDING_BYTES,
            )
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"NATS: {error}") from error
        return Listening(subscription)

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Wait until the server has seen all subscriptions and all that was published. Raises Unavailable."""
        try:
            await self._client.flush(timeout=timeout_s)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise Unavailable(f"NATS: {error}") from error
        if not self.connected:
            raise Unavailable("NATS: not connected")

    def redial(self, reason: str) -> None:
        """Give this connection up and make another, with any of the servers. Does nothing while there is none."""
        if self.connected:
            logger.warning("NATS: dialling anew: %s", reason)
            self._client.abort()

    async def close(self) -> None:
        """Send what is pending, if the server still listens, and disconnect. Idempotent."""
        self._closing = True
        if self._client.is_closed:
            return
        try:
            if self._client.is_connected:
                await self._client.flush(timeout=2)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            logger.debug("NATS flush at close: %s", error)
        await self._client.close()

    def _check_size(self, what: str, size_bytes: int) -> None:
        if size_bytes > self.max_payload:
            raise PayloadTooLarge(f"{what} of {size_bytes} bytes exceeds the NATS limit of {self.max_payload} bytes")


def _headers_bytes(headers: dict[str, str] | None) -> int:
    """What `headers` take of the limit on one message."""
    if headers is None:
        return 0
    lines = (len(key) + len(value.encode()) + HEADER_LINE_BYTES for key, value in headers.items())
    return HEADERS_BYTES + sum(lines)


def _raise_swallowed_cancellation() -> None:
    """A cancellation that meets a failing attempt to connect is lost in nats-py, which would go on for ever."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@contextlib.contextmanager
def _keeping_cancellation() -> Iterator[None]:
    """nats-py swallows a cancellation that finds it waiting for the socket: raise it again."""
    task = asyncio.current_task()
    asked_before = task.cancelling() if task is not None else 0
    try:
        yield
    finally:
        if task is not None and task.cancelling() > asked_before:
            raise asyncio.CancelledError
