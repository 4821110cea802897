// Attention over paged K/V: decode rows, prefill chunks and mixed batches in one call.
//
// K/V tokens are worked on in blocks of BLOCK tokens at fixed absolute positions. For one block and one
// query row the partial result is
//
//     s = scale * q k^T (soft-capped, masked)    m = max s    p = exp(s - m)    l = sum p    o = p v
//
// and the partial results of the blocks are folded from left to right. The fold does not depend on which
// rows are computed together, on how the prompt was cut into chunks, or on the threads: a row's result
// is bit-identical in all of them. Blocks that are wholly masked for a row change nothing, exactly.
//
// Source: the online softmax of Milakov and Gimelshein 2018; its blocked use in FlashAttention (Dao 2022)
// and split over K/V in Flash-Decoding (Dao et al. 2023).
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gemm.h"
#include "kernels.h"
#include "parallel.h"

namespace {

constexpr int64_t BLOCK = 128;      // tokens; a multiple of NR
constexpr int64_t TILE_ROWS = 96;   // query rows (tokens x heads of one group) that share a packed block
constexpr float MINUS_INFINITY = -std::numeric_limits<float>::infinity();
static_assert(BLOCK % NR == 0);

// Query tokens [begin, end) of one batch row against blocks [first_block, last_block), for one K/V head.
struct Task {
  int32_t row, kv_head, begin, end, first_block, last_block;
  int64_t partial;  // where in the shared scratch the partial results go, or -1: fold and write the output
};

struct Tensors {
  const float *q, *k_cache, *v_cache, *sinks;
  float* out;
};

struct Workspace {  // one thread's scratch
  float *q, *k, *v, *scores, *partial, *folded, *stats;
};

int64_t padded_dim(const AttentionCall& c) { return (c.head_dim + NR - 1) / NR * NR; }
int64_t group_size(const AttentionCall& c) { return c.num_heads / c.num_kv_heads; }
int64_t first_position(const AttentionCall& c, int64_t row) {  // of the row's first query token
  return c.seq_lens[row] - (c.cu_seqlens_q[row + 1] - c.cu_seqlens_q[row]);
}

Workspace workspace(const AttentionCall& c, int64_t rows) {
  static thread_local Scratch scratch;
  int64_t d = c.head_dim, dp = padded_dim(c);
  float* p = scratch.get(static_cast<size_t>(rows * d + 2 * BLOCK * dp + rows * (BLOCK + 2 * dp + 4) + 64 * 8));
  auto take = [&](int64_t n) {
    float* at = p;
    p += (n + 15) / 16 * 16;
    return at;
  };
  Workspace w;
  w.k = take(BLOCK * dp);
  w.v = take(BLOCK * dp);
  w.q = take(rows * d);
  w.scores = take(rows * BLOCK);
  w.partial = take(rows * dp);
  w.folded = take(rows * dp);
  w.stats = take(rows * 4);
  return w;
}

// ---- reading and writing pages ------------------------------------------------------------------
void write_tokens(const AttentionCall& c, const float* k, const float* v, float* k_cache, float* v_cache, int64_t begin,
                  int64_t end) {
  size_t bytes = c.head_dim * sizeof(float);
  for (int64_t t = begin; t < end; t++) {
    int64_t slot = c.slot_mapping[t];
    if (slot < 0) continue;
    int64_t at = slot / c.page_size * c.page_stride + slot % c.page_size * c.token_stride;
    for (int64_t h = 0; h < c.num_kv_heads; h++) {
      int64_t from = (t * c.num_kv_heads + h) * c.head_dim;
      std::memcpy(k_cache + at + h * c.head_stride, k + from, bytes);
      std::memcpy(v_cache + at + h * c.head_stride, v + from, bytes);
    }
  }
}

// Offsets in the caches of one block's tokens, as far as a task sees them; further entries repeat the last.
// A block may begin behind the window, where the table has -1: page 0 is read instead, and masked.
struct Located {
  int64_t n, offsets[BLOCK];
};

void locate(const AttentionCall& c, const Task& task, int64_t block, Located* to) {
  int64_t begin = block * BLOCK, n = std::clamp<int64_t>(first_position(c, task.row) + task.end - begin, 0, BLOCK);
  const int32_t* table = c.page_tables + c.slots[task.row] * c.max_pages;
  int64_t page = begin / c.page_size, in_page = begin % c.page_size, i = 0;
  to->n = n;
  while (i < n) {
    int64_t at = std::max<int64_t>(0, table[page++]) * c.page_stride + in_page * c.token_stride + task.kv_head * c.head_stride;
    for (int64_t end = std::min(n, i + c.page_size - in_page); i < end; i++, at += c.token_stride) to->offsets[i] = at;
    in_page = 0;
  }
  for (; n > 0 && i < BLOCK; i++) to->offsets[i] = to->offsets[i - 1];
}

// K of n tokens -> panels of NR tokens: panel, then head_dim, then token. Columns past n, up to a whole
// panel, repeat the last token; their scores are masked. Pages lie anywhere, so no hardware prefetcher
// follows them: V is fetched meanwhile.
void pack_keys(const float* cache, const float* v_cache, const Located& tokens, int64_t d, float* out) {
  for (int64_t t0 = 0; t0 < (tokens.n + NR - 1) / NR * NR; t0 += VL) {
    float* panel = out + t0 / NR * NR * d + t0 % NR;
    const float* rows[VL];
    for (int i = 0; i < VL; i++) {
      rows[i] = cache + tokens.offsets[t0 + i];
      for (int64_t j = 0; j < d; j += 16) __builtin_prefetch(v_cache + tokens.offsets[t0 + i] + j);
    }
    int64_t j = 0;
    for (; j + VL <= d; j += VL) {
      vf v[VL];
#pragma GCC unroll 16
      for (int i = 0; i < VL; i++) v[i] = load(rows[i] + j);
      transpose(v);
#pragma GCC unroll 16
      for (int i = 0; i < VL; i++) store(panel + (j + i) * NR, v[i]);
    }
    for (; j < d; j++)
      for (int i = 0; i < VL; i++) panel[j * NR + i] = rows[i][j];
  }
}

// For a head_dim that is no whole number of panels: V of n tokens, padded with zeros.
void pad_values(const float* cache, const Located& tokens, int64_t d, int64_t dp, float* out) {
  for (int64_t t = 0; t < tokens.n; t++) {
    std::memcpy(out + t * dp, cache + tokens.offsets[t], d * sizeof(float));
    std::memset(out + t * dp + d, 0, (dp - d) * sizeof(float));
  }
}

// ---- one block ----------------------------------------------------------------------------------
// Scores of one query row -> probabilities in place, over `columns` (a multiple of NR) tokens from
// `block_begin`; the visible ones are positions [low, high). Returns max and sum.
ONE_COPY void softmax_row(float* s, int64_t columns, int64_t block_begin, int64_t low, int64_t high,
                                           float scale, float soft_cap, float* max_out, float* sum_out) {
  vf best = splat(MINUS_INFINITY);
  bool masked = low > block_begin || high < block_begin + columns;
  vi lane = iota(), first = splat_int(static_cast<int32_t>(std::max<int64_t>(low - block_begin, 0)));
  vi last = splat_int(static_cast<int32_t>(std::max<int64_t>(high - block_begin, 0)));
  for (int64_t i = 0; i < columns; i += VL) {
    vf x = load(s + i) * splat(scale);
    if (soft_cap > 0) x = vtanh(x / splat(soft_cap)) * splat(soft_cap);
    if (masked) {
      vi at = lane + static_cast<int32_t>(i);
      x = (at >= first) & (at < last) ? x : splat(MINUS_INFINITY);
    }
    best = vmax(best, x);
    store(s + i, x);
  }
  float m = max_lanes(best);
  *max_out = m;
  vf total = {}, shift = splat(m == MINUS_INFINITY ? 0.0f : m);
  for (int64_t i = 0; i < columns; i += VL) {
    vf p = vexp(load(s + i) - shift);
    total += p;
    store(s + i, p);
  }
  *sum_out = sum_lanes(total);
}

// (m, l, o) <- (m, l, o) with one more block (bm, bl, bo). One copy in the program, for its rounding
// must be the same wherever it is called from.
ONE_COPY void fold(float* m, float* l, float* o, float bm, float bl, const float* bo, int64_t dp) {
  float most = *m > bm ? *m : bm;
  if (most == MINUS_INFINITY) return;
  vf pair = {};
  pair[0] = *m - most;
  pair[1] = bm - most;
  pair = vexp(pair);
  float keep = pair[0], add = pair[1];
  for (int64_t i = 0; i < dp; i += VL) {
    vf scaled = load(o + i) * splat(keep);
    store(o + i, load(bo + i) * splat(add) + scaled);
  }
  float kept = *l * keep;
  *l = bl * add + kept;
  *m = most;
}

// Divides by the sum and writes one head's output; a sink is one more logit, without a value.
void finish(float m, float l, const float* o, const float* sink, float* out, int64_t d) {
  float keep = 1.0f;
  if (sink != nullptr) {
    float most = m > *sink ? m : *sink;
    keep = std::exp(m - most);
    l = l * keep + std::exp(*sink - most);
  }
  float factor = l > 0 ? keep / l : 0.0f;
  for (int64_t i = 0; i < d; i++) out[i] = o[i] * factor;
}

// The first token that one at `position` sees.
int64_t first_seen(const AttentionCall& c, int64_t position) {
  if (c.window <= 0) return 0;
  return c.chunked ? position / c.window * c.window : std::max<int64_t>(0, position - c.window + 1);
}

struct Tile {
  int64_t rows, group, position;  // row i is token i / group of the task, at `position` + i / group
  int64_t low(int64_t row, const AttentionCall& c) const { return first_seen(c, position + row / group); }
  int64_t high(int64_t row) const { return position + row / group + 1; }
};

// One block of K/V, made ready: K in panels, V as rows at offsets; `next` is the block after it.
struct Block {
  int64_t begin;
  const float *v, *next;
  const int64_t *offsets, *next_offsets;
  int64_t next_width;
};

// Rows [r0, r1) of the tile against one block; partial results go to the workspace.
void attend_rows(const AttentionCall& c, const Tile& tile, const Workspace& w, const Block& block, int64_t r0,
                 int64_t r1) {
  int64_t d = c.head_dim, dp = padded_dim(c), rows = r1 - r0;
  int64_t tokens = std::min(BLOCK, tile.high(r1 - 1) - block.begin), panels = (tokens + NR - 1) / NR;
  float* scores = w.scores + r0 * BLOCK;
  for (int64_t p = 0; p < panels; p++)
    multiply_panel(rows, w.q + r0 * d, d, PackedRows{w.k + p * NR * d}, d, nullptr, 0, scores + p * NR, BLOCK);
  for (int64_t r = r0; r < r1; r++)
    softmax_row(w.scores + r * BLOCK, panels * NR, block.begin, tile.low(r, c), tile.high(r), c.scale,
                c.soft_cap, w.stats + r * 4, w.stats + r * 4 + 1);
  for (int64_t column = 0; column < dp; column += NR) {
    GatheredRows v = {block.v + column, block.offsets, block.next, block.next_offsets,
                      column == 0 && r0 == 0 ? block.next_width : 0};
    multiply_panel(rows, scores, BLOCK, v, tokens, nullptr, 0, w.partial + r0 * dp + column, dp);
  }
}

// `following` is the task that this thread does next, if known: its first block is fetched ahead.
void run_task(const AttentionCall& c, const Tensors& t, const Task& task, const Task* following, float* partials) {
  int64_t d = c.head_dim, dp = padded_dim(c), group = group_size(c), first_token = c.cu_seqlens_q[task.row];
  Tile tile = {(task.end - task.begin) * group, group, first_position(c, task.row) + task.begin};
  Workspace w = workspace(c, tile.rows);
  for (int64_t r = 0; r < tile.rows; r++) {
    int64_t token = first_token + task.begin + r / group, head = task.kv_head * group + r % group;
    std::memcpy(w.q + r * d, t.q + (token * c.num_heads + head) * d, d * sizeof(float));
    w.stats[r * 4 + 2] = MINUS_INFINITY;
    w.stats[r * 4 + 3] = 0;
  }
  std::fill(w.folded, w.folded + tile.rows * dp, 0.0f);
  int64_t padded_offsets[BLOCK];
  for (int64_t i = 0; i < BLOCK; i++) padded_offsets[i] = i * dp;
  Located located[2];
  locate(c, task, task.first_block, &located[0]);
  for (int64_t index = task.first_block; index < task.last_block; index++) {
    const Located& tokens = located[(index - task.first_block) % 2];
    Located& next = located[(index - task.first_block + 1) % 2];
    next.n = 0;
    if (index + 1 < task.last_block)
      locate(c, task, index + 1, &next);
    else if (following != nullptr)
      locate(c, *following, following->first_block, &next);
    int64_t begin = index * BLOCK, n = tokens.n;
    Block block = {begin, t.v_cache, t.k_cache, tokens.offsets, next.offsets, next.n > 0 ? d : 0};
    pack_keys(t.k_cache, t.v_cache, tokens, d, w.k);
    if (d != dp) {
      pad_values(t.v_cache, tokens, d, dp, w.v);
      block.v = w.v, block.offsets = padded_offsets;
    }
    int64_t parts = (tile.rows + MR - 1) / MR;
    for (int64_t i = 0; i < parts; i++) {
      int64_t r0 = tile.rows * i / parts, r1 = tile.rows * (i + 1) / parts;
      if (tile.high(r1 - 1) <= begin || tile.low(r0, c) >= begin + n) {
        for (int64_t r = r0; r < r1; r++) w.stats[r * 4] = MINUS_INFINITY, w.stats[r * 4 + 1] = 0;
        if (task.partial >= 0) std::fill(w.partial + r0 * dp, w.partial + r1 * dp, 0.0f);
        continue;
      }
      attend_rows(c, tile, w, block, r0, r1);
    }
    for (int64_t r = 0; r < tile.rows; r++) {
      float *s = w.stats + r * 4, *o = w.partial + r * dp;
      if (task.partial >= 0) {
        float* to = partials + task.partial + ((index - task.first_block) * tile.rows + r) * (dp + NR);
        std::memcpy(to, o, dp * sizeof(float));
        to[dp] = s[0], to[dp + 1] = s[1];
      } else if (s[0] != MINUS_INFINITY) {
        fold(s + 2, s + 3, w.folded + r * dp, s[0], s[1], o, dp);
      }
    }
  }
  if (task.partial >= 0) return;
  for (int64_t r = 0; r < tile.rows; r++) {
    int64_t token = first_token + task.begin + r / group, head = task.kv_head * group + r % group;
    finish(w.stats[r * 4 + 2], w.stats[r * 4 + 3], w.folded + r * dp, t.sinks != nullptr ? t.sinks + head : nullptr,
           t.out + (token * c.num_heads + head) * d, d);
  }
}

// Folds the partial results of one split tile, whose blocks lie one after the other in the scratch.
void fold_split(const AttentionCall& c, const Tensors& t, const Task& tile, const float* partials) {
  int64_t d = c.head_dim, dp = padded_dim(c), group = group_size(c), rows = (tile.end - tile.begin) * group;
  Workspace w = workspace(c, rows);
  for (int64_t r = 0; r < rows; r++) {
    float m = MINUS_INFINITY, l = 0;
    std::fill(w.folded, w.folded + dp, 0.0f);
    for (int64_t b = 0; b < tile.last_block - tile.first_block; b++) {
      const float* from = partials + tile.partial + (b * rows + r) * (dp + NR);
      if (from[dp] != MINUS_INFINITY) fold(&m, &l, w.folded, from[dp], from[dp + 1], from, dp);
    }
    int64_t token = c.cu_seqlens_q[tile.row] + tile.begin + r / group, head = tile.kv_head * group + r % group;
    finish(m, l, w.folded, t.sinks != nullptr ? t.sinks + head : nullptr, t.out + (token * c.num_heads + head) * d, d);
  }
}

// ---- the work list ------------------------------------------------------------------------------
struct WorkList {
  std::vector<Task> tasks, splits;  // splits: the tiles whose blocks were dealt to several tasks
  int64_t partial_floats = 0;

  void build(const AttentionCall& c, int threads);
};

void WorkList::build(const AttentionCall& c, int threads) {
  tasks.clear(), splits.clear();
  partial_floats = 0;
  int64_t group = group_size(c), tokens = std::max<int64_t>(1, TILE_ROWS / group), blocks = 0;
  for (int64_t row = 0; row < c.num_rows; row++) {
    int64_t length = c.cu_seqlens_q[row + 1] - c.cu_seqlens_q[row], position = first_position(c, row);
    // Late tokens see most: they come first, so that no long task is left for the end.
    for (int64_t end = length; end > 0; end -= tokens) {
      int64_t begin = std::max<int64_t>(0, end - tokens);
      int64_t low = first_seen(c, position + begin);
      Task task = {static_cast<int32_t>(row), 0, static_cast<int32_t>(begin), static_cast<int32_t>(end),
                   static_cast<int32_t>(low / BLOCK),
                   static_cast<int32_t>((position + end + BLOCK - 1) / BLOCK), -1};
      for (int64_t h = 0; h < c.num_kv_heads; h++) {
        task.kv_head = static_cast<int32_t>(h);
        blocks += task.last_block - task.first_block;
        tasks.push_back(task);
      }
    }
  }
  int64_t wanted = 4 * threads;
  if (threads <= 1 || static_cast<int64_t>(tasks.size()) >= wanted || blocks <= static_cast<int64_t>(tasks.size())) return;
  int64_t share = std::max<int64_t>(1, blocks / wanted);
  std::vector<Task> whole;
  whole.swap(tasks);
  for (Task& task : whole) {
    int64_t count = task.last_block - task.first_block;
    if (count <= share) {
      tasks.push_back(task);
      continue;
    }
    int64_t block_floats = (task.end - task.begin) * group * (padded_dim(c) + NR);
    task.partial = partial_floats;
    partial_floats += count * block_floats;
    splits.push_back(task);
    for (int64_t b = 0; b < count; b += share) {
      Task part = task;
      part.first_block = static_cast<int32_t>(task.first_block + b);
      part.last_block = static_cast<int32_t>(std::min<int64_t>(task.last_block, part.first_block + share));
      part.partial = task.partial + b * block_floats;
      tasks.push_back(part);
    }
  }
}

}  // namespace

extern "C" void tupelo_paged_attention(const AttentionCall* call, const float* q, const float* k, const float* v,
                                       float* k_cache, float* v_cache, const float* sinks, float* out, int threads) {
  static thread_local WorkList work;
  static thread_local Scratch scratch;
  const AttentionCall& c = *call;
  WorkList& list = work;  // a thread_local named inside the region would be each thread's own
  list.build(c, threads);
  float* partials = list.partial_floats > 0 ? scratch.get(static_cast<size_t>(list.partial_floats)) : nullptr;
  Tensors t = {q, k_cache, v_cache, sinks, out};
  Counter tasks, splits;
  int64_t count = static_cast<int64_t>(list.tasks.size()), share = std::clamp<int64_t>(count / (8 * threads), 1, 16);
  parallel(threads, [&](int thread, int num) {
    write_tokens(c, k, v, k_cache, v_cache, c.num_tokens * thread / num, c.num_tokens * (thread + 1) / num);
    barrier(num);
    int64_t i, computed = c.num_rows > 0 ? c.cu_seqlens_q[c.num_rows] : 0, width = c.num_heads * c.head_dim;
    if (thread == 0) std::fill(out + computed * width, out + c.num_tokens * width, 0.0f);  // padding
    while ((i = tasks.take() * share) < count)
      for (int64_t end = std::min(count, i + share); i < end; i++)
        run_task(c, t, list.tasks[i], i + 1 < end ? &list.tasks[i + 1] : nullptr, partials);
    if (list.splits.empty()) return;
    barrier(num);
    while ((i = splits.take()) < static_cast<int64_t>(list.splits.size())) fold_split(c, t, list.splits[i], partials);
  });
}
