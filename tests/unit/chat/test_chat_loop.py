"""The loop around questions, with a scripted user instead of a terminal."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable

from scripted_gateway import ScriptedGateway

from services.chat.loop import ChatLoop
from services.chat.settings import ChatSettings

Typed = str | type[BaseException]


def user(*typed: Typed) -> Callable[[str], str]:
    """Types these lines, or ends the line with that exception."""
    lines = iter(typed)

    def read(_prompt: str) -> str:
        line = next(lines)
        if isinstance(line, str):
            return line
        raise line

    return read


async def screen_after(gateway: ScriptedGateway, *typed: Typed) -> str:
    """What the screen shows once the chat has ended."""
    out = io.StringIO()
    loop = ChatLoop(ChatSettings(url=gateway.url), user(*typed), out)
    await asyncio.to_thread(loop.run)
    return out.getvalue()


async def test_two_ctrl_c_in_a_row_end_it(gateway: ScriptedGateway) -> None:
    assert "Ctrl-C again" in await screen_after(gateway, KeyboardInterrupt, KeyboardInterrupt)


async def test_one_ctrl_c_only_drops_the_line(gateway: ScriptedGateway) -> None:
    await screen_after(gateway, KeyboardInterrupt, "hi", KeyboardInterrupt, "again", EOFError)
    assert len(gateway.asked) == 2


async def test_end_of_input_ends_it(gateway: ScriptedGateway) -> None:
    await screen_after(gateway, EOFError)
    assert gateway.connections == 1


async def test_a_new_system_message_begins_anew(gateway: ScriptedGateway) -> None:
    await screen_after(gateway, "one", "/system be brief", "two", "/quit")
    assert [turn["content"] for turn in gateway.asked[1]["messages"]] == ["be brief", "two"]


async def test_an_unknown_command_is_named_and_not_asked(gateway: ScriptedGateway) -> None:
    assert "there is no /dance" in await screen_after(gateway, "/dance", "/quit")
    assert gateway.asked == []
