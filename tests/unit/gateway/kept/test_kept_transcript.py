"""All tokens of a session: read from the beginning, by the newest reader."""

from __future__ import annotations

import asyncio

import pytest

from services.gateway.kept.transcript import Transcript
from shared.core import FinishReason, SampledToken
from shared.errors import SessionTaken, WorkerFailed

TAKEN = SessionTaken("newer")


def sampled(*ids: int) -> list[SampledToken]:
    return [SampledToken(token_id) for token_id in ids]


async def test_a_reader_gets_what_was_and_what_comes():
    transcript = Transcript(sampled(1, 2))
    reader = transcript.attach(TAKEN)
    assert await reader.next() == (sampled(1, 2), None)
    asyncio.get_running_loop().call_soon(transcript.extend, sampled(3), FinishReason.LENGTH, None)
    assert await reader.next() == (sampled(3), FinishReason.LENGTH)
    assert transcript.ended


async def test_another_reader_begins_anew_and_the_first_is_told():
    transcript = Transcript(sampled(1))
    first = transcript.attach(TAKEN)
    await first.next()
    waiting = asyncio.ensure_future(first.next())
    await asyncio.sleep(0)
    second = transcript.attach(TAKEN)
    with pytest.raises(SessionTaken):
        await waiting
    assert await second.next() == (sampled(1), None)
    assert not transcript.detach(first)
    assert transcript.is_read
    assert transcript.detach(second)
    assert not transcript.is_read


async def test_a_failure_comes_after_the_tokens_before_it():
    transcript = Transcript(sampled(1))
    reader = transcript.attach(TAKEN)
    transcript.fail(WorkerFailed("broken"))
    assert await reader.next() == (sampled(1), None)
    with pytest.raises(WorkerFailed):
        await reader.next()


async def test_who_is_dismissed_gets_nothing_more():
    transcript = Transcript(sampled(1))
    reader = transcript.attach(TAKEN)
    transcript.dismiss(TAKEN)
    with pytest.raises(SessionTaken):
        await reader.next()
