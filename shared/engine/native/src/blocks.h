// Blocks of keys and values laid out for the matrix kernel, and the kernel: broadcast a unit of a row, multiply it with
// a vector of lanes, accumulate. A unit is 32 bits: one float32, or a pair of bf16.
#pragma once

#include <utility>

#include "lanes.h"

namespace baton {

constexpr int kBlockKeys = 64;
constexpr int kKeyVectors = kBlockKeys / kLanes;
// Rows per call of the matrix kernel: as many as have all their sums in registers.
#if defined(__AVX512F__)
constexpr int kTileRows = 6;
#else
constexpr int kTileRows = 2;
#endif
constexpr int kTileVectors = 4;

struct Float32 {
    using Stored = float;
    static constexpr int kPerUnit = 1;
    static inline Lanes accumulate(Lanes sum, Ints a, Ints b) { return multiply_add((Lanes)a, (Lanes)b, sum); }
};

struct Bfloat16 {
    using Stored = uint16_t;
    static constexpr int kPerUnit = 2;
    static inline Lanes accumulate(Lanes sum, Ints a, Ints b) { return dot_pairs(sum, a, b); }
};

static inline const uint32_t* units(const void* from) { return static_cast<const uint32_t*>(from); }

// Memory that will be wanted soon, asked for a little at a time beside the arithmetic: the processor does not foresee it
// at the end of each page and each head.
struct Ahead {
    const char* from;
    int64_t bytes_per_step;  // 0: nothing is asked for
    Ahead after(int64_t steps) const { return {from + steps * bytes_per_step, bytes_per_step}; }
};

constexpr int kLine = 64, kLinesPerSquare = 8, kLinesPerStep = 3;

template <int... kIndex, class Body>
__attribute__((always_inline)) static inline void each_of(std::integer_sequence<int, kIndex...>, Body body) {
    (body(std::integral_constant<int, kIndex>()), ...);
}

// Calls `body` with the constants 0 to kCount - 1: unlike a loop over an array of vectors, which compilers unroll too late
// to keep the vectors in registers.
template <int kCount, class Body>
__attribute__((always_inline)) static inline void each(Body body) {
    each_of(std::make_integer_sequence<int, kCount>(), body);
}

// c[row][vector] (+)= the sum over `steps`, in order, of unit a[row][step] times lanes b[step][vector].
template <class Type, int kRows, int kVectors>
static inline void multiply(const uint32_t* const* a, const uint32_t* b, int64_t b_stride, int steps, Ahead ahead,
                            Lanes (&c)[kRows][kVectors]) {
    Lanes sums[kRows * kVectors];
    const uint32_t* left_rows[kRows];
    each<kRows * kVectors>([&](auto i) { sums[i] = c[i / kVectors][i % kVectors]; });
    each<kRows>([&](auto row) { left_rows[row] = a[row]; });
    for (int step = 0; step < steps; step++) {
        for (int64_t at = 0; at < ahead.bytes_per_step; at += kLine)
            __builtin_prefetch(ahead.from + step * ahead.bytes_per_step + at);
        Ints right[kVectors];
        each<kVectors>([&](auto v) {
            Ints lanes = load(b + step * b_stride + v * kLanes);
            pin(lanes);
            right[v] = lanes;
        });
        each<kRows>([&](auto row) {
            const Ints left = splat_bits(left_rows[row][step]);
            each<kVectors>([&](auto v) {
                sums[row * kVectors + v] = Type::accumulate(sums[row * kVectors + v], left, right[v]);
            });
        });
    }
    each<kRows * kVectors>([&](auto i) { c[i / kVectors][i % kVectors] = sums[i]; });
}

// 16 rows of `columns` (8 or 16) units each, to `columns` rows of 16.
static inline void transpose(const uint32_t* from, int64_t from_stride, uint32_t* to, int64_t to_stride, int columns) {
#if defined(__AVX512F__)
    __m512i x[16], y[16];
    const __mmask16 wanted = static_cast<__mmask16>((1u << columns) - 1u);
    for (int i = 0; i < 16; i++) x[i] = _mm512_maskz_loadu_epi32(wanted, from + i * from_stride);
    for (int i = 0; i < 8; i++) {
        y[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
        y[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        x[4 * i] = _mm512_unpacklo_epi64(y[4 * i], y[4 * i + 2]);
        x[4 * i + 1] = _mm512_unpackhi_epi64(y[4 * i], y[4 * i + 2]);
        x[4 * i + 2] = _mm512_unpacklo_epi64(y[4 * i + 1], y[4 * i + 3]);
        x[4 * i + 3] = _mm512_unpackhi_epi64(y[4 * i + 1], y[4 * i + 3]);
    }
    // x[4 * i + j] now holds columns j, j + 4, j + 8, j + 12 of rows 4 * i .. 4 * i + 3.
    for (int j = 0; j < 4; j++) {
        const __m512i a = _mm512_shuffle_i32x4(x[j], x[4 + j], 0x88), b = _mm512_shuffle_i32x4(x[j], x[4 + j], 0xdd);
        const __m512i c = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0x88);
        const __m512i d = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0xdd);
        _mm512_storeu_si512(to + j * to_stride, _mm512_shuffle_i32x4(a, c, 0x88));
        _mm512_storeu_si512(to + (j + 4) * to_stride, _mm512_shuffle_i32x4(b, d, 0x88));
        if (columns == 8) continue;
        _mm512_storeu_si512(to + (j + 8) * to_stride, _mm512_shuffle_i32x4(a, c, 0xdd));
        _mm512_storeu_si512(to + (j + 12) * to_stride, _mm512_shuffle_i32x4(b, d, 0xdd));
    }
#else
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < columns; column++) to[column * to_stride + row] = from[row * from_stride + column];
#endif
}

// A block's keys `[kBlockKeys][row_units]` as `[row_units][kBlockKeys]`; `ahead` is asked for meanwhile, 8 lines for each
// square of 16 by 16.
static inline void lay_out_keys(const uint32_t* keys, int row_units, uint32_t* to, const char* ahead) {
    for (int key = 0; key < kBlockKeys; key += 16) {
        for (int unit = 0; unit < row_units; unit += 16) {
            for (int line = 0; line < kLinesPerSquare; line++, ahead += kLine) __builtin_prefetch(ahead);
            transpose(keys + key * row_units + unit, row_units, to + unit * kBlockKeys + key, kBlockKeys,
                      row_units - unit < 16 ? 8 : 16);
        }
    }
}

// A block's bf16 values `[kBlockKeys][dim]` as pairs of following keys, `[kBlockKeys / 2][dim]`.
static inline void lay_out_values(const uint16_t* values, int dim, uint32_t* to) {
#if defined(__AVX512BW__)
    const __m512i interleaved = _mm512_or_si512((__m512i)lane_numbers(), _mm512_slli_epi32((__m512i)(lane_numbers() + 32), 16));
#endif
    for (int key = 0; key < kBlockKeys; key += 2) {
        const uint16_t* even = values + key * dim;
        const uint16_t* odd = even + dim;
        for (int d = 0; d < dim; d += kLanes, to += kLanes) {
#if defined(__AVX512BW__)
            const __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even + d)));
            const __m512i high = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd + d)));
            _mm512_storeu_si512(to, _mm512_permutex2var_epi16(low, interleaved, high));
#else
            for (int lane = 0; lane < kLanes; lane++)
                to[lane] = even[d + lane] | static_cast<uint32_t>(odd[d + lane]) << 16;
#endif
        }
    }
}

}  // namespace baton
