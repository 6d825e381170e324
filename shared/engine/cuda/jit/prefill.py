"""Causal attention of slices of many sequences: tiles of query rows of one head against the blocks they see.

Blocks are taken in order from the first; those behind a row's own position weigh exactly zero and change no bit of it.
So a row's bits depend neither on the tile it is in nor on where its prompt was cut.
"""

import triton
import triton.language as tl

from shared.engine.cuda.jit.decode import fold, scores


@triton.jit
def attend_block(
    q,
    best,
    total,
    acc,
    arena,
    tables,
    index,
    positions,
    stop,
    block_stride,
    part_stride,
    scale,
    softcap,
    window,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Fold block number `index` of the sequence whose table begins at `tables`, of the head that `arena` points to."""
    dims = tl.arange(0, DIM)
    tokens = tl.arange(0, BLOCK)
    real_dims = dims < HEAD_DIM
    keys_at = arena + tl.load(tables + index).to(tl.int64) * block_stride
    keys_of = keys_at + tokens[None, :] * HEAD_DIM + dims[:, None]
    values_of = keys_at + part_stride + tokens[:, None] * HEAD_DIM + dims[None, :]
    at = index * BLOCK + tokens
    if MASKED:
        # Behind the slice's end lies whatever the memory held before.
        keys = tl.load(keys_of, mask=real_dims[:, None] & (at < stop)[None, :], other=0.0)
        values = tl.load(values_of, mask=(at < stop)[:, None] & real_dims[None, :], other=0.0)
    elif DIM == HEAD_DIM:
        keys = tl.load(keys_of)
        values = tl.load(values_of)
    else:
        keys = tl.load(keys_of, mask=real_dims[:, None], other=0.0)
        values = tl.load(values_of, mask=real_dims[None, :], other=0.0)
    score = scores(q, keys, scale, softcap, SOFTCAP)
    if MASKED:
        seen = (at[None, :] <= positions[:, None]) & (at < stop)[None, :]
        if WINDOW:
            seen = seen & (at[None, :] > positions[:, None] - window)
        score = tl.where(seen, score, float("-inf"))
    return fold(score, values, best, total, acc)


@triton.jit(do_not_specialize=["table_row"])
def prefill(
    query,
    arena,
    tables,
    segments,
    tiles,
    out,
    query_row,
    table_row,
    block_stride,
    part_stride,
    head_stride,
    scale,
    softcap,
    window,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Grid `(tiles, heads)`.

    `segments` is int32 `[segments, 3]`: position of the first token, tokens, first row. `tiles` is int32 `[tiles, 2]`:
    segment, first token within it. `out` is `[rows, heads, HEAD_DIM]`; rows of no segment are left alone.
    """
    tile = tl.program_id(0)
    head = tl.program_id(1)
    segment = tl.load(tiles + tile * 2).to(tl.int64)
    first = tl.load(tiles + tile * 2 + 1)
    start = tl.load(segments + segment * 3)
    count = tl.load(segments + segment * 3 + 1)
    row = tl.load(segments + segment * 3 + 2)
    of_segment = first + tl.arange(0, TILE)
    positions = start + of_segment
    rows = (row + of_segment).to(tl.int64)
    real = of_segment < count
    dims = tl.arange(0, DIM)
    wanted = real[:, None] & (dims < HEAD_DIM)[None, :]
    q = tl.load(query + rows[:, None] * query_row + head * HEAD_DIM + dims[None, :], mask=wanted, other=0.0)

    arena += (head // GROUP).to(tl.int64) * head_stride
    tables += segment * table_row
    stop = start + count
    end = (start + tl.minimum(first + TILE, count) - 1) // BLOCK + 1
    begin = 0
    whole = (start + first + 1) // BLOCK
    if WINDOW:
        begin = tl.maximum(start + first - window + 1, 0) // BLOCK
        whole = begin
    best = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    acc = tl.zeros([TILE, DIM], tl.float32)
    for index in range(begin, whole):
        best, total, acc = attend_block(
            q, best, total, acc, arena, tables, index, positions, stop, block_stride, part_stride,
            scale, softcap, window, HEAD_DIM, DIM, BLOCK, SOFTCAP, WINDOW, False,
        )  # fmt: skip
    for index in range(whole, end):
        best, total, acc = attend_block(
            q, best, total, acc, arena, tables, index, positions, stop, block_stride, part_stride,
            scale, softcap, window, HEAD_DIM, DIM, BLOCK, SOFTCAP, WINDOW, True,
        )  # fmt: skip
    attended = acc / tl.where(total > 0.0, total, 1.0)[:, None]
    at = (rows * tl.num_programs(1) + head)[:, None] * HEAD_DIM + dims[None, :]
    tl.store(out + at, attended.to(out.dtype.element_ty), mask=wanted)
