"""The conversation so far, as the messages of a chat request. No I/O.

Knows roles and turns, not the gateway or the terminal.
"""

from __future__ import annotations

Message = dict[str, str]


class Conversation:
    """Turns of question and answer; the last question may still be open."""

    def __init__(self, system: str = "") -> None:
        self.system = system
        self._turns: list[Message] = []

    @property
    def messages(self) -> list[Message]:
        """What a chat request sends."""
        opening = [{"role": "system", "content": self.system}] if self.system else []
        return opening + self._turns

    def ask(self, question: str) -> None:
        self._turns.append({"role": "user", "content": question})

    def answer(self, text: str) -> None:
        """Close the open question with `text`, whole or cut short; without any, the question is forgotten."""
        if text:
            self._turns.append({"role": "assistant", "content": text})
        else:
            self._turns.pop()

    def forget_oldest(self) -> bool:
        """Drop the oldest answered question. False when only the open one is left."""
        if len(self._turns) < 3:
            return False
        del self._turns[:2]
        return True

    def reset(self) -> None:
        """Forget all turns; the system message stays."""
        self._turns.clear()
