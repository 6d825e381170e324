"""Reading error answers: the error they carry, or ProtocolError, and nothing but a BatonError."""

from __future__ import annotations

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.bus.reply_errors import ERROR_HEADER, error_headers, raise_reply_error
from shared.errors import BatonError, ErrorInfo, KvExhausted, ProtocolError, error_from

HEADERS = {ERROR_HEADER: "internal"}


def _all(base: type[BatonError]) -> list[type[BatonError]]:
    """The table of errors; what other modules derive travels as the class of the table it derives from."""
    children = [child for child in base.__subclasses__() if child.__module__ == BatonError.__module__]
    return [base, *(found for child in children for found in _all(child))]


@pytest.mark.parametrize("kind", _all(BatonError), ids=lambda kind: kind.code)
def test_every_error_survives_the_wire(kind: type[BatonError]) -> None:
    error = kind("what happened", param="p", retry_after_ms=7)
    with pytest.raises(kind) as raised:
        raise_reply_error(error_headers(error), error.info_bytes())
    assert type(raised.value) is kind
    assert raised.value.info == error.info


def test_another_library_reads_an_error() -> None:
    assert msgpack.unpackb(KvExhausted("full", retry_after_ms=5).info_bytes()) == {
        "code": "kv_exhausted",
        "message": "full",
        "retry_after_ms": 5,
    }


def test_an_error_of_a_newer_peer_is_a_plain_one() -> None:
    error = error_from(ErrorInfo(code="from_the_future", message="?"))
    assert type(error) is BatonError


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in _all(BatonError)]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("headers", [None, {}, {"Other": "x"}])
def test_an_answer_without_the_header_is_no_error(headers: dict[str, str] | None) -> None:
    raise_reply_error(headers, b"anything")


@given(st.binary(max_size=100))
@settings(max_examples=200)
def test_random_bytes_are_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        raise_reply_error(HEADERS, body)


@given(st.dictionaries(st.sampled_from(["code", "message", "param", "retry_after_ms"]), st.text() | st.integers(0, 9)))
def test_maps_of_whatever_values_are_a_baton_error(fields: dict[str, object]) -> None:
    with pytest.raises(BatonError):
        raise_reply_error(HEADERS, msgpack.packb(fields))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x82\xa4code\xa1\xff\xa7message\xa1a",
        b"\x83\xa4code\xa1a\xa7message\xa1a\xa1z" + b"\x91" * 100_000 + b"\xc0",
        b"\x91" * 100_000,
        msgspec.msgpack.encode({"code": 1, "message": "x"}),
    ],
    ids=["empty", "not UTF-8", "deep in an unknown field", "deep", "wrong type"],
)
def test_hostile_bytes_are_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        raise_reply_error(HEADERS, body)
