"""The bytes of a NATS request: plain MessagePack in, a request or a typed error out."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import BatonError, InvalidRequest, ProtocolError
from shared.protocol.from_client import NatsGenerate, Resume, nats_generate


def packed(fields: Any) -> bytes:
    data: bytes = msgpack.packb(fields)
    return data


def test_a_request_of_another_library_is_read() -> None:
    request = nats_generate(packed({"v": 1, "prompt": "hi", "max_tokens": 4, "deadline_ms": 1500}))
    assert request == NatsGenerate({"prompt": "hi", "max_tokens": 4}, stream=True, deadline_s=1.5)


def test_it_may_want_one_message_only() -> None:
    assert not nats_generate(packed({"v": 1, "stream": False})).stream


def test_the_rest_of_a_session_is_asked_for_without_a_prompt() -> None:
    request = nats_generate(packed({"v": 1, "resume": "0" * 32, "after": 7}))
    assert request.resume == Resume("", "0" * 32, 7)
    assert (request.params, request.stream) == ({}, True)


@pytest.mark.parametrize("fields", [{"prompt": "hi"}, {"v": 2}, {"v": "1"}, {"v": True}, {"v": None}])
def test_another_version_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        nats_generate(packed(fields))
    assert caught.value.param == "v"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"{}",
        b"\x81",
        b"\x81\xa1v\x01garbage",
        packed([1]),
        packed({1: 2}),
        b"\x81\xa2\xff\xff\x01",
        b"\x91" * 9999,
    ],
)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        nats_generate(data)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"resume": "0" * 32, "stream": False}, "stream"),
        ({"resume": "0" * 32, "deadline_ms": 5}, "deadline_ms"),
        ({"resume": "0" * 32, "prompt": "hi"}, "prompt"),
        ({"resume": "0" * 32, "after": 1.0}, "after"),
        ({"resume": ">"}, "session"),
        ({"stream": 1}, "stream"),
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"deadline_ms": "1"}, "deadline_ms"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        nats_generate(packed({"v": 1} | fields))
    assert caught.value.param == param


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_typed_error(data: bytes) -> None:
    with contextlib.suppress(BatonError):
        nats_generate(data)


@given(
    st.dictionaries(
        st.sampled_from(["v", "stream", "deadline_ms", "prompt"]),
        st.none() | st.booleans() | st.integers(0, 2) | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    )
)
def test_any_map_is_a_request_or_a_typed_error(fields: dict[str, Any]) -> None:
    with contextlib.suppress(BatonError):
        nats_generate(packed(fields))
