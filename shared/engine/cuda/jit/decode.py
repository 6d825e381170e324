"""Attention of one new token of each sequence: a fixed number of splits over its blocks, then one merge.

Split boundaries depend on the sequence's own length alone, and splits are merged in one fixed order, so a row's bits do
not depend on the batch it is in.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
# Of float32 products: three passes of the matrix units, about as exact as float32 itself. Says nothing of bf16.
PRECISION = tl.constexpr("tf32x3")


@triton.jit
def scores(query, keys, scale, softcap, SOFTCAP: tl.constexpr):
    """`query` `[m, d]` times `keys` `[d, n]`, scaled and capped, in units of log2."""
    product = tl.dot(query, keys, input_precision=PRECISION) * scale
    if SOFTCAP:
        # tanh(x) as 1 - 2 / (e^2x + 1): right at both ends, where e^2x is 0 or infinite.
        product = softcap * (1.0 - 2.0 / (tl.exp2(product * (2.0 * LOG2E / softcap)) + 1.0))
    return product * LOG2E


@triton.jit
def fold(score, values, best, total, acc):
    """One more block into the running softmax: `best`, `total` `[m]` and `acc` `[m, d]`, all float32."""
    new_best = tl.maximum(best, tl.max(score, 1))
    # A row that has seen nothing yet has no largest score to take off.
    base = tl.where(new_best == float("-inf"), 0.0, new_best)
    weights = tl.exp2(score - base[:, None])
    kept = tl.exp2(best - base)
    total = total * kept + tl.sum(weights, 1)
    acc = acc * kept[:, None] + tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
    return new_best, total, acc


@triton.jit(do_not_specialize=["table_row"])
def decode_split(
    query,
    arena,
    tables,
    lengths,
    partial,
    maxima,
    sums,
    query_row,
    table_row,
    block_stride,
    part_stride,
    head_stride,
    scale,
    softcap,
    window,
    GROUP: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Grid `(rows, kv_heads, SPLITS)`: all query heads of one KV head over one split's blocks.

    `partial` is `[rows, heads, SPLITS, HEAD_DIM]`, `maxima` and `sums` `[rows, heads, SPLITS]`, float32. An empty split
    writes a maximum of -inf and nothing else. `GROUP_ROWS` and `DIM` are `GROUP` and `HEAD_DIM` rounded up.
    """
    row = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    length = tl.load(lengths + row)
    begin = 0
    if WINDOW:
        begin = tl.maximum(length - window, 0) // BLOCK
    end = tl.cdiv(length, BLOCK)
    per_split = tl.cdiv(end - begin, SPLITS)
    first = begin + split * per_split
    last = tl.minimum(first + per_split, end)

    in_group = tl.arange(0, GROUP_ROWS)
    dims = tl.arange(0, DIM)
    tokens = tl.arange(0, BLOCK)
    heads = kv_head * GROUP + in_group
    real_heads = in_group < GROUP
    real_dims = dims < HEAD_DIM
    wanted = real_heads[:, None] & real_dims[None, :]
    q = tl.load(query + row * query_row + heads[:, None] * HEAD_DIM + dims[None, :], mask=wanted, other=0.0)

    best = tl.full([GROUP_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_ROWS], tl.float32)
    acc = tl.zeros([GROUP_ROWS, DIM], tl.float32)
    for index in range(first, last):
        block = tl.load(tables + row * table_row + index).to(tl.int64)
        keys_at = arena + block * block_stride + kv_head.to(tl.int64) * head_stride
        at = index * BLOCK + tokens
        seen = at < length
        if WINDOW:
            seen = seen & (at >= length - window)
        keys = tl.load(
            keys_at + tokens[None, :] * HEAD_DIM + dims[:, None], mask=real_dims[:, None] & seen[None, :], other=0.0
        )
        score = scores(q, keys, scale, softcap, SOFTCAP)
        score = tl.where(seen[None, :], score, float("-inf"))
        values = tl.load(
            keys_at + part_stride + tokens[:, None] * HEAD_DIM + dims[None, :],
            mask=seen[:, None] & real_dims[None, :],
            other=0.0,
        )
        best, total, acc = fold(score, values, best, total, acc)

    count = tl.num_programs(1) * GROUP
    at_split = (row * count + heads) * SPLITS + split
    tl.store(maxima + at_split, best, mask=real_heads)
    tl.store(sums + at_split, total, mask=real_heads)
    tl.store(partial + at_split[:, None] * HEAD_DIM + dims[None, :], acc, mask=wanted & (last > first))


@triton.jit
def decode_merge(
    partial,
    maxima,
    sums,
    out,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Grid `(rows, heads)`: the splits of one head as one row of `out` `[rows, heads, HEAD_DIM]`; zero for length 0."""
    at = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    splits = tl.arange(0, SPLITS)
    dims = tl.arange(0, DIM)
    best = tl.load(maxima + at * SPLITS + splits)
    total = tl.load(sums + at * SPLITS + splits)
    used = best > float("-inf")
    top = tl.max(best, 0)
    weights = tl.where(used, tl.exp2(best - tl.where(top == float("-inf"), 0.0, top)), 0.0)
    wanted = used[:, None] & (dims < HEAD_DIM)[None, :]
    parts = tl.load(partial + (at * SPLITS + splits)[:, None] * HEAD_DIM + dims[None, :], mask=wanted, other=0.0)
    whole = tl.sum(weights * total, 0)
    attended = tl.sum(parts * weights[:, None], 0) / tl.where(whole > 0.0, whole, 1.0)
    tl.store(out + at * HEAD_DIM + dims, attended.to(out.dtype.element_ty), mask=dims < HEAD_DIM)
