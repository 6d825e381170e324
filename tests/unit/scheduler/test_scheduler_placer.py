"""Placing one session: who is asked, what a refusal means, and that no claim is left behind."""

from __future__ import annotations

import asyncio

import pytest
from scheduler_words import FINGERPRINT, MODEL, ScriptedWorkers, decode_beat, fleet_of, placement, prefill_beat, request

from services.scheduler import fleet
from services.scheduler.fleet import Fleet
from services.scheduler.placer import Placement, Placer
from shared.core import ModelParts, Role
from shared.errors import (
    Cancelled,
    ContextExceeded,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    KvExhausted,
    Overloaded,
    ProtocolError,
    Unavailable,
    UnsupportedModel,
)
from shared.protocol.to_all import Beat, WorkerState
from shared.protocol.to_scheduler import PlaceRequest
from shared.runtime.tasks import Tasks

PASSED_OVER = [Overloaded("full"), KvExhausted("full"), Draining("bye"), Unavailable("gone"), UnsupportedModel("other")]
RAISED = [InvalidRequest("no"), ContextExceeded("too long"), Cancelled("over"), ProtocolError("what?")]


def code(error: Exception) -> str:
    return type(error).__name__


class Setting:
    def __init__(self, *beats: Beat) -> None:
        self.workers = ScriptedWorkers()
        self.fleet: Fleet = fleet_of(*beats)
        self.placer = Placer(self.fleet, self.workers)

    def hear(self, *beats: Beat) -> None:
        for beat in beats:
            self.fleet.hear(beat)

    async def place(self, what: PlaceRequest | None = None) -> Placement | None:
        return await self.placer.place(what or request(), 5000)

    @property
    def given_back(self) -> list[tuple[Role, str]]:
        """Who was told to forget the session; never with a fence, for it may be asked again."""
        assert not any(cancel.fence for _, _, cancel in self.workers.cancels)
        return [(role, worker) for role, worker, _ in self.workers.cancels]


@pytest.fixture
def it() -> Setting:
    return Setting(decode_beat("d0"), decode_beat("d1"), prefill_beat("p0"), prefill_beat("p1"))


async def test_a_decode_claims_and_then_a_prefill_runs(it: Setting) -> None:
    assert await it.place() == placement(prefill="p0", decode="d0")
    assert it.workers.asked == ["d0", "p0"]
    (claim,), (run,) = it.workers.claims, it.workers.runs
    assert (claim.session, claim.epoch, claim.deadline_ms) == (request().session, 0, 5000)
    assert (run.decode, run.transfer, run.credit_bytes, run.cached_tokens) == ("d0", 5, 4096, 2)
    assert (run.prompt_ids, run.gateway, run.deadline_ms) == (request().prompt_ids, "g0", 5000)
    assert it.given_back == []


async def test_the_starts_that_took_it_are_named(it: Setting) -> None:
    """The gateway may hear a worker for the first time when it has been started anew since."""
    it.workers.boot = "b7"
    assert await it.place() == placement(prefill="p0", decode="d0", prefill_boot="b7", decode_boot="b7")


@pytest.mark.parametrize("error", PASSED_OVER, ids=code)
async def test_a_decode_that_has_no_room_is_passed_over(it: Setting, error: Exception) -> None:
    it.workers.answers["d0"] = [error]
    assert await it.place() == placement(prefill="p0", decode="d1")
    assert it.given_back == []


@pytest.mark.parametrize("error", PASSED_OVER, ids=code)
async def test_a_prefill_that_has_no_room_is_passed_over(it: Setting, error: Exception) -> None:
    it.workers.answers["p0"] = [error]
    assert await it.place() == placement(prefill="p1", decode="d0")
    assert it.given_back == []


async def test_a_silent_decode_is_told_to_forget_and_passed_over(it: Setting) -> None:
    it.workers.answers["d0"] = [DeadlineExceeded("silence")]
    assert await it.place() == placement(prefill="p0", decode="d1")
    assert it.given_back == [(Role.DECODE, "d0")]


async def test_a_silent_prefill_is_told_to_forget_and_passed_over(it: Setting) -> None:
    it.workers.answers["p0"] = [DeadlineExceeded("silence")]
    assert await it.place() == placement(prefill="p1", decode="d0")
    assert it.given_back == [(Role.PREFILL, "p0")]


async def test_when_no_decode_has_room_nobody_is_placed(it: Setting) -> None:
    it.workers.answers |= {"d0": [Overloaded("full")], "d1": [KvExhausted("full")]}
    assert await it.place() is None
    assert it.given_back == []


async def test_when_no_prefill_takes_the_run_the_claim_is_given_back(it: Setting) -> None:
    it.workers.answers |= {"p0": [Overloaded("full")], "p1": [Overloaded("full")]}
    assert await it.place() is None
    assert it.given_back == [(Role.DECODE, "d0")]


@pytest.mark.parametrize("error", RAISED, ids=code)
async def test_what_a_decode_finds_wrong_with_the_request_is_raised(it: Setting, error: Exception) -> None:
    it.workers.answers["d0"] = [error]
    with pytest.raises(type(error)):
        await it.place()
    assert it.workers.asked == ["d0"]


@pytest.mark.parametrize("error", RAISED, ids=code)
async def test_what_a_prefill_finds_wrong_is_raised_and_the_claim_given_back(it: Setting, error: Exception) -> None:
    it.workers.answers["p0"] = [error]
    with pytest.raises(type(error)):
        await it.place()
    assert (Role.DECODE, "d0") in it.given_back


@pytest.mark.parametrize(("worker", "role"), [("d0", Role.DECODE), ("p0", Role.PREFILL)])
async def test_a_worker_whose_answer_cannot_be_read_is_told_to_forget(it: Setting, worker: str, role: Role) -> None:
    """It may have said yes."""
    it.workers.answers[worker] = [ProtocolError("not a valid message")]
    with pytest.raises(ProtocolError):
        await it.place()
    assert (role, worker) in it.given_back


@pytest.mark.parametrize(
    ("worker", "forgetting", "counted"),
    [
        ("d0", [(Role.DECODE, "d0")], []),
        ("p0", [(Role.PREFILL, "p0"), (Role.DECODE, "d0")], [(Role.DECODE, "d0")]),
    ],
)
async def test_a_placement_cancelled_halfway_leaves_nothing_behind(
    it: Setting, worker: str, forgetting: list[tuple[Role, str]], counted: list[tuple[Role, str]]
) -> None:
    """What a decode had granted counts as load until its next beat, which comes after it has let go."""
    it.workers.answers[worker] = [asyncio.Event()]
    async with Tasks("placing") as tasks:
        placing = tasks.start(it.place(), name="place")
        while worker not in it.workers.asked:
            it.workers.was_asked.clear()
            await it.workers.was_asked.wait()
        placing.cancel()
        await asyncio.wait({placing})
    assert placing.cancelled()
    assert it.given_back == forgetting
    assert not it.workers.holding
    assert [given.worker for given in it.fleet._given.all()] == counted
    it.hear(decode_beat("d0", number=2))
    assert not it.fleet._given.all()


async def test_a_refused_placement_is_not_counted_as_load() -> None:
    it = Setting(decode_beat("d0", session_limit=1), prefill_beat("p0"))
    it.workers.answers["d0"] = [Overloaded("full")]
    assert await it.place() is None
    assert await it.place(request(1)) == placement(prefill="p0", decode="d0")


async def test_requests_placed_at_once_do_not_all_go_to_one_worker(it: Setting) -> None:
    placements = await asyncio.gather(*(it.place(request(number)) for number in range(8)))
    placed = [placement for placement in placements if placement is not None]
    assert sorted(placement.decode for placement in placed) == ["d0"] * 4 + ["d1"] * 4
    assert sorted(placement.prefill for placement in placed) == ["p0"] * 4 + ["p1"] * 4


async def test_no_decode_is_claimed_while_every_prefill_queue_is_full() -> None:
    """Otherwise claim and give-back would go round with every beat."""
    it = Setting(decode_beat("d0"), prefill_beat("p0", queued_tokens=1000))
    assert await it.place() is None
    assert it.workers.asked == []


async def test_a_prefill_of_another_build_of_the_model_is_not_asked() -> None:
    it = Setting(decode_beat("d0"), prefill_beat("p0", fingerprint="f" * 16))
    with pytest.raises(Unavailable, match="pair"):
        await it.place()
    assert it.workers.asked == []


async def test_a_decode_that_pairs_with_nobody_is_passed_over() -> None:
    it = Setting(decode_beat("d0", fingerprint="f" * 16), decode_beat("d1", sessions=5), prefill_beat("p0"))
    assert await it.place() == placement(prefill="p0", decode="d1")
    assert it.workers.asked == ["d1", "p0"]


async def test_a_decode_whose_prefills_are_full_leaves_the_prompt_to_one_of_another_build() -> None:
    other = "f" * 16
    it = Setting(decode_beat("d0"), decode_beat("d1"), prefill_beat("p0"))
    it.hear(decode_beat("d2", fingerprint=other, sessions=5), prefill_beat("p2", fingerprint=other))
    it.workers.answers["p0"] = [Overloaded("full")]
    assert await it.place() == placement(prefill="p2", decode="d2", fingerprint=other)
    assert it.workers.asked == ["d0", "p0", "d2", "p2"]


async def test_a_session_with_tokens_stays_with_the_model_that_made_them() -> None:
    """In a fleet that is half way to other weights."""
    other = "f" * 16
    it = Setting(decode_beat("d0"), prefill_beat("p0"))
    it.hear(decode_beat("d1", fingerprint=other, sessions=5), prefill_beat("p1", fingerprint=other))
    begun = request(emitted=4, fingerprint=other)
    assert await it.place(begun) == placement(prefill="p1", decode="d1", fingerprint=other)
    it.hear(decode_beat("d1", fingerprint=other, sessions=10, number=3))
    assert await it.place(begun) is None
    it.hear(decode_beat("d1", fingerprint=other, state=WorkerState.STOPPED, number=4))
    with pytest.raises(Unavailable, match=f"{MODEL} {other} that pair"):
        await it.place(begun)
    assert await it.place(request(1)) == placement(prefill="p0", decode="d0")


async def test_what_is_left_to_others_is_not_asked() -> None:
    other = "f" * 16
    it = Setting(decode_beat("d0"), prefill_beat("p0"))
    it.hear(decode_beat("d1", fingerprint=other, sessions=5), prefill_beat("p1", fingerprint=other))
    placed = await it.placer.place(request(), 5000, frozenset({FINGERPRINT}))
    assert placed == placement(prefill="p1", decode="d1", fingerprint=other)
    assert await it.placer.place(request(1), 5000, frozenset({FINGERPRINT, other})) is None
    assert it.workers.asked == ["d1", "p1"]


async def test_a_begun_session_that_no_worker_of_its_model_could_hold_is_refused() -> None:
    other = "f" * 16
    it = Setting(decode_beat("d0", kv_total_bytes=5), prefill_beat("p0"))
    it.hear(decode_beat("d1", fingerprint=other), prefill_beat("p1", fingerprint=other))
    with pytest.raises(ContextExceeded):
        await it.place(request(emitted=4, fingerprint=FINGERPRINT))


async def test_an_error_of_our_own_leaves_no_load_behind() -> None:
    it = Setting(decode_beat("d0"), prefill_beat("p0"))
    for worker in ("d0", "p0"):
        it.workers.answers[worker] = [RuntimeError("bug")]
        with pytest.raises(RuntimeError):
            await it.place()
    assert [given.worker for given in it.fleet._given.all()] == [(Role.DECODE, "d0")]


async def test_workers_with_another_tokenizer_than_the_gateway_are_not_asked() -> None:
    other, same, unknown = (
        decode_beat(name, parts=ModelParts(tokenizer=digest)) for name, digest in (("d0", "2"), ("d1", "1"), ("d2", ""))
    )
    it = Setting(other, same, prefill_beat("p0"))
    placed = await it.place(request(tokenizer="1"))
    assert placed is not None
    assert placed.decode == "d1"
    for beats in ([unknown], [other]):
        assert await Setting(*beats, prefill_beat("p0")).place(request()) is not None
    with pytest.raises(Unavailable, match="tokenizer of gateway"):
        await Setting(other, prefill_beat("p0")).place(request(tokenizer="1"))


async def test_a_session_with_tokens_moves_to_workers_that_compute_alike() -> None:
    """Their bits are those its tokens came from."""
    beats = [decode_beat("d0", arithmetic="b"), decode_beat("d1", arithmetic="a", sessions=5)]
    beats += [prefill_beat("p0", arithmetic="b"), prefill_beat("p1", arithmetic="a", queued_tokens=50)]
    moved = await Setting(*beats).place(request(emitted=4, arithmetic="a"))
    assert moved == placement(prefill="p1", decode="d1", arithmetic="a")
    new = await Setting(*beats).place(request(arithmetic="a"))
    assert new == placement(prefill="p0", decode="d0", arithmetic="b")


async def test_other_arithmetic_is_better_than_a_worker_that_failed() -> None:
    beats = [decode_beat("d0", arithmetic="b"), decode_beat("d1", arithmetic="a"), prefill_beat("p0", arithmetic="a")]
    moved = await Setting(*beats).place(request(emitted=4, arithmetic="a", avoid=("d1",)))
    assert moved is not None
    assert moved.decode == "d0"


@pytest.mark.parametrize(
    "beats", [(), (decode_beat("d0"),), (prefill_beat("p0"),)], ids=["nobody", "no prefill", "no decode"]
)
async def test_without_a_live_worker_of_each_phase_it_is_unavailable(
    beats: tuple[Beat, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "SETTLE_S", -1.0)
    with pytest.raises(Unavailable) as raised:
        await Setting(*beats).place()
    assert raised.value.retry_after_ms


async def test_a_scheduler_that_has_just_begun_to_listen_lets_it_wait() -> None:
    assert await Setting(decode_beat("d0")).place() is None


async def test_what_fits_no_worker_is_refused_for_good(it: Setting) -> None:
    with pytest.raises(ContextExceeded):
        await it.place(request(max_tokens=1 << 40))
    assert it.workers.asked == []


async def test_tokens_generated_already_need_no_second_room() -> None:
    it = Setting(decode_beat("d0", kv_free_bytes=40), prefill_beat("p0"))
    assert await it.place(request(emitted=5)) is not None
    assert await it.place(request(1)) is None
