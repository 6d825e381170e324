"""The fake engine keeps the contract, and notices every byte of its cache."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core import KvRegion, SamplingParams
from shared.engine.contract import PrefillSlice, SequenceSpec
from shared.engine.fake import FAKE_LAYOUT, FakeEngine, FakePoison, fake_spec
from shared.errors import ContextExceeded, InvalidRequest, KvExhausted

GREEDY = SamplingParams(temperature=0.0)
PROMPT = list(range(40, 60))
STEPS = 12


def sequence(key: str = "a", prompt: list[int] = PROMPT, **options: object) -> SequenceSpec:
    options = {"sampling": GREEDY, "capacity_tokens": len(prompt) + STEPS} | options
    return SequenceSpec(key=key, prompt_ids=prompt, **options)  # type: ignore[arg-type]


def engine(**options: object) -> FakeEngine:
    return FakeEngine(fake_spec(), **options)  # type: ignore[arg-type]


def alone(prompt: list[int] = PROMPT, cuts: list[int] | None = None, **options: object) -> list[int]:
    """The tokens of one sequence, its prompt cut at `cuts`."""
    made = engine()
    made.open(sequence(prompt=prompt, **options))
    edges = [0, *sorted(set(cuts or [])), len(prompt)]
    sampled = [made.prefill([PrefillSlice("a", start, stop)])[0] for start, stop in itertools.pairwise(edges)]
    assert all(token is None for token in sampled[:-1])
    assert sampled[-1] is not None
    return [sampled[-1].token_id, *(made.step(["a"])[0].token_id for _ in range(STEPS - 1))]


def handed_over(pieces: list[tuple[KvRegion, bytes]], first: int) -> list[int]:
    """The tokens of a decode that was given `pieces`."""
    decode = engine()
    decode.open(sequence())
    for region, payload in pieces:
        decode.import_kv("a", region, memoryview(payload))
    decode.append("a", first)
    return [first, *(decode.step(["a"])[0].token_id for _ in range(STEPS - 1))]


def exported(regions: list[KvRegion]) -> tuple[list[tuple[KvRegion, bytes]], int]:
    prefill = engine()
    prefill.open(sequence())
    first = prefill.prefill([PrefillSlice("a", 0, len(PROMPT))])[0]
    assert first is not None
    return [(region, bytes(prefill.export_kv("a", region))) for region in regions], first.token_id


QUARTERS = [KvRegion(layer, layer + 2, token, token + 10) for layer in (0, 2) for token in (0, 10)]


@given(cuts=st.lists(st.integers(1, len(PROMPT) - 1), max_size=6))
@settings(max_examples=30)
def test_tokens_do_not_depend_on_how_the_prompt_is_cut(cuts: list[int]) -> None:
    assert alone(cuts=cuts) == alone()


def test_tokens_do_not_depend_on_who_shares_the_batch() -> None:
    made = engine()
    keys = ["a", "b", "c"]
    prompts = {key: [number, *PROMPT] for number, key in enumerate(keys)}
    for key in keys:
        made.open(sequence(key, prompts[key]))
    firsts = made.prefill([PrefillSlice(key, 0, len(PROMPT) + 1) for key in keys])
    steps = [made.step(keys) for _ in range(STEPS - 1)]
    for index, key in enumerate(keys):
        together = [tokens[index].token_id for tokens in [firsts, *steps] if tokens[index] is not None]  # type: ignore[union-attr]
        assert together == alone(prompts[key])


def test_tokens_depend_on_the_prompt_and_on_the_seed() -> None:
    assert alone([1, *PROMPT]) != alone([2, *PROMPT])
    seeded = [alone(sampling=SamplingParams(seed=seed)) for seed in (1, 1, 2)]
    assert seeded[0] == seeded[1] != seeded[2]


def test_a_generation_goes_on_from_its_own_tokens_as_if_never_moved() -> None:
    tokens = alone()
    assert alone([*PROMPT, *tokens[:5]], capacity_tokens=64, emitted=5)[: STEPS - 5] == tokens[5:]


def test_tokens_do_not_depend_on_the_handoff() -> None:
    pieces, first = exported(QUARTERS)
    assert handed_over(pieces, first) == alone()
    assert handed_over(pieces[::-1], first) == alone()
    assert [len(payload) for _, payload in pieces] == [region.size_bytes(FAKE_LAYOUT) for region in QUARTERS]


@pytest.mark.parametrize("lost", range(4))
def test_a_lost_chunk_changes_the_tokens(lost: int) -> None:
    pieces, first = exported(QUARTERS)
    assert handed_over(pieces[:lost] + pieces[lost + 1 :], first) != alone()


@pytest.mark.parametrize(
    ("one", "other"), [(0, 1), (0, 2), (1, 3), (2, 3)], ids=["tokens", "layers", "layers", "tokens"]
)
def test_chunks_that_changed_places_change_the_tokens(one: int, other: int) -> None:
    pieces, first = exported(QUARTERS)
    (region_one, payload_one), (region_other, payload_other) = pieces[one], pieces[other]
    pieces[one], pieces[other] = (region_one, payload_other), (region_other, payload_one)
    assert handed_over(pieces, first) != alone()


@given(position=st.integers(0, QUARTERS[0].size_bytes(FAKE_LAYOUT) - 1), flip=st.integers(1, 255))
@settings(max_examples=50, deadline=None)
def test_a_changed_byte_changes_the_tokens(position: int, flip: int) -> None:
    pieces, first = exported(QUARTERS)
    changed = bytearray(pieces[0][1])
    changed[position] ^= flip
    assert handed_over([(QUARTERS[0], bytes(changed)), *pieces[1:]], first) != alone()


def test_memory_is_reserved_by_open_and_free_after_close() -> None:
    made = engine(kv_bytes=100 * FAKE_LAYOUT.token_bytes)
    made.open(sequence("a", capacity_tokens=60))
    assert made.usage().free_bytes == 40 * FAKE_LAYOUT.token_bytes
    with pytest.raises(KvExhausted):
        made.open(sequence("b", capacity_tokens=41))
    made.open(sequence("b", capacity_tokens=40))
    assert made.usage().free_bytes == 0
    for key in ("a", "b", "b", "never opened"):
        made.close(key)
    assert made.usage().free_bytes == made.usage().total_bytes


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (sequence(capacity_tokens=4097), ContextExceeded),
        (sequence(prompt=[1, 512]), InvalidRequest),
        (sequence(prompt=[-1]), InvalidRequest),
    ],
    ids=["beyond the context", "outside the vocabulary", "negative"],
)
def test_a_refused_sequence_holds_nothing(spec: SequenceSpec, error: type[Exception]) -> None:
    made = engine()
    with pytest.raises(error):
        made.open(spec)
    assert made.usage().free_bytes == made.usage().total_bytes


def test_a_key_is_opened_once() -> None:
    made = engine()
    made.open(sequence())
    with pytest.raises(ValueError, match="open already"):
        made.open(sequence())
    made.close("a")
    assert made.usage().free_bytes == made.usage().total_bytes


def test_no_call_on_one_sequence_touches_another() -> None:
    made = engine()
    made.open(sequence("a"))
    made.open(sequence("b"))
    first = made.prefill([PrefillSlice("a", 0, len(PROMPT))])[0]
    assert first is not None
    made.import_kv("b", KvRegion(0, 4, 0, 20), memoryview(bytes(KvRegion(0, 4, 0, 20).size_bytes(FAKE_LAYOUT))))
    made.append("b", 3)
    made.close("b")
    assert [first.token_id, *(made.step(["a"])[0].token_id for _ in range(STEPS - 1))] == alone()


def test_logprobs_come_when_asked_for() -> None:
    made = engine()
    made.open(sequence(sampling=SamplingParams(temperature=0.0, logprobs=3)))
    token = made.prefill([PrefillSlice("a", 0, len(PROMPT))])[0]
    assert token is not None
    assert token.logprob is not None
    assert len(token.logprob.top) == 3
    assert token.logprob.top[0][0] == token.token_id


def test_a_call_that_raises_for_one_leaves_the_others_as_they_were() -> None:
    together, apart = engine(poison=FakePoison(error=7)), engine()
    for each in (together, apart):
        each.open(sequence("well"))
        each.open(sequence("ill", [1, 7, 3]))
    parts = [PrefillSlice("well", 0, len(PROMPT)), PrefillSlice("ill", 0, 3)]
    with pytest.raises(ArithmeticError):
        together.prefill(parts)
    assert together.prefill(parts[:1]) == apart.prefill(parts[:1])
    with pytest.raises(ArithmeticError):
        together.step(["well", "ill"])
    assert together.step(["well"]) == apart.step(["well"])
