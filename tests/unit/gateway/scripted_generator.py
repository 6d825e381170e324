"""A scripted generator, and a tokenizer and chat template of a few lines, for tests of the gateway's doors."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from services.gateway.generation import Delta, DeltaToken, GenerationRequest, Resumed, ServedModel, Timings
from shared.core import FinishReason, TokenLogprob
from shared.errors import SessionNotFound

MODEL = ServedModel(name="tiny", vocab_size=300, context_tokens=64, created_unix_s=1_700_000_000)
TIMINGS = Timings(prefill_worker="p0", decode_worker="d0", queue_ms=1.0, prefill_ms=2.0, handoff_ms=3.0, kv_bytes=4096)

SESSION = "0" * 32
Script = Callable[[GenerationRequest], AsyncIterator[Delta]]


class ByteTokenizer:
    """One token per byte of UTF-8; 256 begins a sequence."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [256] * (add_special_tokens and text != "") + list(text.encode())

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")

    def token_text(self, token_id: int) -> str:
        return self.token_bytes(token_id).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""


class PlainTemplate:
    """`role: content` lines."""

    def render(self, messages: Sequence[Mapping[str, object]], *, add_generation_prompt: bool) -> str:
        lines = [f"{message['role']}:{message['content']}\n" for message in messages]
        return "".join(lines) + ("assistant:" if add_generation_prompt else "")


def delta(text: str, finish: FinishReason | None = None, **fields: object) -> Delta:
    """A delta whose tokens are the bytes of `text`, with log-probabilities; the finish brings timings."""
    tokens = tuple(
        DeltaToken(byte, bytes([byte]).decode(errors="replace"), TokenLogprob(-0.5, ((byte, -0.5), (33, -2.0))))
        for byte in text.encode()
    )
    given: dict[str, object] = {"tokens": tokens, "timings": TIMINGS if finish else None}
    return Delta(text=text, finish=finish, **(given | fields))


def says(*texts: str, finish: FinishReason = FinishReason.STOP) -> Script:
    """A script of one delta per text."""

    async def script(request: GenerationRequest) -> AsyncIterator[Delta]:
        for text in texts[:-1]:
            yield delta(text)
        yield delta(texts[-1], finish)

    return script


def fails(error: Exception, *before: str) -> Script:
    """A script that raises `error` after some deltas."""

    async def script(request: GenerationRequest) -> AsyncIterator[Delta]:
        for text in before:
            yield delta(text)
        raise error

    return script


class ScriptedGeneration:
    """`unwanted` says that its client cancelled it, and did not just leave."""

    def __init__(self, deltas: AsyncIterator[Delta]) -> None:
        self.id = SESSION
        self.unwanted = False
        self._deltas = deltas

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self._deltas

    def cancel(self) -> None:
        self.unwanted = True


class ScriptedGenerator:
    """Plays `script` for every request; remembers requests, and who is still inside a generation."""

    def __init__(self) -> None:
        self.script: Script = says("Hello", " world")
        self.requests: list[GenerationRequest] = []
        self.live = 0
        self.cancelled = 0
        self.unwanted = 0
        self.resumed: list[tuple[str, int]] = []
        self.ended: list[str] = []
        self.started = asyncio.Event()
        self.idle = asyncio.Event()

    @contextlib.asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[ScriptedGeneration]:
        self.requests.append(request)
        self.live += 1
        self.started.set()
        generation = ScriptedGeneration(self.script(request))
        try:
            yield generation
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.unwanted += generation.unwanted
            self.live -= 1
            if self.live == 0:
                self.idle.set()

    async def resume(self, session: str, after: int) -> Resumed:
        """The last request again; its script knows what the client has."""
        if not self.requests or session != SESSION:
            raise SessionNotFound("no such session")
        self.resumed.append((session, after))
        request = self.requests[-1]
        return Resumed(request, self.generate(request))

    async def end(self, session: str) -> None:
        if session != SESSION:
            raise SessionNotFound("no such session")
        self.ended.append(session)
