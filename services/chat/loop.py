"""The chat in a terminal: reads lines, runs commands, shows answers, and decides what Ctrl-C means.

Knows the terminal. Reads in the main thread, where line editing and Ctrl-C work; the event loop runs while an answer
does. `main` calls it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TextIO

from services.chat.answerer import Answerer
from services.chat.commands import HELP, Action, Line, read_line
from services.chat.connection import GatewayConnection
from services.chat.conversation import Conversation
from services.chat.settings import ChatSettings, stream_url
from shared.errors import BatonError

PROMPT = "> "
_UNSAFE = dict.fromkeys([*range(32), *range(127, 160)]) | {ord("\n"): "\n", ord("\t"): "\t"}


class ChatLoop:
    """`read` asks the user for a line (`input`), `out` shows answers."""

    def __init__(self, settings: ChatSettings, read: Callable[[str], str], out: TextIO) -> None:
        self._read = read
        self._out = out
        self._conversation = Conversation(settings.system)
        self._connection = GatewayConnection(stream_url(settings.url))
        self._answerer = Answerer(self._connection, self._conversation, settings, self._show, self._notice)

    def run(self) -> None:
        """Until the user ends it. Raises Unavailable where no gateway answers at the start."""
        with asyncio.Runner() as runner:
            runner.run(self._connection.open())
            self._notice("connected; /help says what you can do")
            try:
                while (line := self._next_line()).action is not Action.QUIT:
                    self._do(line, runner.run)
            except KeyboardInterrupt:
                self._show("\n")
            finally:
                runner.run(self._connection.close())

    def _next_line(self) -> Line:
        """What the user wants next: one Ctrl-C only drops the typed line, the second in a row quits."""
        for _ in range(2):
            try:
                return read_line(self._read(PROMPT))
            except EOFError:
                break
            except KeyboardInterrupt:
                self._show("\n")
                self._notice("Ctrl-C again, or /quit, ends the chat")
        self._show("\n")
        return Line(Action.QUIT)

    def _do(self, line: Line, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        match line.action:
            case Action.ASK:
                self._ask(line.text, run)
            case Action.RESET:
                self._conversation.reset()
                self._notice("the conversation is forgotten")
            case Action.SYSTEM:
                self._conversation.system = line.text
                self._conversation.reset()
                self._notice("system message set, the conversation is forgotten")
            case Action.HELP:
                self._show(HELP + "\n")
            case Action.UNKNOWN:
                self._notice(f"there is no {line.text}; /help says what there is")

    def _ask(self, question: str, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        try:
            run(self._answerer.ask(question))
            self._show("\n")
        except KeyboardInterrupt:
            if self._answerer.stopping:
                raise
            self._show("\n")
            self._notice("stopped")
        except BatonError as error:
            self._show("\n")
            self._notice(sentence(error))

    def _show(self, text: str) -> None:
        """Text of a model must not drive the terminal: control characters are left out."""
        self._out.write(text.translate(_UNSAFE))
        self._out.flush()

    def _notice(self, text: str) -> None:
        self._show(f"({text})\n")


def sentence(error: BatonError) -> str:
    """What went wrong and what to do, for a person."""
    wait = "" if error.retry_after_ms is None else f"; try again in {max(1, round(error.retry_after_ms / 1000))} s"
    return f"{error.message}{wait}"
