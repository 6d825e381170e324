"""Which reply subjects are answered, and where probes go."""

from __future__ import annotations

import pytest

from services.gateway.nats_door.inbox import answerable, beside_inbox


@pytest.mark.parametrize("reply", ["_INBOX.abc", "_INBOX.abc.1", "my.own.inbox", "x", "batons.v1"])
def test_inboxes_are_answered(reply: str) -> None:
    assert answerable(reply)


@pytest.mark.parametrize(
    "reply",
    ["", "baton.v1.beat.decode.d0", "baton.v1.generate", "$SYS.x", "$JS.ACK.x", "a.*", ">", "a.>", "a..b", ".a", "a b"],
)
def test_other_subjects_are_not(reply: str) -> None:
    assert not answerable(reply)


def test_a_probe_goes_beside_a_shared_inbox() -> None:
    assert beside_inbox("_INBOX.client.7", "probe") == "_INBOX.client.probe"


def test_an_inbox_of_its_own_has_nothing_beside_it() -> None:
    assert beside_inbox("_INBOX.client", "probe") is None
