"""What is answered to frames nobody waits for."""

from __future__ import annotations

from frames import frame

from services.gateway.sessions.strays import Strays
from shared.core import FinishReason
from shared.errors import WorkerFailed


def test_a_worker_that_goes_on_is_told_once_to_stop():
    strays = Strays()
    cancel = strays.cancel_for("d0", frame(3, [7], epoch=2))
    assert cancel is not None
    assert (cancel.session, cancel.epoch, cancel.fence) == ("s", 2, True)
    assert strays.cancel_for("d0", frame(4, [8], epoch=2)) is None


def test_each_worker_and_epoch_is_told():
    strays = Strays()
    told = [strays.cancel_for(worker, frame(0, [1], epoch)) for worker in ("d0", "p0") for epoch in (0, 1)]
    assert None not in told


def test_what_ends_by_itself_needs_no_word():
    strays = Strays()
    assert strays.cancel_for("d0", frame(3, [7], finish=FinishReason.LENGTH)) is None
    assert strays.cancel_for("d0", frame(0, [], finish=FinishReason.ERROR, error=WorkerFailed("broken").info)) is None
    assert strays.cancel_for("p0", frame(0, [])) is None


def test_only_so_many_are_remembered():
    strays = Strays(remembered=2)
    for epoch in range(3):
        strays.cancel_for("d0", frame(0, [1], epoch))
    assert strays.cancel_for("d0", frame(0, [1], 2)) is None
    assert strays.cancel_for("d0", frame(0, [1], 0)) is not None
