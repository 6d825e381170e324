"""Runs one resumable session to its end, whether anybody reads it or not. A task body of `KeptSessions`."""

from __future__ import annotations

import logging

from services.gateway.kept.session import KeptSession
from services.gateway.kept.writer import JournalWriter
from services.gateway.sessions.course import Course
from services.gateway.sessions.text import DeltaWriter
from shared.core import FinishReason, SampledToken
from shared.errors import BatonError
from shared.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


class Driver:
    """Fills the transcript of `kept`. `run` is the task's body; cancelling it ends the work, not the transcript."""

    def __init__(self, kept: KeptSession, course: Course, writer: JournalWriter, tokenizer: Tokenizer) -> None:
        self._kept = kept
        self._course = course
        self._writer = writer
        # Where no string can end it, its readers' own writers are enough.
        self._stops = DeltaWriter(tokenizer, kept.request) if kept.request.stop else None

    async def run(self) -> None:
        """To the end of the transcript."""
        kept = self._kept
        try:
            if self._stopped_by(kept.transcript.tokens):
                kept.transcript.extend((), FinishReason.STOP, None)
            else:
                await self._course.begin(kept.session)
            while not kept.transcript.ended:
                await self._take()
        except BatonError as error:
            kept.transcript.fail(error)
        except Exception:  # the session's boundary: its reader must learn of the end
            logger.exception("a resumable session failed", extra={"session": kept.id})
            kept.transcript.fail(BatonError("internal error"))
        self._writer.note(kept.page)

    async def _take(self) -> None:
        kept = self._kept
        tokens, finish = await self._course.next_tokens(kept.session)
        if self._stopped_by(tokens):
            finish = FinishReason.STOP
            self._course.end(kept.session)
        kept.page.arithmetic, kept.page.fingerprint = kept.session.arithmetic, kept.session.fingerprint
        kept.transcript.extend(tokens, finish, kept.session.timeline.timings() if finish is not None else None)
        self._writer.note(kept.page)

    def _stopped_by(self, tokens: list[SampledToken]) -> bool:
        """Whether a stop string ends the text with `tokens`."""
        return self._stops is not None and self._stops.write(tokens, None).finish is not None
