"""One decode worker: the claim desk and the stepper, wired to the bus.

It answers claims, feeds KV messages to receivers, and frees sessions that are cancelled, overdue or whose gateway fell
silent. Everything that decides is in `desk.py`, `stepper.py` and `shared/kv`. `service.py` runs it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Set

import msgspec

from services.decode.desk import ClaimDesk
from services.decode.session import DecodeSession, SessionState
from services.decode.settings import DecodeSettings
from services.decode.stepper import Stepper, error_frame
from shared.bus.data_plane.connection import Listening
from shared.core import KvEncoding, Role
from shared.errors import BatonError, DeadlineExceeded, Draining, HandoffFailed, Overloaded, ProtocolError
from shared.kv.encoding import offered
from shared.protocol import subjects
from shared.protocol.to_decode import Cancel, Claim, CreditProbe, Manifest
from shared.protocol.to_gateway import HandoffReport
from shared.protocol.to_prefill import Feedback, Imported, TransferRefused
from shared.protocol.wire import Message, decode
from shared.runtime import stages
from shared.runtime.holder import Holding
from shared.runtime.reaper import Reaper
from shared.runtime.stages import Stage
from shared.runtime.worker_service import Load, WorkerContext

logger = logging.getLogger(__name__)


class DecodeWorker:
    """A `shared.runtime.worker_service.Worker` for the decode phase."""

    def __init__(self, settings: DecodeSettings, context: WorkerContext) -> None:
        self._settings = settings
        self._engine = context.engine
        self._links = context.links
        self._tasks = context.tasks
        self._encodings = offered(settings.kv_encoding, context.engine.spec.layout)
        self._desk = ClaimDesk(
            context.engine,
            settings.id,
            batch_limit=settings.batch_limit,
            window_bytes=settings.window_bytes,
            encodings=self._encodings,
            int8=context.int8,
        )
        self._stepper = Stepper(
            context.engine,
            context.thread,
            may_step=self._links.tenure.may_step,
            send=self._links.send_frames,
            ended=self._ended,
            announce=lambda session: self._links.announce(session.claim.gateway, session.began_frame()),
        )
        self._subscriptions: dict[DecodeSession, Listening] = {}
        self._draining = False
        self._idle = asyncio.Event()

    async def start(self) -> None:
        """Start stepping and listen for claims and cancels."""
        if self._encodings[0] is not KvEncoding.EXACT:
            logger.warning("caches are asked for as %s: tokens may differ from exact ones", self._encodings[0].label)
        self._tasks.start(self._stepper.run(), name="stepper")
        self._tasks.start(Reaper(self._links.gateways, self._reap).run(), name="reaper")
        control = self._links.control
        await control.serve(subjects.claim(self._settings.id), Claim, self._claim)
        await control.listen(subjects.cancel(Role.DECODE, self._settings.id), self._on_cancel)

    def load(self) -> Load:
        return Load(sessions=len(self._desk), session_limit=self._settings.batch_limit, kv_encodings=self._encodings)

    def held(self) -> list[Holding]:
        """See `shared.runtime.holder.Holder`."""
        running = [session for session in self._desk.sessions() if session.state is not SessionState.ENDED]
        return [holding_of(session) for session in running]

    def drop(self, holdings: Set[Holding]) -> None:
        """See `shared.runtime.holder.Holder`."""
        for session in self._desk.sessions():
            if holding_of(session) in holdings:
                self._desk.fence(session.claim.session, session.claim.epoch)
                self._stepper.leave(session)

    async def drain(self) -> None:
        """Take no claims; return when the last session has ended."""
        self._draining = True
        while len(self._desk):
            self._idle.clear()
            await self._idle.wait()

    def end_all(self) -> None:
        """End every session with an error to its gateway."""
        self._draining = True
        for session in self._desk.sessions():
            self._give_up(session, Draining("the decode worker stops"))

    async def _claim(self, claim: Claim) -> Message:
        if self._draining:
            raise Draining("the worker takes no new sessions")
        older = self._desk.older(claim)
        if older is not None:
            self._stepper.leave(older)
        session = self._desk.grant(claim)
        async with session.subscribing:
            if session not in self._subscriptions:
                await self._subscribe(session)
        self._links.took(claim.session)
        return msgspec.structs.replace(session.grant, boot=self._links.boot, beat=self._links.lease.number)

    async def _subscribe(self, session: DecodeSession) -> None:
        """Be sure to hear the KV subject before anyone is told to publish there."""
        subject = f"{subjects.kv(session.claim.session, session.claim.epoch)}.*"
        try:
            self._subscriptions[session] = await self._links.kv.listen(
                subject, lambda name, data: self._on_kv(session, name, data)
            )
            await self._links.kv.flush()
        except BaseException:
            self._stepper.leave(session)
            self._unsubscribe(session)
            raise
        if session.state is SessionState.ENDED:
            self._unsubscribe(session)
            raise Overloaded("the session ended while it was being claimed")

    def _unsubscribe(self, session: DecodeSession) -> None:
        listening = self._subscriptions.pop(session, None)
        if listening is not None:
            self._tasks.start(listening.close(), name="unsubscribe")

    def _on_kv(self, session: DecodeSession, subject: str, data: memoryview) -> None:
        if session.state is SessionState.ENDED:
            return
        self._desk.fed(session)
        try:
            feedback = self._take_in(session, subject.rsplit(".", 1)[1], data)
        except ProtocolError as error:
            logger.warning("KV message refused: %s", error, extra={"session": session.claim.session})
            return
        if feedback is not None:
            self._feed_back(session, feedback)

    def _feed_back(self, session: DecodeSession, feedback: Feedback) -> None:
        self._links.kv_out.post(subjects.kv_feedback(session.claim.session, session.claim.epoch), feedback)

    def _take_in(self, session: DecodeSession, kind: str, data: memoryview) -> Feedback | None:
        match kind:
            case "chunk":
                return session.receiver.on_chunk(data)
            case "probe":
                return session.receiver.on_probe(decode(CreditProbe, data))
            case "manifest":
                return self._on_manifest(session, decode(Manifest, data))
            case _:
                raise ProtocolError(f"unknown KV message {kind!r}")

    def _on_manifest(self, session: DecodeSession, manifest: Manifest) -> Feedback | None:
        if not 0 <= manifest.first_token < self._engine.spec.vocab_size:
            raise ProtocolError(f"first token {manifest.first_token} is outside the vocabulary")
        feedback = session.receiver.on_manifest(manifest)
        if isinstance(feedback, Imported) and session.state is SessionState.CLAIMED:
            self._begin(session, manifest)
        elif isinstance(feedback, TransferRefused):
            self._give_up(session, HandoffFailed(feedback.reason))
        return feedback

    def _begin(self, session: DecodeSession, manifest: Manifest) -> None:
        stages.observe(Stage.IMPORT, session.receiver.import_ms)
        self._engine.append(session.key, manifest.first_token)
        session.start(
            HandoffReport(
                worker=self._settings.id,
                visible_ms=manifest.since_compute_ms,
                payload_bytes=session.receiver.payload_bytes,
                chunks=session.receiver.chunks,
                resent_chunks=max(0, manifest.chunks - session.receiver.chunks),
                publish_ms=manifest.since_compute_ms,
                import_ms=session.receiver.import_ms,
                encoding=session.receiver.travelled,
            )
        )
        self._stepper.join(session)

    def _on_cancel(self, _subject: str, data: bytes) -> None:
        try:
            cancel = decode(Cancel, data)
        except ProtocolError as error:
            logger.warning("cancel refused: %s", error)
            return
        if cancel.fence:
            self._desk.fence(cancel.session, cancel.epoch)
        # Claims are answered in tasks: one that came before this cancel may not be held yet, but soon will.
        asyncio.get_running_loop().call_soon(self._cancel, cancel)

    def _cancel(self, cancel: Cancel) -> None:
        session = self._desk.find(cancel.session)
        if session is not None and session.claim.epoch <= cancel.epoch:
            self._stepper.leave(session)

    def _reap(self, gateway_silent: Callable[[str], bool]) -> None:
        for session in self._desk.overdue():
            self._give_up(session, DeadlineExceeded("the request's deadline passed during decode"))
        for session in self._desk.unfed(self._settings.claim_lease_s):
            self._give_up(session, HandoffFailed("prefill sent nothing for the session"))
        for session in self._desk.sessions():
            if gateway_silent(session.claim.gateway) and session.state is not SessionState.ENDED:
                logger.warning("gateway is silent, session dropped", extra={"session": session.claim.session})
                self._stepper.leave(session)

    def _give_up(self, session: DecodeSession, error: BatonError) -> None:
        if session.state is not SessionState.ENDED:
            self._links.send_frames([(session.claim.gateway, error_frame(session, error))])
            self._stepper.leave(session)

    def _ended(self, session: DecodeSession) -> None:
        self._desk.release(session)
        if session.receiver.complete:
            # Once more, in case it was lost: from now on nobody answers a manifest of this session.
            self._feed_back(session, Imported(transfer=session.grant.transfer))
        self._unsubscribe(session)
        self._links.changed()
        if not len(self._desk):
            self._idle.set()


def holding_of(session: DecodeSession) -> Holding:
    """`session` as gateways know it."""
    return Holding(session.claim.gateway, session.claim.session, session.claim.epoch)
