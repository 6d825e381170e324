"""One question to its answer: streams the text, survives a lost connection, stops when interrupted.

Knows the conversation and the connection, not how text is shown: `show` of its owner does that. The chat loop calls it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from services.chat.connection import ConnectionLost, GatewayConnection
from services.chat.conversation import Conversation
from services.chat.settings import ChatSettings
from shared.errors import BatonError, ContextExceeded, InvalidRequest, ResumeUnavailable, Unavailable
from shared.protocol.to_client import Delta, Finished

STOP_TIMEOUT_S = 5.0
RECONNECTS = 3
RESUMING_RECONNECTS = 12
NOTICED_RECONNECTS = 2
RECONNECT_WAIT_S = 0.5
LONGEST_WAIT_S = 2.0
RESUMABLE = "resumable"


class Answerer:
    """Asks for one answer at a time and keeps the conversation right, whatever happens to the answer.

    `stopping`: an answer was interrupted, and the gateway has not confirmed its end.
    """

    def __init__(
        self,
        connection: GatewayConnection,
        conversation: Conversation,
        settings: ChatSettings,
        show: Callable[[str], None],
        notice: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._conversation = conversation
        self._settings = settings
        self._show = show
        self._notice = notice
        self._texts: list[str] = []
        self._ask_resumable = True
        self.stopping = False

    async def ask(self, question: str) -> None:
        """Show the answer to `question`. Raises BatonError where there is none, or not all of it.

        Cancelling it stops the answer at the gateway too; what was said so far stays in the conversation.
        """
        self._texts = []
        self._connection.forget()
        self._conversation.ask(question)
        try:
            await self._until_answered()
        except asyncio.CancelledError:
            await self._stop()
            raise
        finally:
            self._conversation.answer("".join(self._texts))

    async def _until_answered(self) -> None:
        reconnects = 0
        while True:
            try:
                await self._connection.open()
                await self._start_or_resume()
                await self._stream()
            except ContextExceeded:
                if not self._conversation.forget_oldest():
                    raise
                self._notice("the oldest part of the conversation no longer fits and was left out")
            except (ResumeUnavailable, InvalidRequest) as error:
                if error.param != RESUMABLE or not self._ask_resumable:
                    raise
                self._ask_resumable = False
            except (ConnectionLost, Unavailable) as error:
                if reconnects >= self._reconnects(error):
                    raise
                if reconnects == NOTICED_RECONNECTS:
                    self._notice("the connection was lost, trying to get the rest")
                await asyncio.sleep(min(RECONNECT_WAIT_S * reconnects, LONGEST_WAIT_S))
                reconnects += 1
            else:
                return

    def _reconnects(self, error: BatonError) -> int:
        """How often to try again: long, where the rest of an answer can be had; a little, where nothing was said."""
        if self._connection.resumable:
            return RESUMING_RECONNECTS
        return RECONNECTS if isinstance(error, ConnectionLost) and not self._texts else 0

    async def _start_or_resume(self) -> None:
        if self._connection.resumable:
            await self._connection.resume()
        else:
            await self._connection.start(self._params())

    async def _stream(self) -> None:
        while not isinstance(event := await self._connection.next(), Finished):
            if isinstance(event, Delta):
                self._texts.append(event.text)
                self._show(event.text)

    async def _stop(self) -> None:
        """Let the gateway free the session; a connection that does not answer is given up, which frees it as well."""
        if not self._connection.busy:
            return
        self.stopping = True
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._connection.stop()
                while not isinstance(await self._connection.next(), Finished):
                    pass
        except (BatonError, TimeoutError):
            await self._connection.close()
        self.stopping = False

    def _params(self) -> dict[str, Any]:
        params: dict[str, Any] = {
            "messages": self._conversation.messages,
            "max_tokens": self._settings.max_tokens,
            "temperature": self._settings.temperature,
        }
        if self._ask_resumable:
            params[RESUMABLE] = True
        if self._settings.model:
            params["model"] = self._settings.model
        return params
