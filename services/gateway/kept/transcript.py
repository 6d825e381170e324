"""All tokens of one resumable session, and who reads them. Plain objects; one event loop.

The session's driver fills it; a reader may come, go, and come again from any token; the journal's writer follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.gateway.generation import Timings
from shared.core import FinishReason, SampledToken
from shared.errors import BatonError


class Transcript:
    """`tokens` so far, and `finish` or `error` once it has ended: the last tokens and the finish come together.

    At most one reader is attached: the newest.
    """

    def __init__(self, tokens: Sequence[SampledToken] = ()) -> None:
        self.tokens = list(tokens)
        self.finish: FinishReason | None = None
        self.error: BatonError | None = None
        self.timings: Timings | None = None
        self._reader: Reader | None = None

    @property
    def ended(self) -> bool:
        return self.finish is not None or self.error is not None

    @property
    def is_read(self) -> bool:
        """Whether a reader is attached."""
        return self._reader is not None

    def extend(self, tokens: Sequence[SampledToken], finish: FinishReason | None, timings: Timings | None) -> None:
        """The next tokens, and the end if it is one."""
        self.tokens += tokens
        self.finish, self.timings = finish, timings
        self._wake()

    def fail(self, error: BatonError) -> None:
        """It ends with `error`."""
        self.error = error
        self._wake()

    def attach(self, taken: BatonError) -> Reader:
        """A reader of the whole. One that is attached already gets `taken`."""
        self.dismiss(taken)
        self._reader = Reader(self)
        return self._reader

    def detach(self, reader: Reader) -> bool:
        """`reader` has gone. Returns whether it was attached still."""
        attached = self._reader is reader
        if attached:
            self._reader = None
        return attached

    def dismiss(self, error: BatonError) -> None:
        """Whoever reads gets `error`, after nothing more."""
        if self._reader is not None:
            self._reader.dismiss(error)
            self._reader = None

    def _wake(self) -> None:
        if self._reader is not None:
            self._reader.wake()


class Reader:
    """Reads a transcript from its beginning."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._index = 0
        self._dismissed: BatonError | None = None
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    def dismiss(self, error: BatonError) -> None:
        self._dismissed = error
        self.wake()

    async def next(self) -> tuple[list[SampledToken], FinishReason | None]:
        """All tokens that are new, at least one unless it is the end. Raises what ended the session, or the reading."""
        transcript = self._transcript
        while True:
            if self._dismissed is not None:
                raise self._dismissed
            if len(transcript.tokens) > self._index or transcript.finish is not None:
                break
            if transcript.error is not None:
                raise transcript.error
            self._woken.clear()
            await self._woken.wait()
        tokens = transcript.tokens[self._index :]
        self._index += len(tokens)
        return tokens, transcript.finish
