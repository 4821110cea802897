// Row-wise ops: norms, gated activations, and the split of qkv into normed, rotated heads.
// All tensors are fp32, dense and row-major. A row's result is the same whatever the other rows are.
#include "kernels.h"

#include <cmath>

#include "parallel.h"
#include "vec.h"

static int row_threads(int64_t rows, int64_t width, int threads) {
  // Below some 32k elements a thread costs more to wake than it saves.
  int64_t useful = rows * width / 32768;
  if (useful < 1) return 1;
  return static_cast<int>(useful < threads ? useful : threads);
}

void rms_norm_row(const float* x, const float* weight, float* out, int64_t width, float eps) {
  vf acc[4] = {};
  int64_t i = 0;
  for (; i + 4 * VL <= width; i += 4 * VL)
    for (int j = 0; j < 4; j++) {
      vf v = load(x + i + j * VL);
      acc[j] += v * v;
    }
  for (; i + VL <= width; i += VL) {
    vf v = load(x + i);
    acc[0] += v * v;
  }
  if (i < width) {
    vf v = load_n(x + i, width - i);
    acc[1] += v * v;
  }
  float total = sum_lanes((acc[0] + acc[1]) + (acc[2] + acc[3]));
  vf scale = splat(1.0f / std::sqrt(total / static_cast<float>(width) + eps));
  for (i = 0; i + VL <= width; i += VL) store(out + i, load(x + i) * scale * load(weight + i));
  if (i < width) store_n(out + i, load_n(x + i, width - i) * scale * load_n(weight + i, width - i), width - i);
}

void add_row(const float* a, const float* b, float* out, int64_t width) {
  int64_t i = 0;
  for (; i + VL <= width; i += VL) store(out + i, load(a + i) + load(b + i));
  for (; i < width; i++) out[i] = a[i] + b[i];
}

ONE_COPY void gate_row(const float* gate, const float* up, float* out, int64_t width, int activation) {
  int64_t i = 0;
  for (; i + VL <= width; i += VL) store(out + i, activate(load(gate + i), activation) * load(up + i));
  if (i < width) {
    int64_t n = width - i;
    store_n(out + i, activate(load_n(gate + i, n), activation) * load_n(up + i, n), n);
  }
}

static ONE_COPY void activate_row(const float* x, float* out, int64_t width, int activation) {
  int64_t i = 0;
  for (; i + VL <= width; i += VL) store(out + i, activate(load(x + i), activation));
  if (i < width) store_n(out + i, activate(load_n(x + i, width - i), activation), width - i);
}

static ONE_COPY void rotate_head(const float* x, const float* cos_sin, float* out, int64_t rotary_dim, int64_t head_dim) {
  int64_t half = rotary_dim / 2, i = 0;
  const float* sin = cos_sin + half;
  for (; i + VL <= half; i += VL) {
    vf c = load(cos_sin + i), s = load(sin + i), a = load(x + i), b = load(x + half + i);
    store(out + i, a * c - b * s);
    store(out + half + i, b * c + a * s);
  }
  for (; i < half; i++) {
    float c = cos_sin[i], s = sin[i], a = x[i], b = x[half + i];
    out[i] = a * c - b * s;
    out[half + i] = b * c + a * s;
  }
  if (out != x) std::memcpy(out + rotary_dim, x + rotary_dim, (head_dim - rotary_dim) * sizeof(float));
}

extern "C" {

void tupelo_rms_norm(const float* x, const float* weight, float* out, int64_t rows, int64_t width, float eps,
                     int threads) {
  parallel(row_threads(rows, width, threads), [&](int t, int n) {
    for (int64_t r = rows * t / n; r < rows * (t + 1) / n; r++)
      rms_norm_row(x + r * width, weight, out + r * width, width, eps);
  });
}

void tupelo_add_rms_norm(const float* x, const float* residual, const float* weight, float* out,
                         float* new_residual, int64_t rows, int64_t width, float eps, int threads) {
  parallel(row_threads(rows, width, threads), [&](int t, int n) {
    for (int64_t r = rows * t / n; r < rows * (t + 1) / n; r++) {
      add_row(x + r * width, residual + r * width, new_residual + r * width, width);
      rms_norm_row(new_residual + r * width, weight, out + r * width, width, eps);
    }
  });
}

void tupelo_gate_mul(const float* x, float* out, int64_t rows, int64_t width, int activation, int threads) {
  parallel(row_threads(rows, 4 * width, threads), [&](int t, int n) {
    for (int64_t r = rows * t / n; r < rows * (t + 1) / n; r++) {
      const float* gate = x + r * 2 * width;
      gate_row(gate, gate + width, out + r * width, width, activation);
    }
  });
}

// x and out may be one.
void tupelo_activate(const float* x, float* out, int64_t rows, int64_t width, int activation, int threads) {
  parallel(row_threads(rows, 4 * width, threads), [&](int t, int n) {
    for (int64_t r = rows * t / n; r < rows * (t + 1) / n; r++)
      activate_row(x + r * width, out + r * width, width, activation);
  });
}

// q_norm and k_norm may be null: no norm. cos_sin: (max_positions, rotary_dim).
void tupelo_norm_rope_qkv(const float* qkv, const int64_t* positions, const float* cos_sin, const float* q_norm,
                          const float* k_norm, float eps, int64_t num_heads, int64_t num_kv_heads, int64_t d,
                          int64_t max_positions, int64_t rotary_dim, float* q, float* k, float* v, int64_t rows,
                          int threads) {
  int64_t heads = num_heads + num_kv_heads, width = (heads + num_kv_heads) * d;
  parallel(row_threads(rows, width, threads), [&](int t, int n) {
    for (int64_t r = rows * t / n; r < rows * (t + 1) / n; r++) {
      int64_t position = positions[r];
      // A padding row may carry any position; it is computed and never read.
      if (position < 0 || position >= max_positions) position = 0;
      const float* angles = cos_sin + position * rotary_dim;
      const float* x = qkv + r * width;
      for (int64_t h = 0; h < heads; h++, x += d) {
        bool is_q = h < num_heads;
        float* out = is_q ? q + (r * num_heads + h) * d : k + (r * num_kv_heads + h - num_heads) * d;
        const float* weight = is_q ? q_norm : k_norm;
        const float* source = x;
        if (weight != nullptr) {
          rms_norm_row(x, weight, out, d, eps);
          source = out;
        }
        rotate_head(source, angles, out, rotary_dim, d);
      }
      std::memcpy(v + r * num_kv_heads * d, x, num_kv_heads * d * sizeof(float));
    }
  });
}

}  // extern "C"
