// What Python hands over. Field for field the structures of `shared/engine/native/calls.py`; strides in elements.
#pragma once

#include <cstdint>

#define BATON_EXPORT __attribute__((visibility("default")))

namespace baton {

// KV memory comes in blocks of so many tokens: `kv_memory.BLOCK_TOKENS`.
constexpr int kBlockTokens = 64;

// Tokens [start, start + tokens) of the sequence whose blocks are these; the first is row `row` of the pass.
struct Segment {
    void* const* blocks;  // each [k|v][kBlockTokens][head_dim], of the first KV head of the first layer
    int64_t start, tokens, row;
};

// `layer` is how far a block of the call's layer lies behind that of the first layer, `kv_head` how far one of a KV head
// lies behind that of the head before it, in elements.
struct AttendCall {
    const Segment* segments;
    int64_t segment_count, rows, bf16, kv_heads, head_dim, layer, kv_head;
    const void* query;
    void* out;
    int64_t heads, query_row, query_head;
    int64_t window, threads;  // window 0: none
    float scale, softcap;     // softcap 0: none
};

struct StoreCall {
    const Segment* segments;
    int64_t segment_count, bf16, kv_heads, head_dim, layer, kv_head;
    const void *key, *value;
    int64_t key_row, key_head, value_row, value_head, threads;
};

struct RopeCall {
    const Segment* segments;
    int64_t segment_count, bf16, kv_heads, head_dim, layer, kv_head;
    void* qkv;
    int64_t heads;
    const float *cos, *sin;
    int64_t rotated, threads;
    const void *query_norm, *key_norm;  // null: none
    float eps;
};

// `weight` as `native/linear.py` lays it out; `bias` float32, as long as whole panels are, or null.
struct LinearCall {
    int64_t rows, inputs, outputs, x_row, threads;
    const void *x, *weight;
    const float* bias;
    void* out;
};

struct NormCall {
    int64_t bf16, rows, width, threads;
    void* hidden;
    const void *delta, *weight;  // delta null: none
    void* out;
    float eps;
};

struct SiluCall {
    int64_t bf16, rows, width, threads;
    const void* gate_up;
    void* out;
};

// `heads` runs of `run` cells, one after the other; `scales` of any alignment.
struct QuantiseCall {
    int64_t bf16, heads, run;
    const void* cells;
    void* scales;
    int8_t* small;
};

struct RestoreCall {
    int64_t bf16, heads, run;
    const void* scales;
    const int8_t* small;
    void* cells;
};

}  // namespace baton
