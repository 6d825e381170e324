"""Keys and values into the arena: as they are, or turned and normed on the way, queries along with them."""

import triton
import triton.language as tl


@triton.jit
def place(arena, tables, position, segment, table_row, block_stride, BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Where the key of head 0 at `position` of a sequence lies."""
    block = tl.load(tables + segment * table_row + position // BLOCK).to(tl.int64)
    return arena + block * block_stride + (position % BLOCK) * HEAD_DIM


@triton.jit(do_not_specialize=["table_row", "key_head", "key_row", "value_head", "value_row"])
def store(
    key,
    value,
    arena,
    tables,
    row_segments,
    positions,
    key_head,
    key_row,
    value_head,
    value_row,
    table_row,
    block_stride,
    part_stride,
    head_stride,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid `(rows, kv_heads)`. Rows at a negative position are filling, and stored nowhere."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    position = tl.load(positions + row)
    if position >= 0:
        segment = tl.load(row_segments + row).to(tl.int64)
        dims = tl.arange(0, DIM)
        real = dims < HEAD_DIM
        at = place(arena, tables, position, segment, table_row, block_stride, BLOCK, HEAD_DIM)
        at += head * head_stride
        tl.store(at + dims, tl.load(key + head * key_head + row * key_row + dims, mask=real), mask=real)
        tl.store(
            at + part_stride + dims, tl.load(value + head * value_head + row * value_row + dims, mask=real), mask=real
        )


@triton.jit
def turn(
    at,
    dims,
    real,
    heads_real,
    weight,
    cos,
    sin,
    eps,
    HEAD_DIM: tl.constexpr,
    ROTATE: tl.constexpr,
    NORM: tl.constexpr,
):
    """Both halves of the heads whose numbers begin at `at` `[heads, 1]`: normed, turned, in the dtype they came in."""
    mask = heads_real & real[None, :]
    first = tl.load(at + dims[None, :], mask=mask, other=0.0)
    second = tl.load(at + HEAD_DIM // 2 + dims[None, :], mask=mask, other=0.0)
    dtype = first.dtype
    if NORM:
        x1 = first.to(tl.float32)
        x2 = second.to(tl.float32)
        scale = tl.rsqrt((tl.sum(x1 * x1, 1) + tl.sum(x2 * x2, 1)) / HEAD_DIM + eps)[:, None]
        w1 = tl.load(weight + dims, mask=real, other=0.0).to(tl.float32)[None, :]
        w2 = tl.load(weight + HEAD_DIM // 2 + dims, mask=real, other=0.0).to(tl.float32)[None, :]
        first = ((x1 * scale).to(dtype).to(tl.float32) * w1).to(dtype)
        second = ((x2 * scale).to(dtype).to(tl.float32) * w2).to(dtype)
    if ROTATE:
        x1 = first.to(tl.float32)
        x2 = second.to(tl.float32)
        # Every product and the sum are rounded, as in the torch calls.
        first = ((x1 * cos).to(dtype).to(tl.float32) + (-x2 * sin).to(dtype).to(tl.float32)).to(dtype)
        second = ((x2 * cos).to(dtype).to(tl.float32) + (x1 * sin).to(dtype).to(tl.float32)).to(dtype)
    return first, second


@triton.jit(do_not_specialize=["table_row"])
def rope_store(
    qkv,
    arena,
    tables,
    row_segments,
    positions,
    cosines,
    sines,
    query_norm,
    key_norm,
    qkv_row,
    table_row,
    block_stride,
    part_stride,
    head_stride,
    eps,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    ROTATE: tl.constexpr,
    NORM: tl.constexpr,
):
    """Grid `(rows, KV_HEADS)`: one KV head and the query heads that share it.

    `qkv` is `[rows, (KV_HEADS * GROUP + 2 * KV_HEADS) * HEAD_DIM]`; queries are turned in place, keys and values go to
    the arena. `cosines` and `sines` are `[positions, HEAD_DIM / 2]`. Filling rows (negative position) are left alone.
    """
    row = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1).to(tl.int64)
    position = tl.load(positions + row)
    if position >= 0:
        segment = tl.load(row_segments + row).to(tl.int64)
        dims = tl.arange(0, HALF)
        real = dims < HEAD_DIM // 2
        angle = position.to(tl.int64) * (HEAD_DIM // 2) + dims
        cos = tl.load(cosines + angle, mask=real, other=0.0).to(tl.float32)[None, :]
        sin = tl.load(sines + angle, mask=real, other=0.0).to(tl.float32)[None, :]
        in_group = tl.arange(0, GROUP_ROWS)[:, None]
        heads_real = in_group < GROUP
        from_row = qkv + row * qkv_row
        query_at = from_row + (kv_head * GROUP + in_group) * HEAD_DIM
        first, second = turn(query_at, dims, real, heads_real, query_norm, cos, sin, eps, HEAD_DIM, ROTATE, NORM)
        mask = heads_real & real[None, :]
        tl.store(query_at + dims[None, :], first, mask=mask)
        tl.store(query_at + HEAD_DIM // 2 + dims[None, :], second, mask=mask)

        one = tl.arange(0, 1)[:, None]
        key_at = from_row + (KV_HEADS * GROUP + kv_head) * HEAD_DIM + one
        first, second = turn(key_at, dims, real, one == 0, key_norm, cos, sin, eps, HEAD_DIM, ROTATE, NORM)
        at = place(arena, tables, position, segment, table_row, block_stride, BLOCK, HEAD_DIM)
        at += kv_head * head_stride + one
        tl.store(at + dims[None, :], first, mask=real[None, :])
        tl.store(at + HEAD_DIM // 2 + dims[None, :], second, mask=real[None, :])

        value_at = from_row + (KV_HEADS * GROUP + KV_HEADS + kv_head) * HEAD_DIM + one
        at += part_stride
        for half in tl.static_range(2):
            columns = half * (HEAD_DIM // 2) + dims[None, :]
            tl.store(at + columns, tl.load(value_at + columns, mask=real[None, :], other=0.0), mask=real[None, :])
