// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How fast are products of matrices in words beside those in floats, measured in turns? Shapes of
// SmolLM2 as the tuner meets them: a linear forwards, its input's gradient, its weights' gradient.
// of_float_peak: operations a second by what this machine's multiply-adds of floats can do.
#include <benchmark/benchmark.h>

#include <bisup/core/random.hpp>
#include <bisup/ops/matrix_product.hpp>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "../probe.hpp"

namespace {

using namespace bisup;

struct Shape {
  std::string_view form;
  int m, n, k;  // of the result, and the summed index
};

Matrix<float> normals(int rows, int cols, std::uint64_t seed) {
  Matrix<float> m(rows, cols);
  Random random(seed);
  for (int i = 0; i < rows * cols; ++i) m.data()[i] = static_cast<float>(random.normal());
  return m;
}

void product(benchmark::State& state, Shape s) {
  const bool forwards = s.form == "y = x W^T", to_weights = s.form == "dW = dy^T x";
  const auto a = to_weights ? normals(s.k, s.m, 1) : normals(s.m, s.k, 1);
  const auto b = forwards ? normals(s.n, s.k, 2) : normals(s.k, s.n, 2);
  Matrix<float> in_floats(s.m, s.n), in_words(s.m, s.n);
  ThreadPool pool(1);
  const auto run = [&](Products products, Matrix<float>& c) {
    if (forwards)
      return multiply_transposed(a.ref(), b.ref(), c.ref(), Into::replace, pool, products);
    if (to_weights)
      return transposed_multiply(a.ref(), b.ref(), c.ref(), Into::replace, pool, products);
    multiply(a.ref(), b.ref(), c.ref(), Into::replace, pool, products);
  };
  run(Products::floats, in_floats), run(Products::words, in_words);
  // Each operand of normal numbers, whose largest of 256 is about 3, is off by 3 / 2896 / sqrt(12)
  // of their size in the mean: together 4e-4.
  double error = 0, power = 0;
  for (int i = 0; i < s.m * s.n; ++i) {
    error += std::pow(in_floats.data()[i] - in_words.data()[i], 2.0);
    power += std::pow(in_floats.data()[i], 2.0);
  }
  if (!(error <= 1e-6 * power)) return state.SkipWithError("words differ from floats");

  const double operations = 2e-9 * s.m * s.n * s.k;
  const int repeats = std::max(1, static_cast<int>(10 / operations));
  std::vector<double> rates, of_peak, of_floats;
  for (auto _ : state) {
    const double peak = bench::multiply_add_peak();
    const auto seconds = [&](Products products, Matrix<float>& c) {
      return bench::seconds_of([&] {
        for (int i = 0; i < repeats; ++i) run(products, c);
      });
    };
    const double floats = seconds(Products::floats, in_floats);
    const double words = seconds(Products::words, in_words);
    rates.push_back(operations * repeats / words);
    of_peak.push_back(rates.back() / peak), of_floats.push_back(floats / words);
    state.SetIterationTime(words / repeats);
  }
  state.counters["GFLOPS"] = bench::median(rates);
  state.counters["of_float_peak"] = bench::median(of_peak);
  state.counters["of_floats"] = bench::median(of_floats);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (const Shape s : {Shape{"y = x W^T", 512, 1536, 576}, Shape{"y = x W^T", 512, 576, 576},
                        Shape{"dx = dy W", 512, 576, 1536}, Shape{"dx = dy W", 512, 1536, 576},
                        Shape{"dW = dy^T x", 1536, 576, 512}, Shape{"dW = dy^T x", 576, 576, 512},
                        Shape{"y = x W^T", 128, 49152, 576}, Shape{"dx = dy W", 128, 576, 49152}}) {
    const std::string label = std::string(s.form) + "/" + std::to_string(s.m) + "x" +
                              std::to_string(s.n) + "x" + std::to_string(s.k);
    benchmark::RegisterBenchmark(label.c_str(), product, s)->UseManualTime()->Iterations(7);
  }
  benchmark::RunSpecifiedBenchmarks();
}
