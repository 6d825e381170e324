"""Sessions nobody waits for, such as a dead scheduler may have placed: the workers let go of them, and soon."""

from __future__ import annotations

from shared.core import Role
from shared.protocol import subjects
from shared.protocol.to_decode import Cancel, ClaimGranted
from shared.protocol.to_prefill import RunAccepted

from .conftest import MakeFleet
from .engines import engine
from .fleet import Fleet, eventually
from .orders import claim, run_for


async def place(fleet: Fleet, prompt_tokens: int, max_tokens: int) -> str:
    """A session the gateway knows nothing of, held by both workers. Returns its id."""
    wanted = claim(prompt_tokens, max_tokens)
    grant = await fleet.bus.request(subjects.claim("d0"), wanted, ClaimGranted, 5.0)
    await fleet.bus.request(subjects.run("p0"), run_for(wanted, grant), RunAccepted, 5.0)
    return wanted.session


async def test_the_first_token_of_a_session_its_gateway_does_not_know_ends_it(make_fleet: MakeFleet):
    fleet = await make_fleet(make_decode=lambda: engine(step_s=0.01))
    async with fleet.freed_soon():
        await place(fleet, 100, 3000)


async def test_a_cancel_to_prefill_alone_frees_the_claim_that_waits_for_it(make_fleet: MakeFleet):
    fleet = await make_fleet(make_prefill=lambda: engine(prefill_token_s=0.01))
    session = await place(fleet, 1000, 16)
    await eventually(lambda: fleet.sessions_on("d0") == 1)
    async with fleet.freed_soon():
        await fleet.bus.send(subjects.cancel(Role.PREFILL, "p0"), Cancel(session=session, epoch=0))
