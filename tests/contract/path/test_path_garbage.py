"""Bytes that are no message, or a message that makes no sense, on every control subject."""

from __future__ import annotations

import asyncio
import random
import secrets

import msgspec
import nats
import pytest

from shared.bus.connection import Bus
from shared.bus.reply_errors import raise_reply_error
from shared.core import FinishReason, Role, SamplingParams
from shared.errors import BatonError, ErrorInfo, InvalidRequest, ProtocolError
from shared.protocol import subjects
from shared.protocol.to_all import WorkerState
from shared.protocol.to_decode import Cancel, ClaimGranted
from shared.protocol.to_gateway import TokenBatch, TokenFrame
from shared.protocol.to_prefill import RunAccepted
from shared.protocol.wire import encode, pack_ids
from shared.runtime.tasks import Tasks

from .conftest import MakeFleet
from .engines import GatedEngine, engine
from .fleet import GATEWAY, Fleet, colocated, token_ids
from .orders import claim, run_for
from .prompts import prompt


def nonsense() -> list[bytes]:
    noise = random.Random(5)
    pack = msgspec.msgpack.encode
    return [
        b"",
        b"\xc1",
        b"\x81" * 5000,
        noise.randbytes(50),
        pack({}),
        pack({"v": 2}),
        pack({"v": "1"}),
        pack([1, 2, 3]),
        pack({"v": 1, "session": 7, "frames": 3, "worker": None}),
        encode(claim())[:-5],
        encode(Cancel(session=secrets.token_hex(16), epoch=0)),
    ]


REQUESTS = [subjects.claim("d0"), subjects.run("p0"), subjects.PLACE]
NOTICES = [
    subjects.cancel(Role.DECODE, "d0"),
    subjects.cancel(Role.PREFILL, "p0"),
    subjects.tokens(GATEWAY),
    subjects.beat(Role.DECODE, "d0"),
    subjects.beat(Role.GATEWAY, GATEWAY),
    subjects.CANCEL_PLACEMENT,
]


async def still_works(fleet: Fleet) -> None:
    deltas = await fleet.generate(prompt(70), 6)
    assert token_ids(deltas) == colocated(engine(), prompt(70), 6)[0]


@pytest.mark.parametrize("subject", REQUESTS)
async def test_nonsense_requests_are_answered_with_a_typed_error(fleet: Fleet, nats_url: str, subject: str):
    client = await nats.connect(nats_url)
    for data in nonsense():
        answer = await client.request(subject, data, timeout=5)
        with pytest.raises(ProtocolError):
            raise_reply_error(answer.headers, answer.data)
        await client.publish(subject, data)
    await client.close()
    await still_works(fleet)


@pytest.mark.parametrize("subject", NOTICES)
async def test_nonsense_notices_are_ignored(fleet: Fleet, outsider: Bus, subject: str):
    for data in nonsense():
        await outsider.publish(subject, data)
    await outsider.flush()
    await still_works(fleet)


async def test_claims_that_make_no_sense_are_refused_and_hold_nothing(fleet: Fleet, outsider: Bus):
    changes: list[dict[str, object]] = [
        {"session": "*"},
        {"session": "a b"},
        {"session": ""},
        {"session": "0" * 31 + "G"},
        {"epoch": -1},
        {"epoch": 1 << 40},
        {"gateway": "a.b"},
        {"max_tokens": -1},
        {"max_tokens": 1 << 52},
        {"deadline_ms": 0},
        {"emitted": 1 << 52},
        {"prompt_ids": b"\x01"},
        {"prompt_ids": pack_ids([-1])},
        {"fingerprint": ""},
    ]
    for change in changes:
        with pytest.raises(BatonError):
            await outsider.request(subjects.claim("d0"), claim(**change), ClaimGranted, 5.0)
    assert fleet.leftovers() == []


async def test_runs_that_make_no_sense_are_refused_or_end_with_nothing_held(fleet: Fleet, outsider: Bus):
    grant = ClaimGranted(session="0" * 32, epoch=0, worker="d0", transfer=5, credit_bytes=1 << 20)
    changes: list[dict[str, object]] = [
        {"session": "zz"},
        {"epoch": 1 << 40},
        {"transfer": 1 << 40},
        {"decode": "a b"},
        {"max_tokens": 0},
        {"deadline_ms": 0},
        {"prompt_ids": b""},
        {"prompt_ids": b"\x01"},
        {"cached_tokens": 100},
        {"fingerprint": "0" * 16},
    ]
    for change in changes:
        with pytest.raises(BatonError):
            await outsider.request(subjects.run("p0"), run_for(claim(), grant, **change), RunAccepted, 5.0)
    assert fleet.leftovers() == []


async def test_a_run_with_a_bad_prompt_ends_alone(fleet: Fleet, outsider: Bus):
    """The engine refuses it only when its turn comes."""
    grant = ClaimGranted(session="0" * 32, epoch=0, worker="d0", transfer=5, credit_bytes=1 << 20)
    bad = run_for(claim(prompt_ids=pack_ids([1 << 20])), grant)
    await outsider.request(subjects.run("p0"), bad, RunAccepted, 5.0)
    await still_works(fleet)


async def test_a_run_nobody_claimed_for_ends_by_itself(fleet: Fleet, outsider: Bus, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shared.kv.sender.SILENCE_S", 0.02)
    grant = ClaimGranted(session="0" * 32, epoch=0, worker="d0", transfer=5, credit_bytes=100)
    await outsider.request(subjects.run("p0"), run_for(claim(), grant), RunAccepted, 5.0)
    await fleet.at_rest(within_s=1)


async def test_frames_that_make_no_sense_do_not_disturb_those_beside_them(
    make_fleet: MakeFleet, outsider: Bus, clients: Tasks
):
    decode = GatedEngine()
    fleet = await make_fleet(make_decode=lambda: decode)
    decode.step_gate.shut()
    client = clients.start(fleet.generate(prompt(40), 3), name="client")
    await decode.step_gate.reached.wait()
    (session,) = (running.id for running in fleet.sessions._table)
    good = colocated(engine(), prompt(40), 3)[0]

    def frame(index: int, ids: bytes, **fields: object) -> TokenFrame:
        return TokenFrame(session=session, epoch=0, index=index, ids=ids, **fields)  # type: ignore[arg-type]

    frames = (
        frame(1, b"\x00\x00\x00"),
        frame(1, pack_ids([-5])),
        frame(1, pack_ids([7]), logprobs=()),
        msgspec.structs.replace(frame(1, pack_ids([9])), epoch=1),
        msgspec.structs.replace(frame(1, pack_ids([9])), session="0" * 32),
        msgspec.structs.replace(
            frame(0, b"", finish=FinishReason.ERROR, error=ErrorInfo(code="internal", message="old")), epoch=7
        ),
        frame(1, pack_ids(good[1:2])),
    )
    await outsider.send(subjects.tokens(GATEWAY), TokenBatch(worker="d0", frames=frames))
    await outsider.flush()
    decode.step_gate.open()
    assert token_ids(await client) == good


async def test_a_beat_of_a_worker_that_is_not_there_costs_a_try_at_most(fleet: Fleet, outsider: Bus):
    for role in (Role.PREFILL, Role.DECODE):
        ghost = next(beat for beat in fleet.alive() if beat.role is role)
        ghost = msgspec.structs.replace(ghost, worker="a-ghost", state=WorkerState.READY)
        await outsider.send(subjects.beat(role, "a-ghost"), ghost)
    await outsider.flush()
    await asyncio.gather(*(still_works(fleet) for _ in range(4)))


async def test_extreme_sampling_parameters_do_not_end_a_worker(fleet: Fleet, outsider: Bus):
    for sampling in (SamplingParams(seed=-(1 << 62)), SamplingParams(seed=(1 << 64) - 1), SamplingParams(logprobs=-3)):
        await outsider.request(subjects.claim("d0"), order := claim(sampling=sampling), ClaimGranted, 5.0)
        await outsider.send(subjects.cancel(Role.DECODE, "d0"), Cancel(session=order.session, epoch=0))
    with pytest.raises(InvalidRequest):
        await fleet.generate([0, -1], 5)
    await still_works(fleet)
