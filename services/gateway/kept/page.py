"""What the journal has of one transcript, and what it should have next. Plain object; the journal's writer asks it."""

from __future__ import annotations

from collections.abc import Callable

from services.gateway.kept.transcript import Transcript
from shared.core import SampledToken, TokenLogprob
from shared.protocol.journal import Appended
from shared.protocol.wire import pack_ids

RECORD_TOKENS = 4096
LEAST_TOKENS = 16
LEAST_SHARE = 8


class Page:
    """Of `session` in `tenure`; the journal has `written` tokens of `transcript`. `left_s` is left of its deadline.

    The first token is a record, which says what made it. Records then grow with what there is: an eighth of it,
    `LEAST_TOKENS` at least. So a session has few of them, however long it is, and a lost tail is cheap to compute
    again. The end, and what stands there when it is `closed`, is written whatever its size.
    """

    def __init__(
        self, session: str, tenure: int, transcript: Transcript, left_s: Callable[[], float], *, written: int = 0
    ) -> None:
        self.session = session
        self.tenure = tenure
        self.arithmetic = self.fingerprint = ""
        self.closed = False
        self._transcript = transcript
        self._left_s = left_s
        self._written = written
        self._end_written = False

    @property
    def urgent(self) -> bool:
        """Whether the end is unwritten: nobody else should go on with it."""
        return self._transcript.ended and not self._end_written

    def rewrite(self) -> None:
        """The journal has lost it all."""
        self._written = 0
        self._end_written = False

    def next(self) -> Appended | None:
        """The next record, which then counts as written; None when there is nothing new."""
        transcript = self._transcript
        index = self._written
        tokens = transcript.tokens[index : index + RECORD_TOKENS]
        last = transcript.ended and index + len(tokens) == len(transcript.tokens)
        if not self._worth_it(len(tokens), last):
            return None
        self._written += len(tokens)
        self._end_written = last
        return Appended(
            tenure=self.tenure,
            index=index,
            ids=pack_ids([token.token_id for token in tokens]),
            left_ms=max(0, int(self._left_s() * 1000)),
            arithmetic=self.arithmetic,
            fingerprint=self.fingerprint,
            logprobs=_logprobs(tokens),
            finish=transcript.finish if last else None,
            error=transcript.error.info if last and transcript.error is not None else None,
            timings=transcript.timings if last else None,
        )

    def _worth_it(self, tokens: int, last: bool) -> bool:
        if last:
            return tokens > 0 or not self._end_written
        if self.closed or not self._written:
            return tokens > 0
        return tokens >= min(RECORD_TOKENS, max(LEAST_TOKENS, self._written // LEAST_SHARE))


def _logprobs(tokens: list[SampledToken]) -> tuple[TokenLogprob | None, ...] | None:
    logprobs = tuple(token.logprob for token in tokens)
    return None if all(logprob is None for logprob in logprobs) else logprobs
