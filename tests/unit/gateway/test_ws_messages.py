"""What a WebSocket client may send: the envelope."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidRequest
from shared.protocol.from_client import Cancel, Generate, Ping, Resume, socket_message

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_generate_keeps_the_parameters_for_those_who_check_them() -> None:
    message = socket_message({"type": "generate", "id": "1", "prompt": "hi", "no_such_parameter": 1})
    assert message == Generate("1", {"prompt": "hi", "no_such_parameter": 1})


def test_stream_true_is_what_happens_anyway() -> None:
    assert socket_message({"type": "generate", "id": "1", "stream": True}) == Generate("1", {})


def test_cancel_and_ping() -> None:
    assert socket_message({"type": "cancel", "id": "1"}) == Cancel("1")
    assert socket_message({"type": "ping"}) == Ping()


def test_resume() -> None:
    session = "0123456789abcdef" * 2
    assert socket_message({"type": "resume", "id": "1", "session": session}) == Resume("1", session, 0)
    assert socket_message({"type": "resume", "id": "1", "session": session, "after": 5}) == Resume("1", session, 5)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "type"),
        ({"type": "nonsense"}, "type"),
        ({"type": ["generate"]}, "type"),
        ({"type": "generate"}, "id"),
        ({"type": "generate", "id": ""}, "id"),
        ({"type": "generate", "id": "x" * 65}, "id"),
        ({"type": "generate", "id": 7}, "id"),
        ({"type": "generate", "id": "1", "stream": False}, "stream"),
        ({"type": "cancel"}, "id"),
        ({"type": "cancel", "id": "1", "prompt": "x"}, "prompt"),
        ({"type": "ping", "id": "1"}, "id"),
        ({"type": "resume", "session": "0" * 32}, "id"),
        ({"type": "resume", "id": "1"}, "session"),
        ({"type": "resume", "id": "1", "session": "*"}, "session"),
        ({"type": "resume", "id": "1", "session": "0" * 32, "after": -1}, "after"),
        ({"type": "resume", "id": "1", "session": "0" * 32, "after": True}, "after"),
        ({"type": "resume", "id": "1", "session": "0" * 32, "prompt": "x"}, "prompt"),
    ],
)
def test_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        socket_message(fields)
    assert caught.value.param == param


@given(st.dictionaries(st.sampled_from(["type", "id", "stream", "x"]) | st.text(max_size=4), JSON, max_size=5))
def test_any_object_is_a_message_or_refused(fields: dict[str, Any]) -> None:
    try:
        message = socket_message(fields)
    except InvalidRequest:
        return
    assert isinstance(message, Generate | Resume | Cancel | Ping)
