"""Workers that differ: caches of other dtypes and int8 pair, other models do not and say why."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tiny_models import save_tiny

from shared.core import KvEncoding, KvRegion, ModelParts
from shared.engine.contract import Engine, PrefillSlice, SequenceSpec
from shared.engine.fake import FakeEngine
from shared.engine.torch_engine import TorchEngine
from shared.errors import BatonError
from shared.kv.cells import convert
from shared.kv.encoding import wire_bytes
from shared.kv.int8 import Int8Codec

from .conftest import MakeFleet
from .engines import MODEL, VOCAB_SIZE, engine, spec
from .fleet import GREEDY, colocated, eventually, token_ids
from .prompts import prompt

TOKENS = 12
LENGTHS = (1, 5, 64, 100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("tiny"), vocab_size=VOCAB_SIZE)


def torch_engine(folder: Path, dtype: str, *, prefix_cache: bool = False) -> TorchEngine:
    return TorchEngine.load(folder, name=MODEL, dtype=dtype, kv_bytes=8 << 20, prefix_cache=prefix_cache)


def handed_over(prefill: Engine, decode: Engine, length: int, travel: Callable[[memoryview], memoryview]) -> list[int]:
    """What two engines make of a prompt when the whole cache goes from one to the other as `travel` makes it."""
    ids = prompt(length)
    for one in (prefill, decode):
        one.open(SequenceSpec(key="k", prompt_ids=ids, sampling=GREEDY, capacity_tokens=length + TOKENS))
    (first,) = prefill.prefill([PrefillSlice("k", 0, length)])
    assert first is not None
    region = KvRegion(0, prefill.spec.layout.layers, 0, length)
    decode.import_kv("k", region, travel(prefill.export_kv("k", region)))
    decode.append("k", first.token_id)
    tokens = [first.token_id, *(decode.step(["k"])[0].token_id for _ in range(TOKENS - 1))]
    for one in (prefill, decode):
        one.close("k")
    return tokens


@pytest.mark.parametrize(("there", "here"), [("float32", "bfloat16"), ("bfloat16", "float32")])
async def test_caches_of_other_dtypes_are_converted(make_fleet: MakeFleet, folder: Path, there: str, here: str):
    fleet = await make_fleet(
        make_prefill=lambda: torch_engine(folder, there),
        make_decode=lambda: torch_engine(folder, here),
        chunk_tokens=37,
        chunk_bytes=8192,
        window_bytes=20_000,
    )
    answers = await asyncio.gather(*(fleet.generate(prompt(length), TOKENS) for length in LENGTHS))
    prefill, decode = torch_engine(folder, there), torch_engine(folder, here)
    for length, deltas in zip(LENGTHS, answers, strict=True):
        expected = handed_over(prefill, decode, length, lambda cells: convert(cells, there, here))
        assert token_ids(deltas) == expected, length
        timings = deltas[-1].timings
        assert timings is not None
        assert timings.kv_bytes == length * prefill.spec.layout.token_bytes
        expected_words = "float32 to bfloat16 (lossy)" if here == "bfloat16" else "bfloat16 to float32, exact"
        assert timings.kv_encoding == expected_words


async def test_a_decode_that_asks_for_int8_gets_it_and_everybody_says_so(make_fleet: MakeFleet, folder: Path):
    """Slices and chunks as long as the prompt, so that the scales are those of one whole cache."""
    fleet = await make_fleet(
        make_prefill=lambda: torch_engine(folder, "bfloat16"),
        make_decode=lambda: torch_engine(folder, "bfloat16"),
        chunk_tokens=256,
        kv_encoding=KvEncoding.INT8,
    )
    prefill, decode = torch_engine(folder, "bfloat16"), torch_engine(folder, "bfloat16")
    layout = prefill.spec.layout
    heads = layout.layers * 2 * layout.kv_heads
    codec = Int8Codec()

    def travel(cells: memoryview) -> memoryview:
        return codec.cells(codec.quantised(cells, "bfloat16", heads), "bfloat16", heads)

    for length in LENGTHS:
        deltas = await fleet.generate(prompt(length), TOKENS)
        assert token_ids(deltas) == handed_over(prefill, decode, length, travel), length
        timings = deltas[-1].timings
        assert timings is not None
        assert timings.kv_encoding == "int8 (lossy)"
        assert timings.kv_bytes == wire_bytes(layout, KvRegion(0, layout.layers, 0, length), KvEncoding.INT8)
    offers = {beat.worker: beat.kv_encodings for beat in fleet.alive() if beat.model}
    assert offers == {"p0": ("int8", "exact"), "d0": ("int8", "exact")}


async def test_a_beginning_kept_from_an_int8_hand_over_stays_lossy(make_fleet: MakeFleet, folder: Path):
    """The second prompt finds the first one's blocks on decode; only the rest is sent."""
    fleet = await make_fleet(
        make_prefill=lambda: torch_engine(folder, "bfloat16", prefix_cache=True),
        make_decode=lambda: torch_engine(folder, "bfloat16", prefix_cache=True),
        chunk_tokens=256,
        kv_encoding=KvEncoding.INT8,
    )
    first, second = [(await fleet.generate(prompt(150), TOKENS))[-1].timings for _ in range(2)]
    assert first is not None
    assert second is not None
    assert first.kv_bytes is not None
    assert second.kv_bytes is not None
    assert second.kv_bytes < first.kv_bytes / 2
    assert second.kv_encoding == "int8 (lossy)"


@pytest.mark.parametrize(
    "shape", [{"kv_encoding": KvEncoding.INT8, "kv_int8": False}, {"kv_encoding": KvEncoding.EXACT, "kv_int8": True}]
)
async def test_unless_both_want_int8_caches_go_exact(make_fleet: MakeFleet, folder: Path, shape: dict[str, object]):
    fleet = await make_fleet(
        make_prefill=lambda: torch_engine(folder, "bfloat16"),
        make_decode=lambda: torch_engine(folder, "bfloat16"),
        **shape,
    )
    deltas = await fleet.generate(prompt(100), TOKENS)
    assert token_ids(deltas) == colocated(torch_engine(folder, "bfloat16"), prompt(100), TOKENS)[0]
    assert deltas[-1].timings is not None
    assert deltas[-1].timings.kv_encoding == "exact"


def other_rope() -> FakeEngine:
    """An engine of a model of the same name whose rope differs."""
    other = msgspec.structs.replace(spec(), fingerprint="0" * 16, parts=ModelParts(rope="other"))
    return FakeEngine(other, 16384 * other.layout.token_bytes)


def alternating(*makers: Callable[[], Engine]) -> Callable[[], Engine]:
    """Makes each kind of engine in turn."""
    engines = (make() for make in itertools.cycle(makers))
    return engines.__next__


async def test_another_rope_never_pairs_and_the_scheduler_says_so_once(
    make_fleet: MakeFleet, caplog: pytest.LogCaptureFixture
):
    fleet = await make_fleet(decodes=2, make_decode=alternating(other_rope, engine))
    answers = await asyncio.gather(*(fleet.generate(prompt(50, salt)) for salt in range(6)))
    assert {deltas[-1].timings.decode_worker for deltas in answers if deltas[-1].timings} == {"d1"}
    told = [record.getMessage() for record in caplog.records if "does not pair" in record.getMessage()]
    assert len(told) == 1
    assert "rope differs" in told[0]
    assert "d0" in told[0]


async def test_with_nobody_to_pair_with_a_request_is_refused_and_health_says_why(make_fleet: MakeFleet):
    fleet = await make_fleet(decodes=2, make_decode=alternating(other_rope, engine))
    await fleet.stop_worker("d1")
    await eventually(lambda: any("rope differs" in reason for reason in fleet._fleet.status().reasons))
    with pytest.raises(BatonError, match="pair"):
        await fleet.generate(prompt(50), deadline_s=5.0)
