"""The text of one generation as its tokens arrive, ended by a stop string.

Without a stop string the pieces add up to `tokenizer.decode(all ids)`; with one, to that text up to where the first
stop string begins. No piece holds part of a character or of a matched stop string. How the tokens were cut into pushes
changes nothing. Knows no session and no wire; the gateway keeps one per generation.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shared.text.stop_strings import StopStrings
from shared.text.text_stream import text_stream
from shared.text.tokenizer import Tokenizer


class TextPiece(msgspec.Struct, frozen=True):
    """`text` to pass on, and the own text of each token taken (lossy; special tokens spelled out).

    `stop_match` is the stop string that ended the text. Then the tokens after the one that completed it were not taken,
    so `token_texts` is shorter than what was pushed.
    """

    text: str
    token_texts: tuple[str, ...] = ()
    stop_match: str | None = None


class Detokenizer:
    """`previous_ids` are the prompt's tokens: after a text, a leading space belongs to the answer.

    No stop string is looked for in the text of the first `min_tokens` tokens. Raises InvalidRequest for an empty stop
    string.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        previous_ids: Sequence[int] = (),
        min_tokens: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._stream = text_stream(tokenizer, previous_ids)
        self._stops = StopStrings(stop)
        self._stop_match: str | None = None
        self._unstoppable = min_tokens

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text; what comes later is ignored."""
        return self._stop_match is not None

    def push(self, ids: Sequence[int]) -> TextPiece:
        """The text that `ids` make certain. Ids outside the vocabulary add nothing."""
        texts: list[str] = []
        token_texts: list[str] = []
        for token_id in ids:
            if self.stopped:
                break
            token_texts.append(self._tokenizer.token_text(token_id))
            text = self._stream.push(token_id) if self._tokenizer.is_text(token_id) else ""
            if self._unstoppable > 0:
                self._unstoppable -= 1
                texts.append(text)
            else:
                texts.append(self._scan(text))
        return TextPiece("".join(texts), tuple(token_texts), self._stop_match)

    def finish(self) -> TextPiece:
        """The text held back until now; it may still complete a stop string. To be called once."""
        if self.stopped:
            return TextPiece("", (), self._stop_match)
        text = self._scan(self._stream.finish())
        if not self.stopped:
            text += self._stops.finish()
        return TextPiece(text, (), self._stop_match)

    def _scan(self, text: str) -> str:
        scan = self._stops.push(text)
        self._stop_match = scan.match
        return scan.text
