"""What workers say of the sessions they take, and that the scheduler's belief ends with it."""

from __future__ import annotations

import pytest

from shared.core import Role
from shared.protocol import subjects
from shared.protocol.to_all import Beat
from shared.protocol.wire import decode

from .fleet import Fleet, eventually, token_ids
from .prompts import prompt

pytestmark = pytest.mark.timeout(30)


async def test_each_worker_names_a_session_once_when_it_takes_it(fleet: Fleet):
    named: list[tuple[Role, str, int]] = []

    def hear(_subject: str, data: bytes) -> None:
        beat = decode(Beat, data)
        named.extend((beat.role, session, beat.number) for session in beat.taken)

    listening = await fleet.bus.listen(subjects.BEATS, hear)
    await fleet.bus.flush()
    assert len(token_ids(await fleet.generate(prompt(20), 8))) == 8
    await eventually(lambda: len(named) == 2)
    assert {role for role, _, _ in named} == {Role.PREFILL, Role.DECODE}
    assert len({session for _, session, _ in named}) == 1
    assert all(number > 0 for _, _, number in named)
    for scheduler in fleet.schedulers.values():
        await eventually(lambda scheduler=scheduler: scheduler._fleet._given.all() == [])
    await listening.close()
