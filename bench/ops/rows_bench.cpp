// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// What do the operations on rows cost? 512 tokens of SmolLM2's sizes, beside the time that a
// product of as many tokens with a 576 x 576 matrix would take at the machine's peak.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <bisup/core/matrix.hpp>
#include <bisup/kernel/vector.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "../probe.hpp"

namespace {

using namespace bisup;

constexpr int tokens = 512;
enum class Operation { rms_norm, rope, add, swiglu, softmax, hadamard };
constexpr const char* names[] = {"rms_norm", "rope", "add", "swiglu", "softmax", "hadamard"};

struct Rows {
  Matrix<float> x, other;
  std::vector<float> angles = std::vector<float>(32, 0.6f);

  explicit Rows(int cols) : x(tokens, cols), other(tokens, cols) {
    for (int i = 0; i < tokens * cols; ++i) {
      x.data()[i] = static_cast<float>(i % 13) * 0.1f - 0.5f;
      other.data()[i] = 0.25f;
    }
  }
  void apply(const VectorKernels& kernels, Operation operation) {
    const int cols = x.cols();
    for (int t = 0; t < tokens; ++t) {
      float* row = x.row(t).data();
      const float* second = other.row(t).data();
      switch (operation) {
        case Operation::rms_norm: kernels.rms_norm(row, second, cols, 1e-5f, row); break;
        case Operation::rope: kernels.rope(row, cols / 64, 32, angles.data(), angles.data()); break;
        case Operation::add: kernels.add(second, cols, row); break;
        case Operation::swiglu: kernels.swiglu(second, row, cols, row); break;
        case Operation::softmax: kernels.softmax(row, cols); break;
        case Operation::hadamard:
          for (int i = 0; i < cols; i += 64) kernels.hadamard(row + i, 64, 0.125f);
          break;
      }
    }
  }
};

void rows(benchmark::State& state, Target target, Operation operation, int cols) {
  const VectorKernels& kernels = choose(vector_kernel_table<>, target).function;
  Rows measured(cols), expected(cols);
  measured.apply(kernels, operation);
  expected.apply(choose(vector_kernel_table<>, Target::scalar).function, operation);
  for (int i = 0; i < tokens * cols; ++i) {
    // Conformance tests hold the bounds; here it is enough to know that it is the same operation.
    if (!(std::fabs(measured.x.data()[i] - expected.x.data()[i]) <= 1e-4f)) {
      return state.SkipWithError("differs from scalar");
    }
  }
  std::vector<double> times, fractions;
  for (auto _ : state) {
    const double product = 2e-9 * tokens * 576 * 576 / std::max(bench::multiply_add_peak(), 1e-9);
    Rows fresh(cols);
    const double seconds = bench::seconds_of([&] { fresh.apply(kernels, operation); });
    times.push_back(seconds), fractions.push_back(seconds / product);
    state.SetIterationTime(seconds);
  }
  state.counters["ns/value"] = 1e9 * bench::median(times) / (tokens * cols);
  state.counters["of_product"] = bench::median(fractions);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (const Target target : {Target::avx512, Target::avx2, Target::scalar}) {
    if (!runs_here(target)) continue;
    for (int i = 0; i < 6; ++i) {
      const auto operation = static_cast<Operation>(i);
      const int cols = operation == Operation::swiglu ? 1536 : 576;
      const std::string label = std::string(names[i]) + "/" + std::string(name(target)) + "/" +
                                std::to_string(tokens) + "x" + std::to_string(cols);
      benchmark::RegisterBenchmark(label.c_str(), rows, target, operation, cols)
          ->UseManualTime()
          ->Iterations(31);
    }
  }
  benchmark::RunSpecifiedBenchmarks();
}
