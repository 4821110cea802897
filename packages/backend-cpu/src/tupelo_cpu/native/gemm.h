// The register-blocked product that linear layers and attention share.
//
// B is packed in panels of NR columns, each panel being k rows of NR contiguous floats, so one pass over
// A's rows streams the panel once:
//
//     B (k, n)   ->   panel 0: b[0][0..NR) b[1][0..NR) ... b[k-1][0..NR)
//                     panel 1: b[0][NR..2NR) ...
//
// Every element of C is one chain of fused multiply-adds over k = 0, 1, ... in that order, whatever the
// number of rows, the blocking or the number of threads: results are bit-identical across batch sizes.
#pragma once
#include "vec.h"

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int MR = 14;  // rows in registers: MR * NV accumulators of 32 vector registers
#else
constexpr int MR = 6;  // of 16
#endif

// Where the rows of B lie: in a packed panel ...
struct PackedRows {
  const float* b;
  const float* row(int64_t p) const { return b + p * NR; }
  INLINE void prefetch(int64_t p) const {
    // The hardware's own prefetching doesn't keep up with rows read once: this is worth a quarter of the
    // time at 4 to 16 rows, and costs nothing at others.
    for (int j = 0; j < NR; j += 16) __builtin_prefetch(b + (p + 64) * NR + j);
  }
};

// ... or at offsets in a larger store; meanwhile the rows that are needed next are fetched.
struct GatheredRows {
  const float* b;
  const int64_t* offsets;
  const float* next;
  const int64_t* next_offsets;
  int64_t next_width;
  const float* row(int64_t p) const { return b + offsets[p]; }
  INLINE void prefetch(int64_t p) const {
    for (int64_t j = 0; j < next_width; j += 16) __builtin_prefetch(next + next_offsets[p] + j);
  }
};

// c[i][0..NR) = init[i][0..NR) + sum over k of a[i][k] * b.row(k)[0..NR), for ROWS rows.
// init may be null (zeros), have stride 0 (a bias) or be c itself (the next stretch of k).
template <int ROWS, class B>
static __attribute__((noinline)) void micro_kernel(const float* a, int64_t lda, B b, int64_t k, const float* init,
                                                   int64_t ldi, float* c, int64_t ldc) {
  vf acc[ROWS][NV];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) acc[i][j] = init != nullptr ? load(init + i * ldi + j * VL) : vf{};
  for (int64_t p = 0; p < k; p++) {
    const float* row = b.row(p);
    b.prefetch(p);
    vf bv[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) bv[j] = load(row + j * VL);
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++) {
      vf x = splat(a[i * lda + p]);
#pragma GCC unroll 4
      for (int j = 0; j < NV; j++) acc[i][j] += x * bv[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) store(c + i * ldc + j * VL, acc[i][j]);
}

template <class B>
using MicroKernel = void (*)(const float*, int64_t, B, int64_t, const float*, int64_t, float*, int64_t);

template <class B, int... R>
static INLINE MicroKernel<B> pick_kernel(int64_t rows, std::integer_sequence<int, R...>) {
  static const MicroKernel<B> kernels[] = {micro_kernel<R + 1, B>...};
  return kernels[rows - 1];
}

// The same for any number of rows. The first block of rows brings the panel into the cache, so it is as
// high as it can be.
template <class B>
static inline void multiply_panel(int64_t rows, const float* a, int64_t lda, B b, int64_t k, const float* init,
                                  int64_t ldi, float* c, int64_t ldc) {
  for (int64_t r = 0; r < rows; r += MR) {
    int64_t height = rows - r < MR ? rows - r : MR;
    pick_kernel<B>(height, std::make_integer_sequence<int, MR>{})(
        a + r * lda, lda, b, k, init != nullptr ? init + r * ldi : nullptr, ldi, c + r * ldc, ldc);
  }
}
