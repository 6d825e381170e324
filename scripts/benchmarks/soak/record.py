"""One stream as its client sees it, compared with what must come, token by token. Knows no door."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.soak.ends import Hopped

Token = int | str


class Record:
    """`expected` are token ids, or the texts of the tokens where a door gives no ids; None: whatever comes is right.

    `token_errors` are wrong, repeated and missing tokens. `moments_s` are those of the start and of every piece.
    `session` is what the fleet calls it, where the door says so. `resumes`: the stream was lost and goes on from there.
    `cancel_at` and `hop_at` are numbers of tokens at which the client leaves, or drops its connection and goes on.
    """

    def __init__(
        self, expected: Sequence[Token] | None, *, cancel_at: int | None = None, hop_at: int | None = None
    ) -> None:
        self.token_errors = 0
        self.first_error = ""
        self.session = ""
        self.moments_s = [time.monotonic()]
        self.tokens: list[Token] = []
        self._expected = expected
        self.resumes = False
        self._cancel_at = cancel_at
        self._hop_at = hop_at

    @property
    def started_s(self) -> float:
        return self.moments_s[0]

    @property
    def begun(self) -> bool:
        """Whether a token has come."""
        return bool(self.tokens)

    @property
    def wants_to_leave(self) -> bool:
        return self._cancel_at is not None and len(self.tokens) >= self._cancel_at

    def hop(self) -> None:
        """Raises Hopped when the client drops its connection here."""
        if self._hop_at is not None and len(self.tokens) >= self._hop_at:
            self._hop_at = None
            raise Hopped("the client dropped its connection")

    def take(self, tokens: Sequence[Token], index: int | None = None) -> None:
        """The next `tokens`, of which the first has `index`, if the door says so."""
        if not tokens:
            return
        self.moments_s.append(time.monotonic())
        if index is not None and index != len(self.tokens):
            self._wrong(abs(index - len(self.tokens)), f"index {index} after {len(self.tokens)} tokens")
        for token in tokens:
            self._compare(token)
            self.tokens.append(token)

    def finish(self) -> None:
        """The stream says it is complete."""
        missing = 0 if self._expected is None else len(self._expected) - len(self.tokens)
        if missing > 0:
            self._wrong(missing, f"ended after {len(self.tokens)} tokens, {missing} are missing")

    def _compare(self, token: Token) -> None:
        place = len(self.tokens)
        if self._expected is None:
            return
        if place >= len(self._expected):
            self._wrong(1, f"token {place} comes after the last")
        elif token != self._expected[place]:
            self._wrong(1, f"token {place} is {token!r}, not {self._expected[place]!r}")

    def _wrong(self, count: int, what: str) -> None:
        self.token_errors += count
        self.first_error = self.first_error or what
