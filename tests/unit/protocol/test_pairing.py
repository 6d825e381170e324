"""Which workers pair, and what is said of those that do not."""

from __future__ import annotations

import msgspec
import pytest

from shared.core import ModelParts, Role
from shared.protocol.pairing import apart, differ, differences, meet
from shared.protocol.to_all import Beat, WorkerState

PARTS = ModelParts(weights="1", rope="2", config="3", tokenizer="4")


def beat(role: Role, fingerprint: str = "a", parts: ModelParts = PARTS, model: str = "m") -> Beat:
    return Beat(
        worker="w",
        role=role,
        boot="b",
        state=WorkerState.READY,
        interval_ms=500,
        model=model,
        fingerprint=fingerprint,
        parts=parts,
    )


def test_phases_of_one_model_are_meant_to_meet() -> None:
    prefill, decode = beat(Role.PREFILL), beat(Role.DECODE)
    assert meet(prefill, decode)
    assert meet(decode, prefill)
    assert not meet(prefill, prefill)
    assert not meet(prefill, beat(Role.DECODE, model="n"))
    assert not meet(beat(Role.GATEWAY), beat(Role.SCHEDULER))


@pytest.mark.parametrize("part", ModelParts.__struct_fields__)
def test_the_part_that_differs_is_named(part: str) -> None:
    other = msgspec.structs.replace(PARTS, **{part: "x"})
    assert differences(beat(Role.PREFILL), beat(Role.DECODE, "b", other)) == (part,)


def test_equal_fingerprints_pair() -> None:
    assert differences(beat(Role.PREFILL), beat(Role.DECODE)) == ()


def test_models_that_differ_in_a_part_this_process_does_not_know_do_not_pair() -> None:
    assert differences(beat(Role.PREFILL), beat(Role.DECODE, "b")) == ("fingerprint",)


def test_phases_are_apart_only_when_no_two_workers_pair() -> None:
    prefill, other = beat(Role.PREFILL), beat(Role.DECODE, "b", msgspec.structs.replace(PARTS, weights="x"))
    assert apart([prefill], [other]) == "weights differ"
    assert apart([prefill], [other, beat(Role.DECODE)]) == ""
    assert apart([prefill], []) == apart([], [other]) == ""


def test_it_is_said_in_words() -> None:
    assert differ(("rope",)) == "rope differs"
    assert differ(("weights",)) == "weights differ"
    assert differ(("weights", "rope", "tokenizer")) == "weights, rope and tokenizer differ"
