"""What the client says, byte for byte."""

from __future__ import annotations

import msgspec
import pytest

from shared.bus.data_plane import operations
from shared.errors import ProtocolError


def test_connect_carries_its_options_as_json() -> None:
    line = operations.connect({"verbose": False, "name": "prefill p0 kv"})
    assert line.startswith(b"CONNECT {")
    assert line.endswith(b"}\r\n")
    assert msgspec.json.decode(line[len(b"CONNECT ") :]) == {"verbose": False, "name": "prefill p0 kv"}


def test_the_lines_of_subscriptions_and_messages() -> None:
    assert operations.subscribe("a.*", 7) == b"SUB a.* 7\r\n"
    assert operations.unsubscribe(7) == b"UNSUB 7\r\n"
    assert operations.publish_line("a.b", 12) == b"PUB a.b 12\r\n"


@pytest.mark.parametrize("subject", ["", "two words", "a\r\nPUB b 0", "a\tb", "a\n", "ü", "a\x00"])
def test_a_subject_that_would_change_the_line_is_refused(subject: str) -> None:
    with pytest.raises(ProtocolError):
        operations.publish_line(subject, 1)
    with pytest.raises(ProtocolError):
        operations.subscribe(subject, 1)
