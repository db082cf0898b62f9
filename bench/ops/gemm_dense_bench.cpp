// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How fast are dense products? Shapes of SmolLM2 and Llama; weights rotate through 64 MiB, so they
// come from memory as they do in a model. Each time is taken beside a peak probe, and the fraction
// of the peak (a product) or of the read bandwidth (few tokens) is the result.
#include <benchmark/benchmark.h>

#include <bisup/core/random.hpp>
#include <bisup/kernel/scalar.hpp>
#include <bisup/ops/gemm_dense.hpp>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "../probe.hpp"

namespace {

using namespace bisup;

struct Shape {
  int tokens, rows, cols;
};

struct Weights {
  DType type;
  int rows, cols, copies;
  AlignedBuffer<std::uint8_t> bytes;

  Weights(DType t, Shape s) : type(t), rows(s.rows), cols(s.cols) {
    const auto one = static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
    const std::size_t size = one * static_cast<std::size_t>(bytes_of(type));
    copies = static_cast<int>((std::size_t{64} << 20) / size) + 1;
    bytes = AlignedBuffer<std::uint8_t>(static_cast<std::size_t>(copies) * size);
    Random random(1);
    for (std::size_t i = 0; i < one * static_cast<std::size_t>(copies); ++i) {
      const float v = static_cast<float>(random.uniform()) - 0.5f;
      switch (type) {
        case DType::f32: reinterpret_cast<float*>(bytes.data())[i] = v; break;
        case DType::f16: reinterpret_cast<Half*>(bytes.data())[i] = to_half(v); break;
        case DType::bf16: reinterpret_cast<BFloat16*>(bytes.data())[i] = to_bfloat16(v); break;
        case DType::i8: break;  // not among the types below
      }
    }
  }
  [[nodiscard]] DenseView view(int copy) const {
    const std::size_t size = bytes.size() / static_cast<std::size_t>(copies);
    return {bytes.data() + static_cast<std::size_t>(copy % copies) * size, type, rows, cols};
  }
};

// A few outputs against the scalar specification, within the bound of two sums of n products.
bool agrees(const DenseView& w, MatrixRef<const float> x, MatrixRef<const float> y) {
  for (const int row : {0, w.rows / 2, w.rows - 1}) {
    Matrix<float> expected(1, w.rows);
    scalar::gemm(w, x.rows(x.rows() - 1, 1), expected.ref(), row, row + 1);
    double magnitude = 0;
    for (int c = 0; c < w.cols; ++c) {
      magnitude += std::fabs(static_cast<double>(w(row, c)) * x(x.rows() - 1, c));
    }
    const double difference =
        std::fabs(static_cast<double>(y(y.rows() - 1, row)) - expected(0, row));
    if (!(difference <= (2.0 * w.cols + 2) * 0x1p-24 * 1.001 * magnitude)) return false;
  }
  return true;
}

void dense(benchmark::State& state, Target target, DType type, Shape s) {
  const auto& gemm = choose(dense_gemm_kernels<>, target).function;
  const auto gemv = choose(dense_gemv_kernels<>, target).function;
  const Weights weights(type, s);
  Matrix<float> x(s.tokens, s.cols), y(s.tokens, s.rows);
  Random random(2);
  for (int i = 0; i < s.tokens * s.cols; ++i) x.data()[i] = static_cast<float>(random.normal());
  ThreadPool pool(1);
  multiply_with(gemm, gemv, weights.view(0), x.ref(), y.ref(), pool);
  if (!agrees(weights.view(0), x.ref(), y.ref())) return state.SkipWithError("differs from scalar");

  const double operations = 2e-9 * s.tokens * s.rows * s.cols;
  const double gigabytes = 1e-9 * static_cast<double>(weights.view(0).bytes());
  const int repeats = std::max(1, static_cast<int>(0.1 / std::max(operations, 4 * gigabytes)));
  const bool streams = s.tokens <= gemv_tokens;
  std::vector<double> rates, fractions;
  int copy = 0;
  for (auto _ : state) {
    const double limit = streams ? bench::read_bandwidth() : bench::multiply_add_peak();
    const double seconds = bench::seconds_of([&] {
      for (int i = 0; i < repeats; ++i) {
        multiply_with(gemm, gemv, weights.view(++copy), x.ref(), y.ref(), pool);
      }
    });
    rates.push_back((streams ? gigabytes : operations) * repeats / seconds);
    fractions.push_back(rates.back() / limit);
    state.SetIterationTime(seconds / repeats);
  }
  state.counters[streams ? "GB/s" : "GFLOPS"] = bench::median(rates);
  state.counters[streams ? "of_read" : "of_peak"] = bench::median(fractions);
}

void add_benchmarks() {
  const Shape shapes[] = {{512, 1536, 576},  {512, 576, 1536},  {512, 576, 576}, {512, 192, 576},
                          {512, 2048, 2048}, {512, 5632, 2048}, {64, 1536, 576}, {16, 1536, 576},
                          {8, 1536, 576},    {4, 1536, 576},    {1, 1536, 576},  {1, 49152, 576},
                          {1, 5632, 2048}};
  for (const Target target : {Target::avx512, Target::avx2, Target::scalar}) {
    if (!runs_here(target)) continue;
    for (const Shape s : shapes) {
      if (target == Target::scalar && s.tokens * s.rows > 64 * 1536) continue;
      for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
        const std::string label = "gemm_dense/" + std::string(name(type)) + "/" +
                                  std::string(name(target)) + "/" + std::to_string(s.tokens) + "x" +
                                  std::to_string(s.rows) + "x" + std::to_string(s.cols);
        benchmark::RegisterBenchmark(label.c_str(), dense, target, type, s)
            ->UseManualTime()
            ->Iterations(15);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  add_benchmarks();
  benchmark::RunSpecifiedBenchmarks();
}
