"""Triton kernels: what runs on the device. Imported only where Triton is installed; `triton_kernels` launches them.

Common to all: one layer of the arena is `[blocks, 2 (k|v), kv_heads, BLOCK, head_dim]`, its last two dimensions
contiguous and the others any stride apart; a table row lists a sequence's blocks in order; block numbers are multiplied
as 64-bit integers. What differs from batch to batch is not specialised on, or a kernel would be compiled anew in the
middle of serving. Roundings are those of the plain torch calls in `torch_kernels`, unless a kernel says otherwise.
"""
