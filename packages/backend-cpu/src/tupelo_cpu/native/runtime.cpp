// The library's own state: torch's thread pool, and what it was built for.
#include "parallel.h"
#include "vec.h"

ThreadPool pool = {};

extern "C" {

// Addresses in the OpenMP runtime that torch runs on: GOMP_parallel, GOMP_barrier, omp_get_thread_num,
// omp_get_num_threads.
void tupelo_set_threads(void* parallel, void* barrier, void* thread_num, void* num_threads) {
  pool.parallel = reinterpret_cast<void (*)(void (*)(void*), void*, unsigned, unsigned)>(parallel);
  pool.barrier = reinterpret_cast<void (*)()>(barrier);
  pool.thread_num = reinterpret_cast<int (*)()>(thread_num);
  pool.num_threads = reinterpret_cast<int (*)()>(num_threads);
}

int tupelo_panel_columns() { return NR; }

const char* tupelo_instruction_set() {
#if defined(__AVX512F__)
  return "AVX-512";
#elif defined(__AVX2__)
  return "AVX2";
#elif defined(__aarch64__)
  return "NEON";
#else
  return "generic";
#endif
}

}  // extern "C"
