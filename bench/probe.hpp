// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How fast could this machine be right now? Peak rates of multiply-adds, of 8-bit dot products and
// of reading memory, measured in the same program as what is compared with them: machines are
// shared, so a number means something only as a fraction of these. One thread in its CPU time,
// several by the clock.

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <bisup/core/platform.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/kernel/target.hpp>

#if BISUP_X86
#include <immintrin.h>
#endif

namespace bisup::bench {

// CPU time of this thread, in seconds.
inline double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

template <class Work>
double seconds_of(Work&& work) {
  const double start = thread_seconds();
  work();
  return thread_seconds() - start;
}

template <class Work>
double clock_seconds_of(Work&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The middle one of an odd number of measurements.
inline double median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

#if BISUP_X86
namespace detail {

// Twelve independent chains (of different values, or the compiler would make them one) hide the
// latency: two instructions a cycle of four or five cycles each.
inline constexpr int chains = 12;
inline constexpr int rounds = 100'000;

BISUP_COMPILED_FOR(BISUP_ISA_AVX512)
BISUP_OPTIMIZED inline float multiply_add_512() noexcept {
  __m512 a = _mm512_set1_ps(1e-3f), sum[chains];
#pragma GCC unroll 12
  for (int i = 0; i < chains; ++i) sum[i] = _mm512_set1_ps(static_cast<float>(i));
  for (int n = 0; n < rounds; ++n) {
    asm volatile("" : "+v"(a));  // or the loop would be computed at compile time
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) sum[i] = _mm512_fmadd_ps(a, a, sum[i]);
  }
#pragma GCC unroll 12
  for (int i = 1; i < chains; ++i) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  return _mm512_cvtss_f32(sum[0]);
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline float multiply_add_256() noexcept {
  __m256 a = _mm256_set1_ps(1e-3f), sum[chains];
#pragma GCC unroll 12
  for (int i = 0; i < chains; ++i) sum[i] = _mm256_set1_ps(static_cast<float>(i));
  for (int n = 0; n < rounds; ++n) {
    asm volatile("" : "+x"(a));
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) sum[i] = _mm256_fmadd_ps(a, a, sum[i]);
  }
#pragma GCC unroll 12
  for (int i = 1; i < chains; ++i) sum[0] = _mm256_add_ps(sum[0], sum[i]);
  return _mm256_cvtss_f32(sum[0]);
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX512_VNNI)
BISUP_OPTIMIZED inline int dot_512() noexcept {
  __m512i a = _mm512_set1_epi8(1), sum[chains];
#pragma GCC unroll 12
  for (int i = 0; i < chains; ++i) sum[i] = _mm512_set1_epi32(i);
  for (int n = 0; n < rounds; ++n) {
    asm volatile("" : "+v"(a));
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) sum[i] = _mm512_dpbusd_epi32(sum[i], a, a);
  }
#pragma GCC unroll 12
  for (int i = 1; i < chains; ++i) sum[0] = _mm512_add_epi32(sum[0], sum[i]);
  return _mm_cvtsi128_si32(_mm512_maskz_extracti32x4_epi32(0xf, sum[0], 0));
}

BISUP_COMPILED_FOR(BISUP_ISA_AVX_VNNI)
BISUP_OPTIMIZED inline int dot_256() noexcept {
  __m256i a = _mm256_set1_epi8(1), sum[chains];
#pragma GCC unroll 12
  for (int i = 0; i < chains; ++i) sum[i] = _mm256_set1_epi32(i);
  for (int n = 0; n < rounds; ++n) {
    asm volatile("" : "+x"(a));
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) sum[i] = _mm256_dpbusd_avx_epi32(sum[i], a, a);
  }
#pragma GCC unroll 12
  for (int i = 1; i < chains; ++i) sum[0] = _mm256_add_epi32(sum[0], sum[i]);
  return _mm256_cvtsi256_si32(sum[0]);
}

// From so many places in turns, asking for lines ahead if there are several.
template <int Places>
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_OPTIMIZED inline int read_256(const __m256i* data, long count) noexcept {
  __m256i seen[4] = {};
  for (long i = 0; i < count / Places; i += 4) {
#pragma GCC unroll 4
    for (int place = 0; place < Places; ++place) {
      const __m256i* from = data + place * (count / Places) + i;
      if (Places > 1) _mm_prefetch(from + 32, _MM_HINT_T0), _mm_prefetch(from + 34, _MM_HINT_T0);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) seen[j] = _mm256_or_si256(seen[j], _mm256_loadu_si256(from + j));
    }
  }
  seen[0] = _mm256_or_si256(_mm256_or_si256(seen[0], seen[1]), _mm256_or_si256(seen[2], seen[3]));
  return _mm256_cvtsi256_si32(seen[0]);
}

}  // namespace detail

// Billions of floating-point operations a second of one thread, with the widest registers there
// are; zero where the processor has no such instruction.
inline double multiply_add_peak() {
  if (!runs_here(Target::avx2)) return 0;
  volatile float sink = 0;
  double wide = 0;
  if (runs_here(Target::avx512))
    wide = 32e-9 / seconds_of([&] { sink = detail::multiply_add_512(); });
  const double narrow = 16e-9 / seconds_of([&] { sink = detail::multiply_add_256(); });
  (void)sink;
  return std::max(wide, narrow) * detail::chains * detail::rounds;
}

// The same of unsigned times signed 8-bit products and their sums, vpdpbusd in the registers of
// avx512_vnni or avx_vnni.
inline double dot_peak(Target target = Target::avx512_vnni) {
  if (!runs_here(target)) return 0;
  const bool wide = target == Target::avx512_vnni;
  volatile int sink = 0;
  const double seconds = seconds_of([&] { sink = wide ? detail::dot_512() : detail::dot_256(); });
  (void)sink;
  return (wide ? 128e-9 : 64e-9) * detail::chains * detail::rounds / seconds;
}

// Gigabytes a second of one thread, read in order from 128 MiB, beyond every cache.
inline double read_bandwidth() {
  if (!runs_here(Target::avx2)) return 0;
  static const std::vector<std::uint8_t> memory(std::size_t{128} << 20, 1);
  volatile int sink = 0;
  const auto* from = reinterpret_cast<const __m256i*>(memory.data());
  const auto count = static_cast<long>(memory.size() / 32);
  const double one = seconds_of([&] { sink = detail::read_256<1>(from, count); });
  const double four = seconds_of([&] { sink = detail::read_256<4>(from, count); });
  (void)sink;
  return static_cast<double>(memory.size()) * 1e-9 / std::min(one, four);
}

// The same of all threads of a pool together, each in a part of 128 MiB.
inline double read_bandwidth(ThreadPool& pool) {
  if (!runs_here(Target::avx2)) return 0;
  static const std::vector<std::uint8_t> memory(std::size_t{128} << 20, 1);
  std::vector<int> seen(static_cast<std::size_t>(pool.threads()));
  const auto count = static_cast<long>(memory.size() / 32) / pool.threads();
  const auto read = [&]<int Places>() {
    return clock_seconds_of([&] {
      pool.parallel_for(pool.threads(), [&](int part, int) {
        const auto* from = reinterpret_cast<const __m256i*>(memory.data()) + part * count;
        seen[static_cast<std::size_t>(part)] += detail::read_256<Places>(from, count);
      });
    });
  };
  const double one = read.template operator()<1>(), four = read.template operator()<4>();
  return static_cast<double>(memory.size()) * 1e-9 / std::min(one, four);
}
#else
inline double multiply_add_peak() {
  return 0;
}
inline double dot_peak(Target = Target::avx512_vnni) {
  return 0;
}
inline double read_bandwidth() {
  return 0;
}
inline double read_bandwidth(ThreadPool&) {
  return 0;
}
#endif

}  // namespace bisup::bench
