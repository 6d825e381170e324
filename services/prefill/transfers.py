"""The hand-offs of a prefill worker: each run's sender, the task that drives it, and decode's feedback to it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from services.prefill.handoff import HandoffBus
from services.prefill.held import Held, HeldRuns
from services.prefill.run import PrefillRun
from shared.core import KvEncoding
from shared.engine.contract import Engine
from shared.errors import BatonError, HandoffFailed, ProtocolError
from shared.kv.encoding import named
from shared.kv.int8 import Int8Codec
from shared.kv.sender import Sender, TransferTarget
from shared.protocol import subjects
from shared.protocol.kv_chunk import HEADER_BYTES
from shared.protocol.to_prefill import Feedback
from shared.protocol.wire import decode
from shared.runtime import stages
from shared.runtime.stages import Stage
from shared.runtime.tasks import Tasks
from shared.runtime.worker_links import WorkerLinks

logger = logging.getLogger(__name__)


class Transfers:
    """`chunk_bytes` is the largest KV chunk that is sent; `encodings` are how cells may go."""

    def __init__(
        self,
        engine: Engine,
        held: HeldRuns,
        links: WorkerLinks,
        tasks: Tasks,
        *,
        chunk_bytes: int,
        encodings: tuple[KvEncoding, ...],
        int8: Int8Codec,
    ) -> None:
        self._engine = engine
        self._held = held
        self._links = links
        self._tasks = tasks
        self._chunk_bytes = chunk_bytes
        self._encodings = encodings
        self._int8 = int8

    def sender(self, run: PrefillRun) -> Sender:
        """What sends the cache of `run` to the decode worker that claimed it."""
        order = run.order
        wanted = named(order.kv_encoding)
        target = TransferTarget(
            session=order.session,
            epoch=order.epoch,
            transfer=order.transfer,
            credit_bytes=order.credit_bytes,
            prompt_tokens=run.prompt_tokens,
            cached_tokens=order.cached_tokens,
            chunk_bytes=self._fitting_chunk_bytes(order.credit_bytes),
            encoding=wanted if wanted in self._encodings else KvEncoding.EXACT,
        )
        bus = HandoffBus(self._links.kv, order.session, order.epoch)
        return Sender(self._engine, run.key, self._engine.spec, target, bus, codec=self._int8)

    async def listen(self, held: Held) -> None:
        """Feed what decode says of this transfer to its sender, until the run ends."""
        subject = subjects.kv_feedback(held.run.order.session, held.run.order.epoch)
        held.feedback = await self._links.kv.listen(subject, _feedback_to(held.sender))

    def start(self, held: Held) -> None:
        """Send what was cached, and is going to be computed. Does nothing when that goes on already."""
        if held.transfer is None:
            held.sender.computed(0, held.run.cached_tokens)
            held.transfer = self._tasks.start(self._transfer(held), name=f"transfer {held.run.key}")

    async def _transfer(self, held: Held) -> None:
        try:
            await held.sender.send()
        except Exception as error:
            unforeseen = None if isinstance(error, BatonError) else error
            logger.warning("hand-off failed: %s", error, exc_info=unforeseen, extra={"session": held.run.order.session})
            self._held.give_up(held, HandoffFailed(str(error)))
        else:
            stages.observe(Stage.PUBLISH, held.sender.publish_ms)
            stages.observe(Stage.WIRE, held.sender.visible_ms - held.sender.publish_ms)
            self._links.send_frames([(held.run.order.gateway, held.run.handoff_frame(held.sender))])
            self._held.end(held)

    def _fitting_chunk_bytes(self, credit_bytes: int) -> int:
        """At least two chunks fit the window: a grant that the receiver holds back never stops the sender."""
        return min(self._chunk_bytes, self._links.kv.max_payload - HEADER_BYTES, credit_bytes // 2)


def _feedback_to(sender: Sender) -> Callable[[str, memoryview], None]:
    def heard(_subject: str, data: memoryview) -> None:
        try:
            sender.on_feedback(decode(Feedback, data))  # type: ignore[arg-type]
        except ProtocolError as error:
            logger.warning("KV feedback refused: %s", error)

    return heard
