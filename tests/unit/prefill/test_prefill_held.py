"""The runs a prefill worker holds, seen by the decode workers that wait for them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import cast

import pytest
from prefill_orders import order

from services.prefill.held import RENEW_CLAIM_S, Held, HeldRuns
from services.prefill.queue import RunQueue
from services.prefill.run import PrefillRun, RunState
from shared.engine.fake import FakeEngine, fake_spec
from shared.kv.sender import Sender
from shared.protocol.to_decode import CreditProbe
from shared.protocol.wire import Message
from shared.runtime.tasks import Tasks
from shared.runtime.worker_links import WorkerLinks

SPEC = fake_spec(vocab_size=256)


class Posted:
    """An outbox, and the links that have it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.kv_out = self

    def post(self, _subject: str, message: Message) -> None:
        self.messages.append(message)


@pytest.fixture
def links() -> Posted:
    return Posted()


@pytest.fixture
async def runs(links: Posted) -> AsyncIterator[HeldRuns]:
    engine = FakeEngine(SPEC, 1000 * SPEC.layout.token_bytes)
    async with Tasks("test") as tasks:
        yield HeldRuns(engine, RunQueue(engine, 1000), cast(WorkerLinks, links), tasks, freed=lambda: None)


def held_in(*states: RunState) -> Held:
    held = Held(PrefillRun(order(cached_tokens=9), now_s=100.0), cast(Sender, None))
    for state in states:
        held.run.advance(state)
    return held


@pytest.mark.parametrize(
    ("states", "renewed"),
    [
        ([], True),
        ([RunState.COMPUTING], True),
        ([RunState.COMPUTING, RunState.SENDING], False),
        ([RunState.ENDED], False),
    ],
    ids=["queued", "computing", "sending", "ended"],
)
async def test_a_claim_is_renewed_until_the_prompt_is_computed(
    runs: HeldRuns, links: Posted, states: list[RunState], renewed: bool
) -> None:
    """What decode has already is computed in silence, and so is one that others go before."""
    held = held_in(*states)
    accepted_s = held.claim_renewed_s
    for later_s in (0.9, 1.1, 1.9, 2.2):
        runs.renew_claim(held, accepted_s + later_s * RENEW_CLAIM_S)
    assert links.messages == [CreditProbe(transfer=1, published_bytes=0)] * (2 if renewed else 0)


async def test_in_a_call_that_lasts_the_claims_of_others_are_renewed(runs: HeldRuns, links: Posted) -> None:
    inside, beside = held_in(RunState.COMPUTING), held_in(RunState.COMPUTING)
    with runs.computing([inside]):
        late_s = time.monotonic() + 1.1 * RENEW_CLAIM_S
        runs.renew_claim(inside, late_s)
        assert links.messages == []
        runs.renew_claim(beside, late_s)
        assert len(links.messages) == 1
    with runs.computing([inside]):
        inside.claim_renewed_s -= 2 * RENEW_CLAIM_S
        runs.renew_claim(inside, time.monotonic())
    assert len(links.messages) == 2
