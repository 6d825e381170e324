"""Who is suspected when a worker ends, who is tried, and who goes free."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from frames import frame, placed, request

from services.gateway.sessions.session import Session
from services.gateway.sessions.suspicion import UNANNOUNCED, Suspicion
from services.gateway.sessions.watch import LostWorker
from shared.bus.liveness import Liveness
from shared.bus.outbox import Outbox
from shared.core import Role
from shared.errors import DeadlineExceeded, Draining, EngineFailed, HandoffFailed, Quarantined
from shared.protocol import subjects
from shared.protocol.to_gateway import PromptQuarantined
from shared.protocol.wire import decode, encode
from shared.runtime.tasks import Tasks


class Bus:
    """Remembers what is published."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []

    async def publish(self, subject: str, data: bytes) -> None:
        self.published.append((subject, data))


class Gateway:
    def __init__(self) -> None:
        self.bus = Bus()
        self.outbox = Outbox(self.bus)
        self.fleet = Liveness()
        self.suspicion = Suspicion(self.outbox, self.fleet, gateway="g0", model="tiny", keep_s=60.0)

    async def placed(self, *prompt: int, tokens: int = 0, began: Sequence[Role] = ()) -> Session:
        session = Session(request(prompt or (1, 2, 3)))
        await self.suspicion.admit(session)
        session.place(placed())
        self.get(session, tokens=tokens, began=began)
        return session

    def get(self, session: Session, tokens: int = 0, began: Sequence[Role] = ()) -> None:
        for role in began:
            session.on_frame(frame(0, (), session.epoch, began=role))
        for _ in range(tokens):
            session.on_frame(frame(session.received_tokens, [5], session.epoch))
            self.suspicion.progressed(session)

    def dies(self, role: Role, *sessions: Session, boot: str = "b0", silent: bool = False) -> None:
        worker = "d0" if role is Role.DECODE else "p0"
        self.suspicion.lost(LostWorker("gone", role, worker, boot, silent=silent), sessions)
        for session in sessions:
            self.suspicion.over(session)
            session.begin_epoch(session.epoch + 1)

    def refuses(self, session: Session) -> bool:
        try:
            self.suspicion.check(session)
        except Quarantined:
            return True
        return False


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


async def test_the_sole_suspect_of_two_deaths_is_quarantined(gateway: Gateway):
    session = await gateway.placed(began=[Role.PREFILL])
    gateway.dies(Role.PREFILL, session, boot="b0")
    await gateway.suspicion.admit(session)
    assert session.trial
    session.place(placed())
    gateway.get(session, began=[Role.PREFILL])
    gateway.dies(Role.PREFILL, session, boot="b1")
    with pytest.raises(Quarantined):
        await gateway.suspicion.admit(session)


async def test_decode_is_blamed_on_who_has_no_token_of_it_yet(gateway: Gateway):
    session = await gateway.placed(tokens=1, began=[Role.PREFILL])
    gateway.dies(Role.DECODE, session, boot="b0")
    await gateway.suspicion.admit(session)
    session.place(placed())
    gateway.get(session, tokens=1, began=[Role.PREFILL, Role.DECODE])
    gateway.dies(Role.DECODE, session, boot="b1")
    assert gateway.refuses(session)


async def test_streams_that_moved_to_where_another_is_tried_are_no_alibi(gateway: Gateway):
    session = await gateway.placed(1, tokens=1, began=[Role.PREFILL])
    gateway.dies(Role.DECODE, session, boot="b0")
    await gateway.suspicion.admit(session)
    session.place(placed())
    gateway.get(session, tokens=1, began=[Role.PREFILL, Role.DECODE])
    moved = await gateway.placed(2, tokens=1, began=[Role.PREFILL])
    gateway.dies(Role.DECODE, session, moved, boot="b1")
    assert gateway.refuses(session)
    await gateway.suspicion.admit(moved)
    assert not moved.trial


async def test_streams_that_run_are_never_suspected(gateway: Gateway):
    session = await gateway.placed(tokens=5, began=[Role.PREFILL])
    for boot in range(10):
        gateway.dies(Role.DECODE, session, boot=f"b{boot}")
        await gateway.suspicion.admit(session)
        assert not session.trial
        session.place(placed())
        gateway.get(session, tokens=2, began=[Role.PREFILL])


async def test_prompts_that_wait_are_not_suspected_beside_one_that_is_computed(gateway: Gateway):
    computed = await gateway.placed(1, began=[Role.PREFILL])
    waiting = [await gateway.placed(2 + number) for number in range(20)]
    gateway.dies(Role.PREFILL, computed, *waiting)
    for session in waiting:
        await gateway.suspicion.admit(session)
        assert not session.trial


async def test_without_a_notice_the_first_that_came_are_suspected_and_never_convicted(gateway: Gateway):
    waiting = [await gateway.placed(number) for number in range(20)]
    gateway.dies(Role.PREFILL, *waiting)
    suspected = 0
    for session in waiting:
        async with asyncio.timeout(1):
            await gateway.suspicion.admit(session)
        suspected += session.trial
        session.place(placed())
        gateway.dies(Role.PREFILL, session, boot="b1")
        assert not gateway.refuses(session)
    assert suspected == UNANNOUNCED


async def test_suspects_are_tried_one_at_a_time_and_the_innocent_pass(gateway: Gateway):
    sessions = [await gateway.placed(number, began=[Role.PREFILL]) for number in range(4)]
    gateway.dies(Role.PREFILL, *sessions)
    async with Tasks("trials") as tasks:
        trials = [tasks.start(gateway.suspicion.admit(session), name="trial") for session in sessions]
        for number, session in enumerate(sessions):
            await trials[number]
            assert [one.trial for one in sessions] == [one is session for one in sessions]
            session.place(placed())
            if number == 2:
                gateway.get(session, began=[Role.PREFILL])
                gateway.dies(Role.PREFILL, session, boot="b1")
            else:
                gateway.get(session, tokens=2, began=[Role.PREFILL, Role.DECODE])
    assert [gateway.refuses(session) for session in sessions] == [False, False, True, False]


async def test_a_suspect_waits_for_its_turn_no_longer_than_its_deadline(gateway: Gateway):
    sessions = [await gateway.placed(number, began=[Role.PREFILL]) for number in range(2)]
    gateway.dies(Role.PREFILL, *sessions)
    await gateway.suspicion.admit(sessions[0])
    sessions[1]._deadline_s = 0.0
    with pytest.raises(DeadlineExceeded):
        await gateway.suspicion.admit(sessions[1])


async def test_a_suspect_that_is_given_up_waits_no_longer(gateway: Gateway):
    sessions = [await gateway.placed(number, began=[Role.PREFILL]) for number in range(2)]
    gateway.dies(Role.PREFILL, *sessions)
    await gateway.suspicion.admit(sessions[0])
    async with Tasks("trials") as tasks:
        waiting = tasks.start(gateway.suspicion.admit(sessions[1]), name="trial")
        await asyncio.sleep(0)
        sessions[1].give_up(Draining("the gateway stops"))
        gateway.suspicion.end_all()
        with pytest.raises(Draining):
            await waiting


async def test_a_death_beside_another_suspect_proves_nothing(gateway: Gateway):
    session = await gateway.placed(1, began=[Role.PREFILL])
    gateway.dies(Role.PREFILL, session)
    await gateway.suspicion.admit(session)
    session.place(placed())
    gateway.get(session, began=[Role.PREFILL])
    beside = await gateway.placed(2, began=[Role.PREFILL])
    gateway.dies(Role.PREFILL, session, beside, boot="b1")
    assert not gateway.refuses(session)


async def test_an_engine_that_raises_for_one_on_two_workers_is_proof(gateway: Gateway):
    session = await gateway.placed(began=[Role.PREFILL])
    gateway.suspicion.failed(session, "p0", EngineFailed.code)
    session.begin_epoch(1)
    session.place(placed())
    gateway.suspicion.failed(session, "p0", EngineFailed.code)
    assert not gateway.refuses(session), "the same worker once more"
    session.begin_epoch(2)
    session.place(placed().__class__(session="0" * 32, epoch=2, prefill="p1", decode="d0", queue_ms=1.0))
    gateway.suspicion.failed(session, "p1", EngineFailed.code)
    assert gateway.refuses(session)


async def test_a_prefill_that_has_begun_and_sends_nothing_is_struck(gateway: Gateway):
    sessions = [
        await gateway.placed(1, began=[Role.PREFILL]),
        await gateway.placed(2),
        await gateway.placed(3, tokens=1),
    ]
    for session in sessions:
        gateway.suspicion.failed(session, "d0", HandoffFailed.code)
        gateway.suspicion.failed(session, "p0", HandoffFailed.code)
        session.begin_epoch(1)
        await gateway.suspicion.admit(session)
    assert [session.trial for session in sessions] == [True, False, False]


async def test_the_same_prompt_of_another_client_is_tried_and_refused_alike(gateway: Gateway):
    session = await gateway.placed(began=[Role.PREFILL])
    gateway.dies(Role.PREFILL, session)
    other = await gateway.placed(began=[Role.PREFILL])
    assert other.trial
    gateway.dies(Role.PREFILL, other, boot="b1")
    with pytest.raises(Quarantined):
        await gateway.placed()
    assert not (await gateway.placed(9)).trial


async def test_other_gateways_of_the_model_are_told(gateway: Gateway):
    session = await gateway.placed(began=[Role.PREFILL])
    gateway.suspicion.failed(session, "p0", EngineFailed.code)
    gateway.suspicion.failed(session, "p1", EngineFailed.code)
    async with Tasks("outbox") as tasks:
        tasks.start(gateway.outbox.run(), name="outbox")
        await gateway.outbox.drain()
    [(subject, data)] = gateway.bus.published
    assert subject == subjects.QUARANTINE
    other = Gateway()
    other.suspicion.on_notice(subject, data)
    assert not other.refuses(session), "that was its own word"
    for notice, refused in (
        ({"model": "other"}, False),
        ({"gateway": "g1"}, True),
    ):
        said = decode(PromptQuarantined, data)
        fields = {"gateway": "g1", "model": said.model, "prompt": said.prompt, "for_ms": said.for_ms} | notice
        other.suspicion.on_notice(subject, encode(PromptQuarantined(**fields)))  # type: ignore[arg-type]
        assert other.refuses(session) is refused
    other.suspicion.on_notice(subject, b"garbage")
