"""`baton chat` in a real terminal: a pseudo-terminal with the program at its other end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator

import pytest
from scripted_gateway import Client, Message, ScriptedGateway

CTRL_C = b"\x03"
CTRL_D = b"\x04"


class Terminal:
    """What a person sees and types."""

    def __init__(self, master: int, process: Process) -> None:
        self._master = master
        self._process = process
        self._seen = b""
        self._changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 4096)
        except OSError:  # the program has closed its end
            data = b""
        if not data:
            self.close()
        self._seen += data
        self._changed.set()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._master)

    def type(self, data: bytes) -> None:
        os.write(self._master, data)

    async def until(self, text: bytes) -> bytes:
        """Everything shown since the last call, up to `text`."""
        async with asyncio.timeout(30):
            while text not in self._seen:
                self._changed.clear()
                await self._changed.wait()
        before, _, self._seen = self._seen.partition(text)
        return before

    async def exit_code(self) -> int:
        async with asyncio.timeout(30):
            return await self._process.wait()


@contextlib.asynccontextmanager
async def chat(url: str, *arguments: str) -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "chat", "--url", url, *arguments),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=_own_terminal,
    )
    os.close(slave)
    terminal = Terminal(master, process)
    try:
        yield terminal
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        terminal.close()
        os.close(master)


def _own_terminal() -> None:
    """Make the pseudo-terminal the one whose Ctrl-C reaches the program."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


async def test_a_chat(gateway: ScriptedGateway) -> None:
    async with chat(gateway.url, "--system", "be brief") as terminal:
        await terminal.until(b"> ")
        terminal.type(b"hi\n")
        await terminal.until(b"Hello you")
        await terminal.until(b"> ")
        terminal.type(b"/reset\n")
        await terminal.until(b"> ")
        terminal.type(b"/quit\n")
        assert await terminal.exit_code() == 0
    assert gateway.asked[0]["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
    ]


async def slow(client: Client, message: Message) -> None:
    if message["type"] == "cancel":
        await client.finish(message["id"], "cancelled")
    else:
        await client.say(message["id"], "Once upon")


async def test_ctrl_c_stops_the_answer_and_not_the_program(gateway: ScriptedGateway) -> None:
    gateway.script = slow
    async with chat(gateway.url) as terminal:
        await terminal.until(b"> ")
        terminal.type(b"a story\n")
        await terminal.until(b"Once upon")
        terminal.type(CTRL_C)
        await terminal.until(b"(stopped)")
        await terminal.until(b"> ")
        assert gateway.received[-1]["type"] == "cancel"
        terminal.type(CTRL_D)
        assert await terminal.exit_code() == 0


async def test_a_second_ctrl_c_ends_it_even_if_the_gateway_does_not_answer(gateway: ScriptedGateway) -> None:
    cancelled = asyncio.Event()

    async def deaf(client: Client, message: Message) -> None:
        if message["type"] == "cancel":
            cancelled.set()
        else:
            await client.say(message["id"], "Once upon")

    gateway.script = deaf
    async with chat(gateway.url) as terminal:
        await terminal.until(b"> ")
        terminal.type(b"a story\n")
        await terminal.until(b"Once upon")
        terminal.type(CTRL_C)
        await cancelled.wait()
        terminal.type(CTRL_C)
        assert await terminal.exit_code() == 0


async def test_an_error_is_a_sentence_and_the_chat_goes_on(gateway: ScriptedGateway) -> None:
    async def refuse(client: Client, message: Message) -> None:
        await client.send("error", message["id"], code="overloaded", message="queues are full", retry_after_ms=2000)

    gateway.script = refuse
    async with chat(gateway.url) as terminal:
        await terminal.until(b"> ")
        terminal.type(b"hi\n")
        await terminal.until(b"(queues are full; try again in 2 s)")
        await terminal.until(b"> ")
        terminal.type(CTRL_D)
        assert await terminal.exit_code() == 0


async def test_a_model_cannot_drive_the_terminal(gateway: ScriptedGateway) -> None:
    async def evil(client: Client, message: Message) -> None:
        await client.say(message["id"], "a\x1b]0;title\x07b\x9b2Jc")
        await client.finish(message["id"])

    gateway.script = evil
    async with chat(gateway.url) as terminal:
        await terminal.until(b"> ")
        terminal.type(b"hi\n")
        await terminal.until(b"a]0;titleb2Jc")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense"])
async def test_no_gateway_is_said_in_a_sentence(url: str) -> None:
    async with chat(url) as terminal:
        await terminal.until(b"baton chat: ")
        assert await terminal.exit_code() in (1, 2)
