"""Names and words of how a cache travels."""

from __future__ import annotations

import pytest

from shared.core import KvEncoding, KvLayout
from shared.kv.encoding import named, offered, travelled


@pytest.mark.parametrize("name", ["", "exact", "int4", "INT8"])
def test_a_name_nobody_knows_is_exact(name: str) -> None:
    assert named(name) is KvEncoding.EXACT


def test_exact_is_always_offered_and_int8_where_it_saves_anything() -> None:
    wide, narrow = (KvLayout(layers=1, kv_heads=1, head_dim=width, dtype="bfloat16") for width in (8, 4))
    assert offered(KvEncoding.INT8, wide) == (KvEncoding.INT8, KvEncoding.EXACT)
    assert offered(KvEncoding.INT8, narrow) == offered(KvEncoding.EXACT, wide) == (KvEncoding.EXACT,)


@pytest.mark.parametrize(
    ("encoding", "source", "target", "words"),
    [
        (KvEncoding.EXACT, "bfloat16", "bfloat16", "exact"),
        (KvEncoding.EXACT, "bfloat16", "float32", "bfloat16 to float32, exact"),
        (KvEncoding.EXACT, "float32", "bfloat16", "float32 to bfloat16 (lossy)"),
        (KvEncoding.EXACT, "float16", "bfloat16", "float16 to bfloat16 (lossy)"),
        (KvEncoding.INT8, "bfloat16", "float32", "int8 (lossy)"),
    ],
)
def test_what_is_lossy_says_so(encoding: KvEncoding, source: str, target: str, words: str) -> None:
    assert travelled(encoding, source, target) == words
