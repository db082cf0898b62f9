// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How fast are products of packed weights and quantized activations? One thread, CPU time; beside
// each time the peak of the instruction it is made of: vpdpbusd, or on AVX2 vpmaddubsw + vpmaddwd +
// vpaddd. Then two threads beside one, in turns, by the clock.
#include <benchmark/benchmark.h>

#include <vector>

#include "../probe.hpp"
#include "packed_weights.hpp"

namespace {

using namespace bisup;

#if BISUP_X86
// Billions of operations a second of the AVX2 sequence that multiplies and adds 32 pairs.
BISUP_COMPILED_FOR(BISUP_ISA_AVX2)
BISUP_NOINLINE int pair_products(int rounds) noexcept {
  __m256i a = _mm256_set1_epi8(1), sum[12] = {};
  const __m256i ones = _mm256_set1_epi16(1);
  for (int n = 0; n < rounds; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) {
      asm volatile("" : "+x"(a));
      sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a, a), ones));
    }
  }
#pragma GCC unroll 12
  for (int i = 1; i < 12; ++i) sum[0] = _mm256_add_epi32(sum[0], sum[i]);
  return _mm256_cvtsi256_si32(sum[0]);
}
#endif

double peak_of(Target target) {
#if BISUP_X86
  if (target != Target::avx2) return bench::dot_peak(target);
  constexpr int rounds = 100'000;
  const double seconds = bench::seconds_of([] { benchmark::DoNotOptimize(pair_products(rounds)); });
  return 64e-9 * 12 * rounds / seconds;
#else
  (void)target;
  return 0;
#endif
}

void packed(benchmark::State& state, Target target, Format format, bool token_scales) {
  const int tokens = static_cast<int>(state.range(0)), rows = 5632, cols = 2048;
  const bench::PackedCopies w(format, rows, cols, 1);
  const QuantizedActivation rounded =
      bench::normal_activation({.group = format.group, .token_scales = token_scales}, tokens, cols);
  const ActivationView x = rounded.view();
  const GemmFn kernel = gemm_kernel(format, target).function;
  const GemmTasks tasks(w[0].shape, tokens);
  Matrix<float> y(tokens, rows);
  const auto multiply = [&] {
    for (int i = 0; i < tasks.count(); ++i)
      kernel(w[0], x, y.ref(), tasks.range(i, w[0].shape, tokens));
  };
  multiply();
  if (!bench::agrees(w[0], x, y.ref())) return state.SkipWithError("differs from scalar");
  const double operations = 2e-9 * tokens * rows * cols;
  std::vector<double> rates, fractions;
  for (auto _ : state) {
    const double peak = peak_of(target), seconds = bench::seconds_of(multiply);
    state.SetIterationTime(seconds);
    rates.push_back(operations / seconds), fractions.push_back(operations / seconds / peak);
  }
  state.counters["GOPS"] = bench::median(rates);
  state.counters["of_peak"] = bench::median(fractions);
}

void two_threads(benchmark::State& state, Format format) {
  const int tokens = 504, rows = 5632, cols = 2048;
  const bench::PackedCopies w(format, rows, cols, 1);
  const QuantizedActivation rounded =
      bench::normal_activation({.group = format.group, .token_scales = true}, tokens, cols);
  const ActivationView x = rounded.view();
  Matrix<float> y(tokens, rows);
  ThreadPool one(1), two(2);
  const auto multiply = [&](ThreadPool& pool) { gemm(w[0], x, y.ref(), pool); };
  multiply(two);
  if (!bench::agrees(w[0], x, y.ref())) return state.SkipWithError("differs from scalar");
  std::vector<double> rates, times;
  for (auto _ : state) {
    const double alone = bench::clock_seconds_of([&] { multiply(one); });
    const double together = bench::clock_seconds_of([&] { multiply(two); });
    state.SetIterationTime(together);
    rates.push_back(2e-9 * tokens * rows * cols / together), times.push_back(alone / together);
  }
  state.counters["GOPS"] = bench::median(rates);
  state.counters["of_one"] = bench::median(times);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (const Target target : {Target::avx512_vnni, Target::avx_vnni, Target::avx2}) {
    if (!runs_here(target)) continue;
    for (const Format format :
         {Format{.bits = 8}, Format{}, Format{.group = 32}, Format{.bits = 3}, Format{.bits = 2},
          Format{.bits = 5}, Format{.bits = 6}, Format{.zero = Zero::affine},
          Format{.bits = 8, .group = 0}, Format{.group = 0}}) {
      const std::string name =
          "gemm/" + bench::describe(format) + "/panel16/" + std::string(bisup::name(target));
      for (const bool token_scales : {true, false}) {
        if (!token_scales && format.group != 32) continue;
        auto* registered = benchmark::RegisterBenchmark(
            (name + (token_scales ? "/token" : "/group")).c_str(),
            [=](benchmark::State& state) { packed(state, target, format, token_scales); });
        registered->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(5)->Arg(504);
        if (format == Format{}) registered->Arg(2)->Arg(3)->Arg(4)->Arg(5)->Arg(7)->Arg(8)->Arg(16);
      }
    }
  }
  for (const Format format : {Format{.bits = 8}, Format{}, Format{.bits = 2}}) {
    benchmark::RegisterBenchmark(("gemm_two_threads/" + bench::describe(format)).c_str(),
                                 [=](benchmark::State& state) { two_threads(state, format); })
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond)
        ->Iterations(15);
  }
  benchmark::RunSpecifiedBenchmarks();
}
