// Cells of a cache as int8 with one scale per head, and back: `shared/kv/int8.py` says how, and makes the same bits.
//
// Plain loops that the compiler turns into vectors: they run at the speed of memory.
#include <cmath>
#include <cstring>

#include "call.h"

namespace baton {
namespace {

constexpr float kLevels = 127.0f;
constexpr float kWhole = 12582912.0f;  // 1.5 * 2^23
constexpr float kLeastScale = 1e-36f;

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float of_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float number(float x) { return x; }
static inline float number(uint16_t x) { return of_bits(static_cast<uint32_t>(x) << 16); }

static inline void put(float* to, float x) { *to = x; }
static inline void put(uint16_t* to, float x) {
    const uint32_t bits = bits_of(x);
    *to = static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// The largest magnitude. Without their sign, numbers are ordered as their bits are, and what is not finite comes last.
static inline float largest(const float* cells, int64_t count) {
    uint32_t most = 0;
    for (int64_t i = 0; i < count; i++) {
        const uint32_t bits = bits_of(cells[i]) & 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    return of_bits(most);
}

static inline float largest(const uint16_t* cells, int64_t count) {
    uint16_t most = 0;
    for (int64_t i = 0; i < count; i++) {
        const uint16_t bits = cells[i] & 0x7fffu;
        most = bits > most ? bits : most;
    }
    return number(most);
}

template <typename Stored>
void quantise(const QuantiseCall& call) {
    for (int64_t head = 0; head < call.heads; head++) {
        // A write to an int8 may be a write to anything, unless it is said that it is not.
        const int64_t run = call.run;
        const Stored* __restrict cells = static_cast<const Stored*>(call.cells) + head * run;
        int8_t* __restrict small = call.small + head * run;
        const float scale = largest(cells, run) / kLevels;
        std::memcpy(reinterpret_cast<char*>(call.scales) + head * sizeof scale, &scale, sizeof scale);
        if (!(scale >= kLeastScale) || std::isinf(scale)) {
            std::memset(small, 0, run);
            continue;
        }
        // The sum has no bits left for a fraction: it is rounded to even, and ends with the whole number.
        for (int64_t i = 0; i < run; i++)
            small[i] = static_cast<int8_t>(bits_of(number(cells[i]) / scale + kWhole));
    }
}

template <typename Stored>
void restore(const RestoreCall& call) {
    for (int64_t head = 0; head < call.heads; head++) {
        const int64_t run = call.run;
        const int8_t* __restrict small = call.small + head * run;
        Stored* __restrict cells = static_cast<Stored*>(call.cells) + head * run;
        float scale;
        std::memcpy(&scale, reinterpret_cast<const char*>(call.scales) + head * sizeof scale, sizeof scale);
        for (int64_t i = 0; i < run; i++) put(cells + i, static_cast<float>(small[i]) * scale);
    }
}

}  // namespace
}  // namespace baton

extern "C" {

BATON_EXPORT int baton_quantise(const baton::QuantiseCall* call) {
    call->bf16 ? baton::quantise<uint16_t>(*call) : baton::quantise<float>(*call);
    return 0;
}

BATON_EXPORT int baton_restore(const baton::RestoreCall* call) {
    call->bf16 ? baton::restore<uint16_t>(*call) : baton::restore<float>(*call);
    return 0;
}
}
