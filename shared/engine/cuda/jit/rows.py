"""Row by row: RMS norm with the sum before it, and the gated activation."""

import triton
import triton.language as tl


@triton.jit
def add_rms_norm(hidden, update, weight, out, width, eps, ADD: tl.constexpr, WIDTH: tl.constexpr):
    """Grid `(rows,)`: `hidden += update` in place where `ADD`, then `out` is the norm of the sum."""
    at = tl.program_id(0).to(tl.int64) * width
    columns = tl.arange(0, WIDTH)
    real = columns < width
    x = tl.load(hidden + at + columns, mask=real, other=0.0)
    dtype = x.dtype
    if ADD:
        more = tl.load(update + at + columns, mask=real, other=0.0)
        x = (x.to(tl.float32) + more.to(tl.float32)).to(dtype)
        tl.store(hidden + at + columns, x, mask=real)
    wide = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / width + eps)
    normed = (wide * scale).to(dtype).to(tl.float32)
    scaled = normed * tl.load(weight + columns, mask=real, other=0.0).to(tl.float32)
    tl.store(out + at + columns, scaled.to(dtype), mask=real)


@triton.jit
def silu_mul(gate_up, out, width, COLUMNS: tl.constexpr):
    """Grid `(rows, column tiles)`: `out = silu(gate) * up`, `gate_up` `[rows, 2 * width]` with the gates first."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    real = columns < width
    gate = tl.load(gate_up + row * 2 * width + columns, mask=real, other=0.0)
    up = tl.load(gate_up + row * 2 * width + width + columns, mask=real, other=0.0)
    wide = gate.to(tl.float32)
    active = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype).to(tl.float32)
    tl.store(out + row * width + columns, (active * up.to(tl.float32)).to(gate.dtype), mask=real)
