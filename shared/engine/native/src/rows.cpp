// The element-wise work around attention and the linears, with the roundings of transformers' own modules: every
// intermediate that a torch operation would store is rounded to the tensor's type, and nothing is contracted.
#include <cmath>
#include <cstring>

#include "call.h"
#include "lanes.h"
#include "parallel.h"

namespace baton {
namespace {

constexpr int kMaxHeadDim = 512;
constexpr int kSumLanes = 8;  // torch sums with AVX2 also where it has AVX-512

static inline float number(float x) { return x; }
static inline float number(uint16_t x) { return from_bf16(x); }
static inline void put(float* to, float x) { *to = x; }
static inline void put(uint16_t* to, float x) { *to = to_bf16(x); }
static inline float rounded_as(const float*, float x) { return x; }
static inline float rounded_as(const uint16_t*, float x) { return from_bf16(to_bf16(x)); }

// The sum of x[i]^2 in the order of torch's contiguous float32 sum (aten/src/ATen/native/cpu/SumKernel.cpp, cascade_sum),
// so that norms have the very bits of `hidden.pow(2).mean(-1)`.
static inline float sum_of_squares(const float* x, int64_t width) {
    constexpr int kStreams = 4, kLevels = 4;
    const int64_t vectors = width / kSumLanes, size = vectors / kStreams;
    int64_t log2 = 0;
    while ((int64_t{1} << log2) < size) log2++;
    const int64_t power = log2 / kLevels > 4 ? log2 / kLevels : 4;
    const int64_t step = int64_t{1} << power, mask = step - 1;
    float sums[kLevels][kStreams][kSumLanes] = {};
    const auto add_from = [&](int64_t i, int streams) {
        for (int k = 0; k < streams; k++)
            for (int lane = 0; lane < kSumLanes; lane++) {
                const float value = x[(i + k) * kSumLanes + lane];
                sums[0][k][lane] += value * value;
            }
    };
    int64_t i = 0;
    while (i + step <= size) {
        for (int64_t j = 0; j < step; j++, i++) add_from(i * kStreams, kStreams);
        for (int level = 1; level < kLevels; level++) {
            for (int k = 0; k < kStreams; k++)
                for (int lane = 0; lane < kSumLanes; lane++) {
                    sums[level][k][lane] += sums[level - 1][k][lane];
                    sums[level - 1][k][lane] = 0;
                }
            if (i & (mask << (level * power))) break;
        }
    }
    for (; i < size; i++) add_from(i * kStreams, kStreams);
    for (int level = 1; level < kLevels; level++)
        for (int k = 0; k < kStreams; k++)
            for (int lane = 0; lane < kSumLanes; lane++) sums[0][k][lane] += sums[level][k][lane];
    for (int64_t v = size * kStreams; v < vectors; v++) add_from(v, 1);
    for (int k = 1; k < kStreams; k++)
        for (int lane = 0; lane < kSumLanes; lane++) sums[0][0][lane] += sums[0][k][lane];
    float total = 0;
    for (int64_t j = vectors * kSumLanes; j < width; j++) total += x[j] * x[j];
    for (int lane = 0; lane < kSumLanes; lane++) total += sums[0][0][lane];
    return total;
}

// LlamaRMSNorm of `x`, which is overwritten with the result's numbers.
template <class Stored>
static inline void norm_in_place(float* x, int64_t width, const Stored* weight, float eps) {
    const float factor = 1.0f / std::sqrt(sum_of_squares(x, width) / static_cast<float>(width) + eps);
    for (int64_t i = 0; i < width; i++) x[i] = rounded_as(weight, number(weight[i]) * rounded_as(weight, x[i] * factor));
}

template <class Stored>
static void norm_rows(const NormCall& call, int64_t first, int64_t stop) {
    thread_local struct Row {
        float* numbers = nullptr;
        int64_t width = 0;
        ~Row() { delete[] numbers; }
    } row;
    if (call.width > row.width) {
        delete[] row.numbers;
        row.width = 0;
        row.numbers = new float[call.width];
        row.width = call.width;
    }
    float* x = row.numbers;
    const Stored* weight = static_cast<const Stored*>(call.weight);
    for (int64_t r = first; r < stop; r++) {
        Stored* hidden = static_cast<Stored*>(call.hidden) + r * call.width;
        Stored* out = static_cast<Stored*>(call.out) + r * call.width;
        if (call.delta != nullptr) {
            const Stored* delta = static_cast<const Stored*>(call.delta) + r * call.width;
            for (int64_t i = 0; i < call.width; i++) put(hidden + i, number(hidden[i]) + number(delta[i]));
        }
        for (int64_t i = 0; i < call.width; i++) x[i] = number(hidden[i]);
        norm_in_place(x, call.width, weight, call.eps);
        for (int64_t i = 0; i < call.width; i++) put(out + i, x[i]);
    }
}

template <class Stored>
static bool add_rms_norm(const NormCall& call) {
    return share_rows(call.rows, call.width, call.threads,
                      [&](int64_t first, int64_t stop) { norm_rows<Stored>(call, first, stop); });
}

// One head's row `from`, normed and rotated, to `to`.
template <class Stored>
static inline void rotate(const Stored* from, Stored* to, int64_t dim, int64_t rotated, const float* cos,
                          const float* sin, const Stored* norm, float eps) {
    const int64_t half = rotated / 2;
    float x[kMaxHeadDim];
    for (int64_t i = 0; i < dim; i++) x[i] = number(from[i]);
    if (norm != nullptr) norm_in_place(x, dim, norm, eps);
    for (int64_t i = 0; i < half; i++) {
        const float first = x[i], second = x[half + i];
        put(to + i, rounded_as(to, first * cos[i]) + rounded_as(to, -second * sin[i]));
        put(to + half + i, rounded_as(to, second * cos[i]) + rounded_as(to, first * sin[i]));
    }
    for (int64_t i = rotated; i < dim; i++) put(to + i, x[i]);
}

// Tokens of one slice. `layer` leads from a block of the first layer to that of the call's.
template <class Stored>
static void rope_store_slice(const RopeCall& call, const Slice& slice) {
    const int64_t dim = call.head_dim, half = call.rotated / 2, values = kBlockTokens * dim;
    const Segment& segment = *slice.segment;
    const Stored* query_norm = static_cast<const Stored*>(call.query_norm);
    const Stored* key_norm = static_cast<const Stored*>(call.key_norm);
    float cos[kMaxHeadDim / 2], sin[kMaxHeadDim / 2];
    for (int64_t position = slice.start; position < slice.stop; position++) {
        const int64_t row = segment.row + position - segment.start;
        Stored* kv = static_cast<Stored*>(segment.blocks[position / kBlockTokens]) + call.layer;
        for (int64_t i = 0; i < half; i++) {
            cos[i] = rounded_as(kv, call.cos[position * half + i]);
            sin[i] = rounded_as(kv, call.sin[position * half + i]);
        }
        Stored* from = static_cast<Stored*>(call.qkv) + row * (call.heads + 2 * call.kv_heads) * dim;
        for (int64_t head = 0; head < call.heads; head++, from += dim)
            rotate(from, from, dim, call.rotated, cos, sin, query_norm, call.eps);
        Stored* to = kv + position % kBlockTokens * dim;
        for (int64_t head = 0; head < call.kv_heads; head++, from += dim, to += call.kv_head)
            rotate(from, to, dim, call.rotated, cos, sin, key_norm, call.eps);
        to = kv + position % kBlockTokens * dim + values;
        for (int64_t head = 0; head < call.kv_heads; head++, from += dim, to += call.kv_head)
            std::memcpy(to, from, sizeof(Stored) * dim);
    }
}

template <class Stored>
static void store_slice(const StoreCall& call, const Slice& slice) {
    const int64_t size = sizeof(Stored) * call.head_dim;
    const Segment& segment = *slice.segment;
    for (int64_t position = slice.start; position < slice.stop; position++) {
        const int64_t row = segment.row + position - segment.start;
        Stored* keys = static_cast<Stored*>(segment.blocks[position / kBlockTokens]) + call.layer +
                       position % kBlockTokens * call.head_dim;
        Stored* values = keys + kBlockTokens * call.head_dim;
        for (int64_t head = 0; head < call.kv_heads; head++, keys += call.kv_head, values += call.kv_head) {
            std::memcpy(keys, static_cast<const Stored*>(call.key) + row * call.key_row + head * call.key_head, size);
            std::memcpy(values, static_cast<const Stored*>(call.value) + row * call.value_row + head * call.value_head, size);
        }
    }
}

// All slices of a call's segments, `width` numbers a token.
template <class Call, class Body>
static bool share_slices(const Call& call, int64_t width, const Body& body) {
    std::vector<Slice> slices;
    for (int64_t s = 0; s < call.segment_count; s++) cut(call.segments[s], rows_per_unit(width), slices);
    return share(static_cast<int64_t>(slices.size()), call.threads, [&](int64_t index) { body(slices[index]); });
}

template <class Stored>
static bool rope_store(const RopeCall& call) {
    return share_slices(call, (call.heads + 2 * call.kv_heads) * call.head_dim,
                        [&](const Slice& slice) { rope_store_slice<Stored>(call, slice); });
}

template <class Stored>
static bool store_rows(const StoreCall& call) {
    return share_slices(call, 2 * call.kv_heads * call.head_dim,
                        [&](const Slice& slice) { store_slice<Stored>(call, slice); });
}

static inline Lanes numbers(const float* from) { return load(from); }
static inline Lanes numbers(const uint16_t* from) { return load_bf16(from); }
static inline void put(float* to, Lanes lanes) { store(to, lanes); }
static inline void put(uint16_t* to, Lanes lanes) { store_rounded(to, lanes); }
static inline Lanes rounded_as(const float*, Lanes lanes) { return lanes; }
static inline Lanes rounded_as(const uint16_t*, Lanes lanes) { return rounded_to_bf16(lanes); }

template <class Stored>
static inline void silu_mul_lanes(const Stored* gate, const Stored* up, Stored* out) {
    const Lanes x = numbers(gate);
    put(out, rounded_as(out, x / (1.0f + exp_of(-x))) * numbers(up));
}

template <class Stored>
static void silu_mul_rows(const SiluCall& call, int64_t first, int64_t stop) {
    const int64_t whole = call.width / kLanes * kLanes, rest = call.width - whole;
    for (int64_t r = first; r < stop; r++) {
        const Stored* gate = static_cast<const Stored*>(call.gate_up) + r * 2 * call.width;
        const Stored* up = gate + call.width;
        Stored* out = static_cast<Stored*>(call.out) + r * call.width;
        for (int64_t i = 0; i < whole; i += kLanes) silu_mul_lanes(gate + i, up + i, out + i);
        if (rest == 0) continue;
        Stored last[3][kLanes] = {};
        std::memcpy(last[0], gate + whole, sizeof(Stored) * rest);
        std::memcpy(last[1], up + whole, sizeof(Stored) * rest);
        silu_mul_lanes(last[0], last[1], last[2]);
        std::memcpy(out + whole, last[2], sizeof(Stored) * rest);
    }
}

template <class Stored>
static bool silu_mul(const SiluCall& call) {
    return share_rows(call.rows, 2 * call.width, call.threads,
                      [&](int64_t first, int64_t stop) { silu_mul_rows<Stored>(call, first, stop); });
}

// What an entry point returns: 1 when there was no memory.
template <class Body>
static int status_of(const Body& body) {
    try {
        return body() ? 0 : 1;
    } catch (...) {
        return 1;
    }
}

}  // namespace
}  // namespace baton

extern "C" {

BATON_EXPORT int baton_store(const baton::StoreCall* call) {
    using namespace baton;
    return status_of([&] { return call->bf16 ? store_rows<uint16_t>(*call) : store_rows<float>(*call); });
}

BATON_EXPORT int baton_rope_store(const baton::RopeCall* call) {
    using namespace baton;
    return status_of([&] { return call->bf16 ? rope_store<uint16_t>(*call) : rope_store<float>(*call); });
}

BATON_EXPORT int baton_add_rms_norm(const baton::NormCall* call) {
    using namespace baton;
    return status_of([&] { return call->bf16 ? add_rms_norm<uint16_t>(*call) : add_rms_norm<float>(*call); });
}

BATON_EXPORT int baton_silu_mul(const baton::SiluCall* call) {
    using namespace baton;
    return status_of([&] { return call->bf16 ? silu_mul<uint16_t>(*call) : silu_mul<float>(*call); });
}
}
