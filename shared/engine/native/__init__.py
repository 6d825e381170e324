"""Native kernels of the CPU engine: attention over each sequence's own KV, and the element-wise work around it.

```
kernels = native.load(cache_folder)      # None: no compiler, no place to write, another machine; use the Python path
table = KvTable(batch)                   # once per forward pass
per layer:
    kernels.add_rms_norm(hidden, delta, weight, eps, out)      # hidden += delta; out = norm(hidden)
    qkv = linear(out)                                          # [rows, (heads + 2 * kv_heads) * head_dim]: `linear.py`
    kernels.rope_store(table, layer, qkv, rope, norms)         # q, k normed and rotated; k, v into the cache
    kernels.attend(table, layer, query_of(qkv), out, kind)     # [rows, heads, head_dim]
    kernels.silu_mul(gate_up, out)                             # [rows, 2 * width] -> [rows, width]
```

Every row's bits depend on that row's inputs alone: not on the batch around it, nor on how a prompt was cut, nor on the
threads that compute. Knows neither models nor sequences; `native_attention` and the fused runners call it. bfloat16 and
float32.
"""

from shared.engine.native.kernels import HeadNorms, Kernels, RopeTables
from shared.engine.native.kv_table import KvTable
from shared.engine.native.library import load
from shared.engine.native.linear import NativeLinear

__all__ = ["HeadNorms", "Kernels", "KvTable", "NativeLinear", "RopeTables", "load"]
