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

// The largest lane of each of 8 rows, in the first 8 lanes.
static inline Lanes max_of_rows(const Lanes (&rows)[8]) {
#if defined(__AVX512F__)
    __m512 x[4];
    for (int i = 0; i < 4; i++) {
        const __m512 a = (__m512)rows[2 * i], b = (__m512)rows[2 * i + 1];
        x[i] = _mm512_max_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    }
    for (int i = 0; i < 2; i++)
        x[i] = _mm512_max_ps(_mm512_shuffle_f32x4(x[2 * i], x[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(x[2 * i], x[2 * i + 1], 0xdd));
    // Now 4 lanes are left of each row: rows 0 to 3 in x[0], the others in x[1].
    __m512 y = _mm512_max_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
    y = _mm512_max_ps(y, _mm512_permute_ps(y, 0x4e));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
    return (Lanes)_mm512_permutexvar_ps(order, y);
#else
    Lanes best = {};
    for (int row = 0; row < 8; row++) {
        best[row] = rows[row][0];
        for (int lane = 1; lane < kLanes; lane++)
            best[row] = rows[row][lane] > best[row] ? rows[row][lane] : best[row];
    }
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

// p * 2^whole; overflows to infinity.
static inline Lanes times_power(Lanes p, Lanes whole) {
#if defined(__AVX512F__)
    return (Lanes)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
    const Ints n = __builtin_convertvector(whole, Ints), half = n >> 1;  // 2^128 and 2^-127 are no normal floats
    return p * (Lanes)((half + 127) << 23) * (Lanes)((n - half + 127) << 23);
#endif
}

// e^x; the polynomial is that of expf in Cephes.
static inline Lanes exp_of(Lanes x) {
    x = max(x, splat(-104.0f));
    x = x > 128.0f ? splat(128.0f) : x;
    const Lanes whole = rounded(x * splat(1.44269504088896341f));
    const Lanes r = multiply_add(whole, splat(2.12194440e-4f), multiply_add(whole, splat(-0.693359375f), x));
    Lanes p = splat(1.9875691500e-4f);
    p = multiply_add(p, r, splat(1.3981999507e-3f));
    p = multiply_add(p, r, splat(8.3334519073e-3f));
    p = multiply_add(p, r, splat(4.1665795894e-2f));
    p = multiply_add(p, r, splat(1.6666665459e-1f));
    p = multiply_add(p, r, splat(5.0000001201e-1f));
    p = multiply_add(p, r * r, r) + 1.0f;
    return times_power(p, whole);
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

typedef uint32_t Bits __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

static inline Lanes load_bf16(const uint16_t* from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof halves);
    return (Lanes)(__builtin_convertvector(halves, Bits) << 16);
}

// To nearest, ties to even, as torch rounds, denormals too.
static inline Lanes rounded_to_bf16(Lanes lanes) {
    const Bits bits = (Bits)lanes;
    return (Lanes)((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
}

static inline void store_rounded(uint16_t* to, Lanes lanes) {
    const Halves halves = __builtin_convertvector((Bits)rounded_to_bf16(lanes) >> 16, Halves);
    std::memcpy(to, &halves, sizeof halves);
}

// 16 numbers as bf16, to nearest, ties to even; what is too small for a normal number may become 0.
static inline void store_bf16(uint16_t* to, Lanes lanes) {
#if defined(__AVX512BF16__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh((__m512)lanes));
#else
    store_rounded(to, lanes);
#endif
}

// 16 numbers and 16 more as 32 bf16 in a row: a vector of pairs.
static inline Ints pairs_of(Lanes first, Lanes second) {
#if defined(__AVX512BF16__)
    return (Ints)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
#else
    uint16_t halves[2 * kLanes];
    store_bf16(halves, first);
    store_bf16(halves + kLanes, second);
    Ints pairs;
    std::memcpy(&pairs, halves, sizeof pairs);
    return pairs;
#endif
}

// Keeps a vector in its register: compilers load it again for every use instead.
static inline void pin(Ints& lanes) {
#if defined(__AVX512F__)
    asm("" : "+v"(lanes));
#else
    (void)lanes;
#endif
}

}  // namespace baton
