// Sixteen float32 lanes and what the kernels do with them: AVX-512 where the compiler targets it, plain vectors elsewhere.
//
// Every function is a fixed sequence of IEEE operations per lane, so a lane's result never depends on its neighbours.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace baton {

constexpr int kLanes = 16;

typedef float Lanes __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef float LooseLanes __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t LooseInts __attribute__((vector_size(64), aligned(4), may_alias));

static inline Lanes splat(float value) { return Lanes{} + value; }
static inline Ints splat_bits(uint32_t value) { return Ints{} + static_cast<int32_t>(value); }
static inline Lanes load(const float* from) { return *reinterpret_cast<const LooseLanes*>(from); }
static inline Ints load(const uint32_t* from) { return *reinterpret_cast<const LooseInts*>(from); }
static inline void store(float* to, Lanes lanes) { *reinterpret_cast<LooseLanes*>(to) = lanes; }
static inline void store(uint32_t* to, Ints lanes) { *reinterpret_cast<LooseInts*>(to) = lanes; }

static inline Ints lane_numbers() { return Ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }

static inline Lanes max(Lanes a, Lanes b) { return a > b ? a : b; }

static inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
#if defined(__AVX512F__)
    return (Lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    return a * b + c;
#endif
}

// Adds the products of two pairs of bf16 per lane.
static inline Lanes dot_pairs(Lanes sum, Ints a, Ints b) {
#if defined(__AVX512BF16__)
    return (Lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    const Ints high = splat_bits(0xffff0000u);
    const Lanes odd = multiply_add((Lanes)(a & high), (Lanes)(b & high), sum);
    return multiply_add((Lanes)(a << 16), (Lanes)(b << 16), odd);
#endif
}

static inline float max_of(Lanes lanes) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)lanes);
#else
    float best = lanes[0];
    for (int lane = 1; lane < kLanes; lane++) best = lanes[lane] > best ? lanes[lane] : best;
    return best;
#endif
}

static inline float sum_of(Lanes lanes) {
    float parts[kLanes];
    store(parts, lanes);
    for (int width = kLanes / 2; width > 0; width /= 2)
        for (int lane = 0; lane < width; lane++) parts[lane] += parts[lane + width];
    return parts[0];
}

static inline Lanes rounded(Lanes x) {
#if defined(__AVX512F__)
    return (Lanes)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    const Lanes shift = splat(12582912.0f);  // 1.5 * 2^23: below it, floats have no fraction left
    return (x + shift) - shift;
#endif
}

// 2^x for x <= 0; exactly 0 below -200, so that a hidden key (-inf) weighs nothing. Relative error 2e-7.
// The polynomial is that of exp2f in Moshier's Cephes library.
static inline Lanes exp2_of_negative(Lanes x) {
    x = max(x, splat(-200.0f));
    const Lanes whole = rounded(x);
    const Lanes r = x - whole;
    Lanes p = splat(1.535336188319500e-4f);
    p = multiply_add(p, r, splat(1.339887440266574e-3f));
    p = multiply_add(p, r, splat(9.618437357674640e-3f));
    p = multiply_add(p, r, splat(5.550332471162809e-2f));
    p = multiply_add(p, r, splat(2.402264791363012e-1f));
    p = multiply_add(p, r, splat(6.931472028550421e-1f));
    p = multiply_add(p, r, splat(1.0f));
#if defined(__AVX512F__)
    return (Lanes)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
    const Ints exponent = __builtin_convertvector(whole, Ints);
    const Ints bits = (exponent + 127) << 23;
    return exponent < -126 ? Lanes{} : p * (Lanes)bits;
#endif
}

static inline Lanes tanh_of(Lanes x) {
    const Lanes size = x < 0.0f ? -x : x;
    const Lanes e = exp2_of_negative(size * splat(-2.885390081777927f));
    const Lanes t = (1.0f - e) / (1.0f + e);
    return x < 0.0f ? -t : t;
}

static inline float from_bf16(uint16_t value) {
    const uint32_t bits = static_cast<uint32_t>(value) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

// To nearest, ties to even, as torch rounds.
static inline uint16_t to_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return static_cast<uint16_t>(value != value ? 0x7fc0u : nearest);
}

// `a` and `b`, 16 lanes each, as 32 bf16 in a row.
static inline void store_bf16(uint16_t* to, Lanes a, Lanes b) {
#if defined(__AVX512BF16__)
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a));
#else
    for (int lane = 0; lane < kLanes; lane++) {
        to[lane] = to_bf16(a[lane]);
        to[lane + kLanes] = to_bf16(b[lane]);
    }
#endif
}

}  // namespace baton
