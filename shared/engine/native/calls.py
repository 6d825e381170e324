"""What the native library is handed: field for field the structures of `src/call.h`. `kernels` and `library` use it."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int64, c_void_p


class AttendCall(Structure):
    _fields_ = (
        ("segments", c_void_p),
        ("segment_count", c_int64),
        ("rows", c_int64),
        ("bf16", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("layer", c_int64),
        ("kv_head", c_int64),
        ("query", c_void_p),
        ("out", c_void_p),
        ("heads", c_int64),
        ("query_row", c_int64),
        ("query_head", c_int64),
        ("window", c_int64),
        ("threads", c_int64),
        ("scale", c_float),
        ("softcap", c_float),
    )


class StoreCall(Structure):
    _fields_ = (
        ("segments", c_void_p),
        ("segment_count", c_int64),
        ("bf16", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("layer", c_int64),
        ("kv_head", c_int64),
        ("key", c_void_p),
        ("value", c_void_p),
        ("key_row", c_int64),
        ("key_head", c_int64),
        ("value_row", c_int64),
        ("value_head", c_int64),
        ("threads", c_int64),
    )


class RopeCall(Structure):
    _fields_ = (
        ("segments", c_void_p),
        ("segment_count", c_int64),
        ("bf16", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("layer", c_int64),
        ("kv_head", c_int64),
        ("qkv", c_void_p),
        ("heads", c_int64),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("rotated", c_int64),
        ("threads", c_int64),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("eps", c_float),
    )


class LinearCall(Structure):
    _fields_ = (
        ("rows", c_int64),
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("x_row", c_int64),
        ("threads", c_int64),
        ("x", c_void_p),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("out", c_void_p),
    )


class NormCall(Structure):
    _fields_ = (
        ("bf16", c_int64),
        ("rows", c_int64),
        ("width", c_int64),
        ("threads", c_int64),
        ("hidden", c_void_p),
        ("delta", c_void_p),
        ("weight", c_void_p),
        ("out", c_void_p),
        ("eps", c_float),
    )


class SiluCall(Structure):
    _fields_ = (
        ("bf16", c_int64),
        ("rows", c_int64),
        ("width", c_int64),
        ("threads", c_int64),
        ("gate_up", c_void_p),
        ("out", c_void_p),
    )


class QuantiseCall(Structure):
    _fields_ = (
        ("bf16", c_int64),
        ("heads", c_int64),
        ("run", c_int64),
        ("cells", c_void_p),
        ("scales", c_void_p),
        ("small", c_void_p),
    )


class RestoreCall(Structure):
    _fields_ = (
        ("bf16", c_int64),
        ("heads", c_int64),
        ("run", c_int64),
        ("scales", c_void_p),
        ("small", c_void_p),
        ("cells", c_void_p),
    )


FUNCTIONS: dict[str, type[Structure]] = {
    "baton_attend": AttendCall,
    "baton_store": StoreCall,
    "baton_rope_store": RopeCall,
    "baton_linear": LinearCall,
    "baton_add_rms_norm": NormCall,
    "baton_silu_mul": SiluCall,
    "baton_quantise": QuantiseCall,
    "baton_restore": RestoreCall,
}
