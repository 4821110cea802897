// Threads: the OpenMP pool that torch itself runs on, entered through function pointers that the loader
// hands over. Nothing here links an OpenMP library, so there can never be a second pool.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

struct ThreadPool {
  void (*parallel)(void (*body)(void*), void* data, unsigned num_threads, unsigned flags);
  void (*barrier)();
  int (*thread_num)();
  int (*num_threads)();  // of the running region
};
extern ThreadPool pool;

// body(thread, num_threads) on each of `threads` threads. Results must not depend on the number.
template <class Body>
static inline void parallel(int threads, Body&& body) {
  if (threads <= 1 || pool.parallel == nullptr) {
    body(0, 1);
    return;
  }
  auto run = [](void* data) { (*static_cast<Body*>(data))(pool.thread_num(), pool.num_threads()); };
  pool.parallel(static_cast<void (*)(void*)>(run), const_cast<void*>(static_cast<const void*>(&body)),
                static_cast<unsigned>(threads), 0);
}

static inline void barrier(int threads) {
  if (threads > 1) pool.barrier();
}

// Hands out 0, 1, ... total-1 over the threads, first come first served.
struct Counter {
  std::atomic<int64_t> next{0};
  int64_t take() { return next.fetch_add(1, std::memory_order_relaxed); }
};

// Floats that a thread keeps between calls and that only grow; aligned to a cache line.
struct Scratch {
  float* data = nullptr;
  size_t size = 0;
  float* get(size_t n) {
    if (n > size) {
      std::free(data);
      size = (n + n / 4 + 1023) / 1024 * 1024;
      data = static_cast<float*>(std::aligned_alloc(64, size * sizeof(float)));
      if (data == nullptr) std::abort();  // inside a parallel region nothing can be thrown
    }
    return data;
  }
  ~Scratch() { std::free(data); }
};
