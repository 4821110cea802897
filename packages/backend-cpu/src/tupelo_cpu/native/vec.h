// Vectors of fp32 in the compiler's own vector extension (GCC and Clang), at the machine's widest width:
// 16 lanes with AVX-512, 8 with AVX2, 4 elsewhere (SSE, NEON). Also the elementary functions on them.
//
// Every function here is a fixed sequence of operations for one element, so a result never depends on
// where in a tensor the element stands.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__)
constexpr int VL = 16;
#elif defined(__AVX2__)
constexpr int VL = 8;
#else
constexpr int VL = 4;
#endif
constexpr int NV = 2;        // vectors in one panel of packed columns
constexpr int NR = NV * VL;  // columns of one panel

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef float vf_unaligned __attribute__((vector_size(VL * 4), aligned(4), may_alias));

#define INLINE inline __attribute__((always_inline))

static INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
static INLINE void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }
static INLINE vf splat(float x) { return x - vf{}; }
static INLINE vi splat_int(int32_t x) { return x - vi{}; }
static INLINE vf vmax(vf a, vf b) { return a > b ? a : b; }
static INLINE vf bits_to_float(vi v) { return reinterpret_cast<vf>(v); }
static INLINE vi float_to_bits(vf v) { return reinterpret_cast<vi>(v); }

static INLINE vi iota() {
  vi v;
  for (int i = 0; i < VL; i++) v[i] = i;
  return v;
}

static INLINE vf load_n(const float* p, int64_t n) {  // the first n lanes; the others are 0
  float t[VL] = {};
  std::memcpy(t, p, static_cast<size_t>(n) * sizeof(float));
  return load(t);
}

static INLINE void store_n(float* p, vf v, int64_t n) {
  float t[VL];
  store(t, v);
  std::memcpy(p, t, static_cast<size_t>(n) * sizeof(float));
}

static INLINE float sum_lanes(vf v) {
  float t[VL];
  store(t, v);
  for (int s = VL / 2; s > 0; s /= 2)
    for (int i = 0; i < s; i++) t[i] += t[i + s];
  return t[0];
}

static INLINE float max_lanes(vf v) {
  float t[VL];
  store(t, v);
  for (int s = VL / 2; s > 0; s /= 2)
    for (int i = 0; i < s; i++) t[i] = t[i] > t[i + s] ? t[i] : t[i + s];
  return t[0];
}

// e**x - 1 of the reduced argument, and the whole number n with x = n ln 2 + r. Coefficients: Taylor's
// series in Horner form; |r| <= ln(2)/2, so the first term left out is below 2**-26 of the result.
static INLINE vf reduced_expm1(vf x, vi* n) {
  const vf round = splat(12582912.0f);  // 1.5 * 2**23: adding it leaves the nearest integer in the low bits
  vf t = x * splat(1.44269504088896341f) + round;
  *n = float_to_bits(t) - float_to_bits(round);
  vf whole = t - round;
  vf r = x - whole * splat(0.693145751953125f);
  r = r - whole * splat(1.428606765330187e-06f);
  vf p = splat(1.0f / 5040);
  p = p * r + splat(1.0f / 720);
  p = p * r + splat(1.0f / 120);
  p = p * r + splat(1.0f / 24);
  p = p * r + splat(1.0f / 6);
  p = p * r + splat(0.5f);
  return p * (r * r) + r;
}

static INLINE vf power_of_two(vi n) { return bits_to_float((n + 127) << 23); }

// e**x; exactly 1 at 0 and exactly 0 at minus infinity. NaN stays NaN, overflow is infinity.
static INLINE vf vexp(vf x) {
  x = x < splat(-105.0f) ? splat(-105.0f) : x;
  x = x > splat(89.0f) ? splat(89.0f) : x;
  vi n;
  vf p = reduced_expm1(x, &n) + splat(1.0f);
  vi half = n >> 1;  // two factors, for 2**n itself may leave the range of normal numbers
  return p * power_of_two(half) * power_of_two(n - half);
}

// tanh(x) = expm1(2x) / (expm1(2x) + 2), which keeps its relative precision near 0.
static INLINE vf vtanh(vf x) {
  vf y = x + x;
  y = y < splat(-40.0f) ? splat(-40.0f) : y;
  y = y > splat(40.0f) ? splat(40.0f) : y;
  vi n;
  vf p = reduced_expm1(y, &n);
  vf scale = power_of_two(n);
  vf e = scale * p + (scale - splat(1.0f));
  return e / (e + splat(2.0f));
}

static INLINE vf silu(vf x) { return x / (splat(1.0f) + vexp(-x)); }

// The tanh form of GELU (Hendrycks and Gimpel 2016, section 2): x/2 (1 + tanh u). Written with the
// identity (1 + tanh u)/2 = 1/(1 + exp(-2u)), which loses no digits where tanh is near -1.
static INLINE vf gelu_tanh(vf x) {
  vf u = splat(0.7978845608028654f) * (x + splat(0.044715f) * x * x * x);
  return x / (splat(1.0f) + vexp(-(u + u)));
}

// GELU itself, x Phi(x), by the tail of the normal distribution, which keeps its digits on both sides:
// Phi(-|x|) = erfc(z)/2 with z = |x|/sqrt(2); erfc by formula 7.1.26 of Abramowitz and Stegun, within 1.5e-7.
static INLINE vf gelu_erf(vf x) {
  vf z = vmax(x, -x) * splat(0.70710678118654752f);
  vf t = splat(1.0f) / (splat(1.0f) + splat(0.3275911f) * z);
  vf p = splat(1.061405429f);
  p = p * t + splat(-1.453152027f);
  p = p * t + splat(1.421413741f);
  p = p * t + splat(-0.284496736f);
  p = p * t + splat(0.254829592f);
  vf tail = splat(0.5f) * p * t * vexp(-(z * z));
  return x * (x < splat(0.0f) ? tail : splat(1.0f) - tail);
}

enum Activation { SILU = 0, GELU_TANH = 1, GELU_ERF = 2, RELU = 3 };

static INLINE vf activate(vf x, int activation) {
  switch (activation) {
    case SILU:
      return silu(x);
    case GELU_TANH:
      return gelu_tanh(x);
    case GELU_ERF:
      return gelu_erf(x);
    default:
      return vmax(x, splat(0.0f));
  }
}

// ---- transpose of VL x VL floats ----------------------------------------------------------------
// Stage S exchanges the off-diagonal S x S sub-blocks of every 2S x 2S block.
template <int S, bool HIGH, int... L>
static INLINE vf exchange(vf a, vf b, std::integer_sequence<int, L...>) {
#if defined(__clang__)
  return HIGH ? __builtin_shufflevector(a, b, ((L & S) ? VL + L : L + S)...)
              : __builtin_shufflevector(a, b, ((L & S) ? VL + L - S : L)...);
#else
  return HIGH ? __builtin_shuffle(a, b, vi{((L & S) ? VL + L : L + S)...})
              : __builtin_shuffle(a, b, vi{((L & S) ? VL + L - S : L)...});
#endif
}

template <int S>
static INLINE void exchange_stage(vf* rows) {
  using lanes = std::make_integer_sequence<int, VL>;
#pragma GCC unroll 16
  for (int i = 0; i < VL; i++) {
    if (i & S) continue;
    vf a = rows[i], b = rows[i + S];
    rows[i] = exchange<S, false>(a, b, lanes{});
    rows[i + S] = exchange<S, true>(a, b, lanes{});
  }
}

static INLINE void transpose(vf* rows) {
  if constexpr (VL >= 16) exchange_stage<8>(rows);
  if constexpr (VL >= 8) exchange_stage<4>(rows);
  exchange_stage<2>(rows);
  exchange_stage<1>(rows);
}
