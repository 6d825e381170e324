"""Schedules of faults, and the pauses that follow them."""

from __future__ import annotations

from benchmarks.soak.chaos import Injury
from benchmarks.soak.pauses import pauses_by_kind
from benchmarks.soak.plan import KINDS, Plan, schedule
from benchmarks.soak.record import Record
from benchmarks.soak.request import SHAPES, RequestMaker

from shared.runtime.process_settings import EngineKind


def plan(seed: int = 1, kinds: tuple[str, ...] = tuple(KINDS)) -> Plan:
    return Plan(duration_s=300.0, seed=seed, engine=EngineKind.FAKE, rate_per_s=4.0, fault_every_s=4.0, kinds=kinds)


def record(*moments_s: float) -> Record:
    it = Record(None)
    it.moments_s = list(moments_s)
    return it


def test_a_seed_repeats_faults_and_requests():
    assert schedule(plan()) == schedule(plan())
    assert schedule(plan()) != schedule(plan(seed=2))
    makers = [RequestMaker(SHAPES[EngineKind.FAKE], seed=1) for _ in range(2)]
    assert makers[0].next() == makers[1].next()


def test_faults_are_in_order_and_within_the_load():
    moments_s = [fault.at_s for fault in schedule(plan())]
    assert moments_s == sorted(moments_s)
    assert 30 < len(moments_s) < 120
    assert moments_s[-1] < 300.0


def test_only_the_kinds_asked_for_come():
    assert {fault.kind for fault in schedule(plan(kinds=("nats", "burst")))} == {"nats", "burst"}


def test_a_pause_counts_from_the_fault_on():
    pauses = pauses_by_kind([Injury("nats", "nats-server", 10.0, 12.0)], [record(8.0, 9.0, 14.0, 14.1)])
    assert (pauses["nats"].max_s, pauses["nats"].first_s) == (4.0, 0.0)


def test_the_wait_for_the_first_token_is_told_apart():
    pauses = pauses_by_kind([Injury("nats", "nats-server", 10.0, 12.0)], [record(9.0, 13.0, 13.1)])
    assert pauses["nats"].first_s == 3.0
    assert pauses["nats"].max_s < 0.2


def test_streams_that_ended_before_it_do_not_count():
    pauses = pauses_by_kind([Injury("nats", "nats-server", 10.0, 12.0)], [record(1.0, 2.0, 9.0)])
    assert pauses["nats"].max_s == 0.0
