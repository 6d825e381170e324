"""Who may hold a session on a decode worker."""

from __future__ import annotations

import msgspec
import pytest
from claims import SPEC, claim, desk, engine

from services.decode.desk import ClaimDesk
from services.decode.session import SessionState
from shared.engine.fake import FakeEngine
from shared.errors import (
    BatonError,
    Cancelled,
    ContextExceeded,
    InvalidRequest,
    KvExhausted,
    Overloaded,
    ProtocolError,
    UnsupportedModel,
)
from shared.protocol.to_decode import Claim
from shared.protocol.wire import pack_ids


def used_tokens(it: FakeEngine) -> int:
    return (it.usage().total_bytes - it.usage().free_bytes) // SPEC.layout.token_bytes


def test_a_granted_claim_holds_prompt_and_answer():
    it = engine()
    session = desk(it).grant(claim(10, max_tokens=16))
    assert used_tokens(it) == 26
    assert session.state is SessionState.CLAIMED
    assert session.grant.worker == "d0"
    assert session.grant.credit_bytes == 1 << 20


def test_what_was_emitted_already_is_part_of_the_prompt():
    it = engine()
    desk(it).grant(claim(10, max_tokens=16, emitted=4))
    assert used_tokens(it) == 22


def test_the_window_has_room_for_two_of_the_smallest_chunks():
    it = engine()
    tiny = type(desk(it))(it, "d0", batch_limit=1, window_bytes=1)
    assert tiny.grant(claim()).grant.credit_bytes == 2 * SPEC.layout.token_layer_bytes


def test_the_deadline_counts_from_when_it_was_received():
    it = desk(engine(), clock_s=100.0)
    assert it.grant(claim(deadline_ms=2500)).deadline_s == 102.5


def test_a_repeated_claim_gets_the_same_grant():
    it = desk(engine())
    order = claim()
    assert it.grant(order) is it.grant(order)
    assert len(it) == 1


def test_a_session_that_is_being_freed_is_not_granted_again():
    it = desk(engine())
    session = it.grant(order := claim())
    session.advance(SessionState.ENDED)
    with pytest.raises(Overloaded):
        it.grant(order)
    it.release(session)
    assert it.grant(order) is not session


def test_every_claim_has_its_own_transfer():
    it = desk(engine())
    assert len({it.grant(claim()).grant.transfer for _ in range(10)}) == 10


def test_an_older_epoch_is_replaced_and_its_end_frees_only_itself():
    held = engine()
    it = desk(held)
    old = it.grant(order := claim())
    newer = msgspec.structs.replace(order, epoch=1)
    assert it.older(newer) is old
    assert it.older(order) is None
    new = it.grant(newer)
    assert used_tokens(held) == 52
    it.release(old)
    assert used_tokens(held) == 26
    assert it.find(order.session) is new
    assert len(it) == 1


def test_an_epoch_older_than_the_one_held_is_refused():
    it = desk(engine())
    it.grant(order := claim(epoch=2))
    with pytest.raises(Cancelled):
        it.grant(msgspec.structs.replace(order, epoch=1))


def test_a_fence_shuts_out_its_epoch_and_older_ones_only():
    it = desk(engine())
    order = claim()
    it.fence(order.session, 1)
    for epoch in (0, 1):
        with pytest.raises(Cancelled):
            it.grant(msgspec.structs.replace(order, epoch=epoch))
    assert it.grant(msgspec.structs.replace(order, epoch=2))
    assert it.grant(claim())


@pytest.mark.parametrize(
    ("order", "error"),
    [
        (claim(fingerprint="0" * 16), UnsupportedModel),
        (claim(max_tokens=0), InvalidRequest),
        (claim(max_tokens=5, emitted=5), InvalidRequest),
        (claim(deadline_ms=0), InvalidRequest),
        (claim(prompt_ids=b""), InvalidRequest),
        (claim(prompt_ids=b"\x00"), ProtocolError),
        (claim(prompt_ids=pack_ids([0, 256])), InvalidRequest),
        (claim(prompt_ids=pack_ids([-1])), InvalidRequest),
        (claim(max_tokens=10_000), ContextExceeded),
        (claim(max_tokens=2000), KvExhausted),
    ],
)
def test_a_refused_claim_holds_nothing(order: Claim, error: type[BatonError]):
    held = engine()
    it = desk(held)
    with pytest.raises(error):
        it.grant(order)
    assert (used_tokens(held), len(it), it.find(order.session)) == (0, 0, None)


def test_seats_are_limited():
    it = desk(engine(), batch_limit=2)
    first = it.grant(claim())
    it.grant(claim())
    with pytest.raises(Overloaded):
        it.grant(claim())
    it.release(first)
    assert it.grant(claim())


def test_a_new_epoch_needs_no_seat_beside_the_one_it_replaces():
    it = desk(engine(), batch_limit=1)
    old = it.grant(order := claim())
    new = it.grant(msgspec.structs.replace(order, epoch=1))
    it.release(old)
    assert it.sessions() == [new]


def test_releasing_twice_is_no_error():
    held = engine()
    it = desk(held)
    session = it.grant(claim())
    it.release(session)
    it.release(session)
    assert (used_tokens(held), len(it)) == (0, 0)


def test_sessions_past_their_deadline_are_overdue():
    now_s = [100.0]
    held = engine()
    it = type(desk(held))(held, "d0", batch_limit=9, window_bytes=1 << 20, clock=lambda: now_s[0])
    early = it.grant(claim(deadline_ms=1000))
    it.grant(claim(deadline_ms=5000))
    assert it.overdue() == []
    now_s[0] = 101.0
    assert it.overdue() == [early]


def test_a_claim_nobody_feeds_is_told_until_prefill_speaks():
    now_s = 100.0
    it = ClaimDesk(engine(), "d0", batch_limit=8, window_bytes=1 << 20, clock=lambda: now_s)
    session = it.grant(claim())
    now_s = 130.1
    assert it.unfed(lease_s=30.0) == [session]
    it.fed(session)
    assert it.unfed(lease_s=30.0) == []


def test_a_running_session_needs_no_prefill():
    now_s = 100.0
    it = ClaimDesk(engine(), "d0", batch_limit=8, window_bytes=1 << 20, clock=lambda: now_s)
    it.grant(claim()).advance(SessionState.RUNNING)
    now_s = 1000.0
    assert it.unfed(lease_s=30.0) == []
