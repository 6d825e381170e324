"""The outbox of a socket: order, numbering, coalescing and bounds, without a socket."""

from __future__ import annotations

import asyncio

import pytest

from services.gateway.websocket.outbox import Outbox
from shared.core import FinishReason
from shared.protocol.to_client import ClientLogprob, Delta, Event, Failed, Finished, Pong, Started, TopToken, Usage

END = Finished(finish_reason=FinishReason.STOP, usage=Usage(1, 2, 3))


def outbox(pending_limit_bytes: int = 1000, notice_limit: int = 2) -> Outbox:
    return Outbox(pending_limit_bytes=pending_limit_bytes, notice_limit=notice_limit)


def piece(index: int, text: str) -> Delta:
    return Delta(index=index, text=text, token_ids=tuple(text.encode()))


async def taken(box: Outbox, count: int) -> list[Event]:
    return [await box.next() for _ in range(count)]


async def test_deltas_merge_until_they_are_taken() -> None:
    box = outbox()
    lane = box.open("a")
    await box.put(lane, piece(0, "ab"))
    await box.put(lane, piece(2, "c"))
    first = await box.next()
    await box.put(lane, piece(3, "d"))
    second = await box.next()
    assert isinstance(first, Delta)
    assert isinstance(second, Delta)
    assert (first.index, first.text, first.token_ids) == (0, "abc", (97, 98, 99))
    assert (second.index, second.text) == (3, "d")


async def test_logprobs_merge_too() -> None:
    box = outbox()
    lane = box.open("a")
    logprob = ClientLogprob(-1.0, (TopToken(5, -1.0),))
    for index in range(2):
        await box.put(lane, Delta(index=index, text="x", token_ids=(5,), logprobs=(logprob,)))
    merged = await box.next()
    assert isinstance(merged, Delta)
    assert merged.logprobs == (logprob, logprob)


async def test_start_and_end_do_not_merge_and_n_has_no_gaps() -> None:
    box = outbox()
    lane = box.open("a")
    await box.put(lane, Started(session="s", model="m", prompt_tokens=1))
    for index in range(5):
        await box.put(lane, piece(index, "x"))
    await box.put(lane, END)
    events = await taken(box, 3)
    assert [type(event) for event in events] == [Started, Delta, Finished]
    assert [(event.id, event.n, event.seq) for event in events] == [("a", 0, 0), ("a", 1, 1), ("a", 2, 2)]


async def test_generations_take_turns() -> None:
    box = outbox()
    first, second = box.open("a"), box.open("b")
    for lane in (first, second):
        await box.put(lane, Started(session="s", model="m", prompt_tokens=1))
        await box.put(lane, piece(0, "x"))
    assert [event.id for event in await taken(box, 4)] == ["a", "b", "a", "b"]


async def test_a_full_lane_makes_its_generation_wait_and_no_other() -> None:
    box = outbox(pending_limit_bytes=30)
    full, other = box.open("a"), box.open("b")
    waiting = asyncio.ensure_future(box.put(full, piece(0, "xxxx")))
    await asyncio.sleep(0)
    await box.put(other, piece(0, "y"))
    assert not waiting.done()
    await box.next()
    await waiting


async def test_an_id_is_free_again_once_its_end_was_taken() -> None:
    box = outbox()
    await box.put(box.open("a"), END)
    assert "a" in box
    await box.next()
    assert "a" not in box
    assert len(box) == 0


@pytest.mark.parametrize("end", [END, Failed(code="internal", message="")])
async def test_empty_means_ended_and_sent(end: Event) -> None:
    box = outbox()
    lane = box.open("a")
    empty = asyncio.ensure_future(box.empty())
    await box.put(lane, end)
    await box.next()
    await asyncio.sleep(0)
    assert not empty.done()
    box.sent()
    await empty


async def test_notices_go_first_and_too_many_are_a_flood() -> None:
    box = outbox(notice_limit=2)
    await box.put(box.open("a"), END)
    for _ in range(2):
        box.notice(Pong())
    assert not box.flooded
    box.notice(Pong())
    assert box.flooded
    assert [type(event) for event in await taken(box, 4)] == [Pong, Pong, Pong, Finished]


async def test_next_waits_for_an_event() -> None:
    box = outbox()
    waiting = asyncio.ensure_future(box.next())
    await asyncio.sleep(0)
    box.notice(Pong())
    assert isinstance(await waiting, Pong)
