// Blocks of keys and values laid out for the matrix kernel, and the kernel: broadcast a unit of a row, multiply it with
// a vector of lanes, accumulate. A unit is 32 bits: one float32, or a pair of bf16.
#pragma once

#include "lanes.h"

namespace baton {

constexpr int kBlockKeys = 64;
constexpr int kKeyVectors = kBlockKeys / kLanes;
constexpr int kTileRows = 6;      // rows per call of the matrix kernel: 6 * 4 sums stay in registers
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

// c[row][vector] (+)= the sum over `steps`, in order, of unit a[row][step] times lanes b[step][vector].
template <class Type, int kRows, int kVectors>
static inline void multiply(const uint32_t* const* a, const uint32_t* b, int64_t b_stride, int steps,
                            Lanes (&c)[kRows][kVectors]) {
    for (int step = 0; step < steps; step++) {
        Ints right[kVectors];
        for (int v = 0; v < kVectors; v++) right[v] = load(b + step * b_stride + v * kLanes);
        for (int row = 0; row < kRows; row++) {
            const Ints left = splat_bits(a[row][step]);
            for (int v = 0; v < kVectors; v++) c[row][v] = Type::accumulate(c[row][v], left, right[v]);
        }
    }
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

// A block's keys `[kBlockKeys][row_units]` as `[row_units][kBlockKeys]`.
static inline void lay_out_keys(const uint32_t* keys, int row_units, uint32_t* to) {
    for (int key = 0; key < kBlockKeys; key += 16)
        for (int unit = 0; unit < row_units; unit += 16)
            transpose(keys + key * row_units + unit, row_units, to + unit * kBlockKeys + key, kBlockKeys,
                      row_units - unit < 16 ? 8 : 16);
}

// A block's bf16 values `[kBlockKeys][dim]` as pairs of following keys, `[kBlockKeys / 2][dim]`.
static inline void lay_out_values(const uint16_t* values, int dim, uint32_t* to) {
    for (int key = 0; key < kBlockKeys; key += 2) {
        const uint16_t* even = values + key * dim;
        const uint16_t* odd = even + dim;
        for (int d = 0; d < dim; d += kLanes, to += kLanes) {
#if defined(__AVX512F__)
            const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even + d)));
            const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd + d)));
            _mm512_storeu_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
#else
            for (int lane = 0; lane < kLanes; lane++)
                to[lane] = even[d + lane] | static_cast<uint32_t>(odd[d + lane]) << 16;
#endif
        }
    }
}

}  // namespace baton
