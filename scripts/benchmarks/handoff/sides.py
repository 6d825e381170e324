"""The two processes of the benchmark, each on a core of its own: they take orders and tell what they saw.

An order goes through `Order -> None (ready) -> None (go) -> Times`.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection

import msgspec
import torch
import uvloop

from benchmarks.handoff.arena import Arena
from benchmarks.handoff.plan import Order, Times, Way
from benchmarks.handoff.raw import RawReceiver, RawSender
from benchmarks.handoff.transfers import BusyEngine, ReceivingSide, SendingSide, connect
from shared.runtime.tasks import Tasks

Go = Callable[[], None]


class SideProcess:
    """One of the two, seen from the other end of its pipe."""

    def __init__(self, *, sends: bool, core: int | None, lanes: int) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(theirs, sends, core, lanes), daemon=True
        )
        self._process.start()
        theirs.close()

    def prepare(self, order: Order) -> None:
        """Connect and subscribe; returns when done."""
        self._pipe.send(order)
        self._pipe.recv()

    def go(self) -> None:
        self._pipe.send(None)

    def times(self) -> Times:
        """Wait for the end of what `go` began. Raises EOFError when the process has died."""
        times: Times = self._pipe.recv()
        return times

    def close(self) -> None:
        self._pipe.close()
        self._process.join(timeout=10)
        self._process.kill()


def _serve(pipe: Connection, sends: bool, core: int | None, lanes: int) -> None:
    """The process: one order after the other, until the pipe is closed."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    arena = Arena(lanes)
    if sends:
        arena.fill()

    def ready() -> None:
        pipe.send(None)
        pipe.recv()

    while True:
        try:
            order: Order = pipe.recv()
        except EOFError:
            return
        if not sends:
            arena.clear()
        times = _raw(order, sends, ready) if order.way is Way.RAW else uvloop.run(_transfer(order, sends, arena, ready))
        pipe.send(msgspec.structs.replace(times, digests=arena.digests()))


def _raw(order: Order, sends: bool, ready: Go) -> Times:
    side = RawSender(order) if sends else RawReceiver(order)
    ready()
    times = side.move()
    side.close()
    return times


async def _transfer(order: Order, sends: bool, arena: Arena, ready: Go) -> Times:
    async with Tasks("bench") as tasks:
        connection = await connect(order, "sender" if sends else "receiver", tasks)
        if sends:
            sender = SendingSide(order, arena, connection)
            ready()
            times = await sender.move()
        else:
            receiver = ReceivingSide(order, arena, connection, tasks)
            await receiver.listen()
            ready()
            with BusyEngine(order.busy_receiver):
                times = await receiver.move()
        await connection.close()
    return times
