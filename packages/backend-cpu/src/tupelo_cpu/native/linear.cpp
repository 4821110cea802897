// Linear layers on packed weights, alone and fused with the norm before or the gated MLP around them.
#include <algorithm>

#include "gemm.h"
#include "kernels.h"
#include "parallel.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

constexpr int64_t K_STRETCH = 768;           // rows of a panel worked on at a time, so that it stays in cache
constexpr int64_t TILE_FLOATS = 112 * 1024;  // of A in one task: under half of a 1 MiB second-level cache

// Tasks of a product: tiles of rows, and within a tile groups of neighbouring panels.
struct Tiling {
  int64_t panels, tile_rows, tiles, group, groups;

  Tiling(int64_t rows, int64_t k, int64_t columns, int threads) {
    int64_t most = std::clamp<int64_t>(TILE_FLOATS / k / MR * MR, 4 * MR, 32 * MR);
    tiles = (rows + most - 1) / most;
    tile_rows = tiles > 0 ? (rows + tiles - 1) / tiles : 0;
    panels = (columns + NR - 1) / NR;
    group = std::max<int64_t>(1, panels / (8 * threads));
    groups = (panels + group - 1) / group;
  }
  int64_t tasks() const { return tiles * groups; }
};

// Rows [0, rows) of x times panels `panel` of w -> out, whose rows lie ldo apart. K goes in stretches, so
// that the part of the panel that all rows read stays in cache.
void multiply_panel_k(const PackedWeight& w, int64_t panel, const float* x, int64_t rows, float* out, int64_t ldo) {
  const float* b = w.data + panel * w.k * NR;
  multiply_panel(rows, x, w.k, PackedRows{b}, std::min(K_STRETCH, w.k), w.bias != nullptr ? w.bias + panel * NR : nullptr, 0,
                 out, ldo);
  for (int64_t k0 = K_STRETCH; k0 < w.k; k0 += K_STRETCH)
    multiply_panel(rows, x + k0, w.k, PackedRows{b + k0 * NR}, std::min(K_STRETCH, w.k - k0), out, ldo, out, ldo);
}

// What becomes of one panel's product: columns [panel * NR, ...) of a plain result ...
struct Store {
  const PackedWeight& w;
  float* out;
  int64_t width() const { return w.n; }
  void operator()(int64_t panel, const float* x, int64_t first_row, int64_t rows, Scratch& scratch) const {
    float* to = out + first_row * w.n + panel * NR;
    int64_t columns = std::min<int64_t>(NR, w.n - panel * NR);
    if (columns == NR) return multiply_panel_k(w, panel, x, rows, to, w.n);
    float* c = scratch.get(static_cast<size_t>(rows) * NR);
    multiply_panel_k(w, panel, x, rows, c, NR);
    for (int64_t r = 0; r < rows; r++) std::memcpy(to + r * w.n, c + r * NR, columns * sizeof(float));
  }
};

// ... or the activated gate times up, whose panel lies half the weight further on. n / 2 is whole panels.
struct GateStore {
  const PackedWeight& w;
  float* out;
  int activation;
  int64_t width() const { return w.n / 2; }
  void operator()(int64_t panel, const float* x, int64_t first_row, int64_t rows, Scratch& scratch) const {
    float* gate = scratch.get(static_cast<size_t>(rows) * 2 * NR);
    float* up = gate + rows * NR;
    multiply_panel_k(w, panel, x, rows, gate, NR);
    multiply_panel_k(w, panel + width() / NR, x, rows, up, NR);
    float* to = out + first_row * width() + panel * NR;
    for (int64_t r = 0; r < rows; r++) gate_row(gate + r * NR, up + r * NR, to + r * width(), NR, activation);
  }
};

// To be called by every thread of a region with one shared counter.
template <class Sink>
void multiply(const Sink& sink, const float* x, int64_t rows, const Tiling& tiling, Counter& counter) {
  static thread_local Scratch scratch;
  for (int64_t task; (task = counter.take()) < tiling.tasks();) {
    int64_t r0 = task / tiling.groups * tiling.tile_rows, r1 = std::min(rows, r0 + tiling.tile_rows);
    int64_t p0 = task % tiling.groups * tiling.group, p1 = std::min(tiling.panels, p0 + tiling.group);
    for (int64_t p = p0; p < p1; p++) sink(p, x + r0 * sink.w.k, r0, r1 - r0, scratch);
  }
}

void advise_huge_pages([[maybe_unused]] float* data, [[maybe_unused]] int64_t floats) {
#if defined(__linux__)
  uintptr_t size = 2u << 20, first = (reinterpret_cast<uintptr_t>(data) + size - 1) / size * size;
  uintptr_t last = reinterpret_cast<uintptr_t>(data + floats) / size * size;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a hint: may fail
#endif
}

// Of the calling thread, for the threads of the region it starts.
float* shared_scratch(int64_t floats) {
  static thread_local Scratch scratch;
  return scratch.get(static_cast<size_t>(floats));
}

}  // namespace

extern "C" {

// weight (n, k) -> panels.
void tupelo_pack(const float* weight, const float* bias, float* data, float* packed_bias, int64_t n, int64_t k,
                 int threads) {
  int64_t panels = (n + NR - 1) / NR;
  advise_huge_pages(data, panels * NR * k);
  parallel(threads, [&](int t, int num) {
    for (int64_t p = panels * t / num; p < panels * (t + 1) / num; p++)
      for (int64_t j = 0; j < NR; j++) {
        int64_t row = p * NR + j;
        float* to = data + p * k * NR + j;
        for (int64_t i = 0; i < k; i++) to[i * NR] = row < n ? weight[row * k + i] : 0.0f;
        if (bias != nullptr) packed_bias[row] = row < n ? bias[row] : 0.0f;
      }
  });
}

void tupelo_linear(const PackedWeight* weight, const float* x, float* out, int64_t rows, int threads) {
  Tiling tiling(rows, weight->k, weight->n, threads);
  Counter counter;
  parallel(threads, [&](int, int) { multiply(Store{*weight, out}, x, rows, tiling, counter); });
}

void tupelo_gated_mlp(const PackedWeight* gate_up, const PackedWeight* down, const float* x, float* out, int64_t rows,
                      int activation, int threads) {
  int64_t half = gate_up->n / 2;
  bool fused = half % NR == 0;  // otherwise a panel holds the end of gate and the beginning of up
  Tiling first(rows, gate_up->k, fused ? half : 2 * half, threads), second(rows, down->k, down->n, threads);
  Counter counters[2];
  float* hidden = shared_scratch(rows * (fused ? half : 3 * half));
  float* pairs = hidden + rows * half;
  parallel(threads, [&](int t, int num) {
    if (fused) {
      multiply(GateStore{*gate_up, hidden, activation}, x, rows, first, counters[0]);
    } else {
      multiply(Store{*gate_up, pairs}, x, rows, first, counters[0]);
      barrier(num);
      for (int64_t r = rows * t / num; r < rows * (t + 1) / num; r++)
        gate_row(pairs + r * 2 * half, pairs + (r * 2 + 1) * half, hidden + r * half, half, activation);
    }
    barrier(num);
    multiply(Store{*down, out}, hidden, rows, second, counters[1]);
  });
}

// residual may be null: then x itself is the new residual and nothing is written to new_residual.
void tupelo_add_norm_linear(const PackedWeight* weight, const float* x, const float* residual, const float* norm,
                            float eps, float* out, float* new_residual, int64_t rows, int threads) {
  Tiling tiling(rows, weight->k, weight->n, threads);
  Counter counter;
  int64_t width = weight->k;
  float* normed = shared_scratch(rows * width);
  parallel(threads, [&](int t, int num) {
    for (int64_t r = rows * t / num; r < rows * (t + 1) / num; r++) {
      const float* row = x + r * width;
      if (residual != nullptr) {
        add_row(row, residual + r * width, new_residual + r * width, width);
        row = new_residual + r * width;
      }
      rms_norm_row(row, norm, normed + r * width, width, eps);
    }
    barrier(num);
    multiply(Store{*weight, out}, normed, rows, tiling, counter);
  });
}

}  // extern "C"
