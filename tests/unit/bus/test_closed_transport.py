"""A publish between the end of a connection and nats-py's notice of it, on the event loop that the services run on."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import uvloop

from shared.bus.connection import Bus
from shared.bus.settings import BusSettings
from shared.errors import Unavailable
from shared.runtime.tasks import Tasks


@pytest.mark.timeout(20)
@pytest.mark.parametrize("turns", range(4))
def test_it_is_refused_or_waits_for_the_next_connection(nats_url: str, turns: int) -> None:
    """nats-py's own flushing ends at the first write that fails; then each publish writes by itself."""

    async def main() -> None:
        async with Tasks("test") as tasks:
            back = asyncio.Event()
            heard: list[bytes] = []
            listener = await Bus.connect(BusSettings(url=nats_url), name="listener", spawn=tasks.start)
            await listener.listen("closed.transport", lambda _, data: heard.append(data))
            await listener.flush()
            bus = await Bus.connect(BusSettings(url=nats_url), name="cut", spawn=tasks.start, on_reconnect=back.set)
            client = bus._client
            client._flusher_task.cancel()
            await asyncio.wait([client._flusher_task])
            client._transport._io_writer.transport.abort()
            for _ in range(turns):
                await asyncio.sleep(0)
            sent = []
            with contextlib.suppress(Unavailable):
                await bus.publish("closed.transport", b"data")
                sent.append(b"data")
            await back.wait()
            await bus.flush()
            await listener.flush()
            assert heard == sent
            await bus.close()
            await listener.close()

    uvloop.run(main())
