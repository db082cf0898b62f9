// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How fast is the product with one token? Weights come from memory (128 MiB of them), so the limit
// is the read bandwidth measured beside each time. One thread, CPU time; then two, by the clock.
#include <benchmark/benchmark.h>

#include <vector>

#include "../probe.hpp"
#include "packed_weights.hpp"

namespace {

using namespace bisup;

void packed(benchmark::State& state, Target target, Format format) {
  const int rows = 5632, cols = 2048;
  const bench::PackedCopies w(format, rows, cols, std::size_t{128} << 20);
  const QuantizedActivation rounded =
      bench::normal_activation({.group = format.group, .token_scales = true}, 1, cols);
  const ActivationView x = rounded.view();
  const GemmFn kernel = gemm_kernel(format, target).function;
  const GemmTasks tasks(w[0].shape, 1);
  Matrix<float> y(1, rows);
  const auto multiply = [&](const PackedPanels& weights) {
    for (int i = 0; i < tasks.count(); ++i)
      kernel(weights, x, y.ref(), tasks.range(i, weights.shape, 1));
  };
  multiply(w[0]);
  if (!bench::agrees(w[0], x, y.ref())) return state.SkipWithError("differs from scalar");
  const double gigabytes = 1e-9 * static_cast<double>(w.count() * w[0].shape.bytes());
  std::vector<double> rates, fractions;
  for (auto _ : state) {
    const double bandwidth = bench::read_bandwidth();
    const double seconds = bench::seconds_of([&] {
      for (std::size_t copy = 0; copy < w.count(); ++copy) multiply(w[copy]);
    });
    state.SetIterationTime(seconds);
    rates.push_back(gigabytes / seconds), fractions.push_back(gigabytes / seconds / bandwidth);
  }
  state.counters["GB/s"] = bench::median(rates);
  state.counters["of_bandwidth"] = bench::median(fractions);
}

void two_threads(benchmark::State& state, Format format) {
  const int rows = 5632, cols = 2048;
  const bench::PackedCopies w(format, rows, cols, std::size_t{128} << 20);
  const QuantizedActivation rounded =
      bench::normal_activation({.group = format.group, .token_scales = true}, 1, cols);
  const ActivationView x = rounded.view();
  Matrix<float> y(1, rows);
  ThreadPool pool(2);
  gemm(w[0], x, y.ref(), pool);
  if (!bench::agrees(w[0], x, y.ref())) return state.SkipWithError("differs from scalar");
  const double gigabytes = 1e-9 * static_cast<double>(w.count() * w[0].shape.bytes());
  std::vector<double> rates, fractions;
  for (auto _ : state) {
    const double bandwidth = bench::read_bandwidth(pool);
    const double seconds = bench::clock_seconds_of([&] {
      for (std::size_t copy = 0; copy < w.count(); ++copy) gemm(w[copy], x, y.ref(), pool);
    });
    state.SetIterationTime(seconds);
    rates.push_back(gigabytes / seconds), fractions.push_back(gigabytes / seconds / bandwidth);
  }
  state.counters["GB/s"] = bench::median(rates);
  state.counters["of_bandwidth"] = bench::median(fractions);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (const Target target : {Target::avx512_vnni, Target::avx2}) {
    if (!runs_here(target)) continue;
    for (const int bits : {8, 6, 5, 4, 3, 2}) {
      const Format format{.bits = bits};
      benchmark::RegisterBenchmark(
          ("gemv/" + bench::describe(format) + "/panel16/" + std::string(bisup::name(target)))
              .c_str(),
          [=](benchmark::State& state) { packed(state, target, format); })
          ->UseManualTime()
          ->Unit(benchmark::kMillisecond)
          ->Iterations(7);
    }
  }
  for (const int bits : {8, 4, 3, 2}) {
    const Format format{.bits = bits};
    benchmark::RegisterBenchmark(("gemv_two_threads/" + bench::describe(format)).c_str(),
                                 [=](benchmark::State& state) { two_threads(state, format); })
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond)
        ->Iterations(15);
  }
  benchmark::RunSpecifiedBenchmarks();
}
