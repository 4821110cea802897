// The plain C interface between Python (ctypes) and the kernels; bindings.py declares the same.
#pragma once
#include <cstdint>

extern "C" {

// A weight (n, k) laid out in panels of NR columns: panel, then k, then column. See gemm.h.
struct PackedWeight {
  const float* data;
  const float* bias;  // in panel order, padded to whole panels; or null
  int64_t n, k;
};

struct AttentionCall {
  const int32_t* cu_seqlens_q;  // (num_rows + 1,)
  const int32_t* seq_lens;      // (num_rows,) tokens of K/V after this step
  const int32_t* page_tables;   // (num_slots, max_pages)
  const int64_t* slots;         // (num_rows,) the page table of each row
  const int64_t* slot_mapping;  // (num_tokens,) page * page_size + offset, or -1
  int64_t num_rows, num_tokens, max_pages, page_size;
  int64_t num_heads, num_kv_heads, head_dim;
  int64_t window;                                // 0 for none
  int64_t chunked;                               // the window begins at a multiple of its length
  int64_t page_stride, token_stride, head_stride;  // of both caches, in elements
  float scale, soft_cap;                         // soft_cap 0 for none
};

}  // extern "C"

// For functions whose rounding must be the same wherever they are called from: one copy, never inlined,
// never specialised for a caller.
#if defined(__clang__)
#define ONE_COPY __attribute__((noinline))
#else
#define ONE_COPY __attribute__((noipa))
#endif

// One row each; shared by the files here.
ONE_COPY void rms_norm_row(const float* x, const float* weight, float* out, int64_t width, float eps);
ONE_COPY void add_row(const float* a, const float* b, float* out, int64_t width);
ONE_COPY void gate_row(const float* gate, const float* up, float* out, int64_t width, int activation);
