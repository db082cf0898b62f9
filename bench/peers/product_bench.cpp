// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// Our side of bench/peers/product_peer.py: float activations [tokens, 2048] are rounded to 8 bits and
// multiplied by packed weights [5632, 2048], 128 MiB of them so that they come from memory. One
// thread, CPU time.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "../ops/packed_weights.hpp"
#include "../probe.hpp"

namespace {

using namespace bisup;

void product(benchmark::State& state, Format format, int tokens) {
  const int rows = 5632, cols = 2048;
  const bench::PackedCopies w(format, rows, cols, std::size_t{128} << 20);
  const ActivationFormat rounding{.group = format.group, .token_scales = true};
  Matrix<float> x(tokens, cols), y(tokens, rows);
  Random random(2);
  for (int i = 0; i < tokens * cols; ++i) x.data()[i] = static_cast<float>(random.normal());
  ThreadPool pool(1);
  const GemmFn kernel = gemm_kernel(format, active_target()).function;
  QuantizedActivation rounded;
  const auto multiply = [&](const PackedPanels& weights) {
    quantize_activation(x.ref(), rounding, rounded, pool);
    const GemmTasks tasks(weights.shape, tokens);
    for (int i = 0; i < tasks.count(); ++i)
      kernel(weights, rounded.view(), y.ref(), tasks.range(i, weights.shape, tokens));
  };
  multiply(w[0]);
  if (!bench::agrees(w[0], rounded.view(), y.ref())) return state.SkipWithError("differs from scalar");
  const double operations = 2e-9 * tokens * rows * cols * static_cast<double>(w.count());
  std::vector<double> rates;
  for (auto _ : state) {
    const double seconds = bench::seconds_of([&] {
      for (std::size_t copy = 0; copy < w.count(); ++copy) multiply(w[copy]);
    });
    state.SetIterationTime(seconds);
    rates.push_back(operations / seconds);
  }
  state.counters["GOPS"] = bench::median(rates);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (const int group : {32, 128}) {
    for (const int tokens : {1, 512}) {
      const Format format{.bits = 4, .group = group};
      benchmark::RegisterBenchmark(("product/" + bench::describe(format) + "/" + std::to_string(tokens)).c_str(),
                                   [=](benchmark::State& state) { product(state, format, tokens); })
          ->UseManualTime()
          ->Unit(benchmark::kMillisecond)
          ->Iterations(tokens == 1 ? 15 : 5);
    }
  }
  benchmark::RunSpecifiedBenchmarks();
}
