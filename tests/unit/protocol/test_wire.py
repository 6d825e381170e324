"""Decoding control messages: what is ours goes round, anything else raises ProtocolError and nothing but that."""

from __future__ import annotations

from contextlib import suppress

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_strategies import KINDS, PACKABLE, as_map, messages

from shared.core import KvRegion, SamplingParams
from shared.errors import ProtocolError
from shared.protocol.to_all import Beat
from shared.protocol.to_decode import Cancel, Claim
from shared.protocol.to_prefill import Credit, Feedback, Imported, Nack, TransferRefused
from shared.protocol.wire import VERSION, Message, decode, encode, pack_ids, unpack_ids

SESSION = "0123456789abcdef" * 2
CANCEL = {"v": VERSION, "session": SESSION, "epoch": 3}

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
few = settings(max_examples=15, deadline=None)


def decodes_or_refuses(kind: type[Message], data: bytes) -> None:
    with suppress(ProtocolError):
        assert isinstance(decode(kind, data), kind)


@every_kind
@given(data=st.data())
@few
def test_a_message_survives_the_wire(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(messages(kind))
    assert decode(kind, encode(message)) == message


@every_kind
@given(data=st.data())
@few
def test_another_library_reads_what_we_write(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(messages(kind))
    assert msgpack.unpackb(encode(message), strict_map_key=False) == as_map(message)


@every_kind
@given(data=st.data())
@few
def test_we_read_what_another_library_writes(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(messages(kind))
    assert decode(kind, msgpack.packb(as_map(message))) == message


@every_kind
@given(data=st.data(), extra=PACKABLE)
@few
def test_unknown_fields_are_ignored(kind: type[Message], data: st.DataObject, extra: object) -> None:
    message = data.draw(messages(kind))
    assert decode(kind, msgpack.packb(as_map(message) | {"from_a_newer_peer": extra})) == message


@every_kind
@given(data=st.data())
@few
def test_every_truncation_is_refused(kind: type[Message], data: st.DataObject) -> None:
    encoded = encode(data.draw(messages(kind)))
    for length in range(len(encoded)):
        with pytest.raises(ProtocolError):
            decode(kind, encoded[:length])


@every_kind
@given(data=st.data(), position=st.integers(0), flip=st.integers(1, 255))
@few
def test_a_flipped_byte_is_refused_or_gives_a_message(
    kind: type[Message], data: st.DataObject, position: int, flip: int
) -> None:
    encoded = bytearray(encode(data.draw(messages(kind))))
    encoded[position % len(encoded)] ^= flip
    decodes_or_refuses(kind, bytes(encoded))


@every_kind
@given(data=st.data(), value=PACKABLE)
@few
def test_a_field_of_the_wrong_type_is_refused_or_gives_a_message(
    kind: type[Message], data: st.DataObject, value: object
) -> None:
    fields = as_map(data.draw(messages(kind)))
    name = data.draw(st.sampled_from(sorted(fields)))
    decodes_or_refuses(kind, msgpack.packb(fields | {name: value}))


@given(kind=st.sampled_from(KINDS), data=st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_random_bytes_are_refused(kind: type[Message], data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(kind, data)


@given(kind=st.sampled_from(KINDS), value=PACKABLE)
@settings(max_examples=300, deadline=None)
def test_messagepack_of_another_shape_is_refused(kind: type[Message], value: object) -> None:
    with pytest.raises(ProtocolError):
        decode(kind, msgpack.packb(value))


@given(version=st.integers(-(2**63), 2**64 - 1).filter(lambda version: version != VERSION))
def test_another_version_is_refused(version: int) -> None:
    with pytest.raises(ProtocolError) as refused:
        decode(Cancel, msgpack.packb(CANCEL | {"v": version}))
    assert refused.value.param == "v"


def test_another_version_is_refused_before_its_fields_are_looked_at() -> None:
    with pytest.raises(ProtocolError, match="version 2"):
        decode(Cancel, msgpack.packb({"v": 2, "session": 7}))


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(b"\x91" * 100_000 + b"\xc0", id="deep nesting"),
        pytest.param(b"\x82\xa1v\x01\xa1z" + b"\x91" * 100_000 + b"\xc0", id="deep nesting in an unknown field"),
        pytest.param(b"\x82\xa1v\x01\xa7session\xdd\xff\xff\xff\xff", id="array of 2**32 items"),
        pytest.param(b"\xdf\xff\xff\xff\xff", id="map of 2**32 items"),
        pytest.param(b"\x82\xa1v\x01\xa7session\xc6\xff\xff\xff\xff", id="4 GiB of bytes"),
        pytest.param(b"\x82\xa1v\x01\xa7session\xa2\xff\xfe", id="not UTF-8"),
        pytest.param(b"\x81\xa1v\xc7\x0c\xff" + b"\xff" * 12, id="timestamp out of range"),
        pytest.param(b"\xc1", id="the byte MessagePack never uses"),
        pytest.param(b"", id="nothing"),
        pytest.param(msgpack.packb(CANCEL) + b"\x00", id="trailing byte"),
    ],
)
def test_hostile_bytes_are_refused(hostile: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(Cancel, hostile)


@pytest.mark.parametrize(
    "change",
    [
        {"session": "*"},
        {"session": ""},
        {"session": "a.b"},
        {"session": SESSION + "\n"},
        {"session": SESSION.upper()},
        {"session": SESSION[:-1]},
        {"epoch": -1},
        {"epoch": 1 << 32},
    ],
    ids=str,
)
def test_a_session_or_epoch_that_no_subject_or_chunk_could_name_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        decode(Cancel, msgpack.packb(CANCEL | change))


@pytest.mark.parametrize("name", ["", "*", ">", "a.b", "a b", "a\r\nPUB x 0", "a\n", "x" * 65, "é"], ids=repr)
def test_a_name_that_is_not_one_token_of_a_subject_is_refused(name: str) -> None:
    claim = Claim(
        session=SESSION,
        epoch=0,
        gateway=name,
        fingerprint="f" * 16,
        prompt_ids=b"",
        max_tokens=1,
        sampling=SamplingParams(),
        deadline_ms=1,
    )
    with pytest.raises(ProtocolError):
        decode(Claim, encode(claim))


def test_a_negative_amount_is_refused() -> None:
    beat = {"v": 1, "worker": "d0", "role": "decode", "boot": "b", "state": "ready", "interval_ms": 500}
    assert decode(Beat, msgpack.packb(beat)).worker == "d0"
    with pytest.raises(ProtocolError):
        decode(Beat, msgpack.packb(beat | {"kv_token_bytes": -1}))


@pytest.mark.parametrize(
    "feedback",
    [
        Credit(transfer=1, total_bytes=2),
        Nack(transfer=1, missing=(KvRegion(0, 1, 2, 3),), credit_bytes=4),
        Imported(transfer=1),
        TransferRefused(transfer=1, reason="no"),
    ],
    ids=lambda feedback: type(feedback).__name__,
)
def test_feedback_is_told_apart_by_its_kind(feedback: Message) -> None:
    assert decode(Feedback, encode(feedback)) == feedback  # type: ignore[arg-type]
    kind = msgspec.to_builtins(feedback)["kind"]
    assert msgpack.unpackb(encode(feedback))["kind"] == kind


def test_feedback_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ProtocolError):
        decode(Feedback, msgpack.packb({"v": 1, "kind": "gift", "transfer": 1}))  # type: ignore[arg-type]


@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_token_ids_survive_the_wire(ids: list[int]) -> None:
    packed = pack_ids(ids)
    assert unpack_ids(packed) == ids
    assert packed == b"".join(token.to_bytes(4, "little", signed=True) for token in ids)


@given(st.binary(max_size=64))
def test_bytes_are_token_ids_only_in_fours(data: bytes) -> None:
    if len(data) % 4:
        with pytest.raises(ProtocolError):
            unpack_ids(data)
    else:
        assert pack_ids(unpack_ids(data)) == data
