"""One resumable session at this gateway: its tokens, its page in the journal, and how long nobody has read it."""

from __future__ import annotations

import asyncio
import time

import msgspec

from services.gateway.generation import GenerationRequest
from services.gateway.journal.history import History
from services.gateway.kept.page import Page
from services.gateway.kept.transcript import Transcript
from services.gateway.sessions.session import Resumption, Session
from shared.core import FinishReason
from shared.protocol.journal import first_epoch


class KeptSession:
    """`session` is what runs it; `driver` the task that does, None once it has ended elsewhere."""

    def __init__(self, session: Session, transcript: Transcript, tenure: int) -> None:
        self.session = session
        self.transcript = transcript
        self.page = Page(session.id, tenure, transcript, session.left_s, written=len(transcript.tokens))
        self.driver: asyncio.Task[None] | None = None
        self._unread_since_s = time.monotonic()

    @classmethod
    def opened(cls, request: GenerationRequest) -> KeptSession:
        """A new one."""
        return cls(Session(request), Transcript(), tenure=0)

    @classmethod
    def resumed(cls, history: History, after: int = 0) -> KeptSession:
        """One of another gateway, as far as the journal knows it; in an epoch above all of those before.

        Its client has had `after` tokens, which may be more.
        """
        transcript = Transcript(history.tokens)
        if history.error is not None:
            transcript.fail(history.error)
        elif history.finish is not None or len(history.tokens) >= history.request.max_tokens:
            transcript.extend((), history.finish or FinishReason.LENGTH, history.timings)
        resumption = Resumption(
            session=history.session,
            epoch=first_epoch(history.tenure),
            emitted=tuple(token.token_id for token in history.tokens),
            arithmetic=history.arithmetic,
            fingerprint=history.fingerprint,
            begun=0 < after <= history.request.max_tokens,
        )
        request = msgspec.structs.replace(history.request, deadline_s=history.left_s)
        kept = cls(Session(request, resumption), transcript, history.tenure)
        kept.page.arithmetic, kept.page.fingerprint = history.arithmetic, history.fingerprint
        return kept

    @property
    def id(self) -> str:
        return self.session.id

    @property
    def tenure(self) -> int:
        return self.page.tenure

    @property
    def request(self) -> GenerationRequest:
        return self.session.request

    @property
    def size(self) -> int:
        """How many tokens it has, those that were likely as well."""
        return len(self.request.prompt_ids) + len(self.transcript.tokens) * (1 + (self.request.sampling.logprobs or 0))

    def unread(self) -> None:
        """Its reader has gone now."""
        self._unread_since_s = time.monotonic()

    def unread_for_s(self) -> float:
        """How long nobody has read it."""
        return 0.0 if self.transcript.is_read else time.monotonic() - self._unread_since_s
