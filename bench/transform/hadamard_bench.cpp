// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// What does an online Hadamard cost? 512 tokens of the inputs of down projections and across heads,
// in place, beside a copy of the same memory in the same run.
#include <benchmark/benchmark.h>

#include <bisup/core/matrix.hpp>
#include <bisup/transform/hadamard.hpp>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "../probe.hpp"

namespace {

using namespace bisup;

constexpr int tokens = 512;

void rotate(benchmark::State& state, HadamardAxis axis) {
  const Hadamard hadamard = Hadamard::make(axis).value();
  ThreadPool pool(1);
  Matrix<float> x(tokens, axis.size()), copy(tokens, axis.size());
  for (int i = 0; i < tokens * axis.size(); ++i) x.data()[i] = static_cast<float>(i % 13 - 6);
  std::vector<double> exact(x.row(1).begin(), x.row(1).end());
  hadamard.apply(std::span(exact));
  hadamard.apply(x.ref(), pool);
  for (int i = 0; i < axis.size(); ++i) {
    // Tests hold the bounds; here it is enough to know that it is the same operation.
    if (!(std::fabs(x(1, i) - exact[static_cast<std::size_t>(i)]) <= 1e-3)) {
      return state.SkipWithError("differs from double");
    }
  }
  const auto bytes = static_cast<std::size_t>(tokens * axis.size()) * sizeof(float);
  std::vector<double> times, of_copy;
  for (auto _ : state) {
    const double once = bench::seconds_of([&] { hadamard.apply(x.ref(), pool); });
    const double moved = bench::seconds_of([&] { std::memcpy(copy.data(), x.data(), bytes); });
    benchmark::DoNotOptimize(copy.data());
    times.push_back(once), of_copy.push_back(once / moved);
    state.SetIterationTime(once);
  }
  state.counters["ns/value"] = 1e9 * bench::median(times) / (tokens * axis.size());
  state.counters["of_copy"] = bench::median(of_copy);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (const HadamardAxis& axis :
       {HadamardAxis{1, 1536, 1}, HadamardAxis{1, 4096, 1}, HadamardAxis{1, 5632, 1},
        HadamardAxis{1, 11008, 1}, HadamardAxis{1, 18944, 1}, HadamardAxis{1, 32, 64},
        HadamardAxis{1, 28, 128}, HadamardAxis{107, 128, 1}}) {
    const auto [signs, butterflies] = *hadamard_factors(axis.order);
    const std::string label = "hadamard/" + std::to_string(axis.before) + "x" +
                              std::to_string(signs) + "*" + std::to_string(butterflies) + "x" +
                              std::to_string(axis.after);
    benchmark::RegisterBenchmark(label.c_str(), rotate, axis)->UseManualTime()->Iterations(31);
  }
  benchmark::RunSpecifiedBenchmarks();
}
