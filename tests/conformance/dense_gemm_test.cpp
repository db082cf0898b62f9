// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/kernel/scalar.hpp>
#include <bisup/ops/gemm_dense.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <bisup_test.hpp>
#include <conformance/targets.hpp>

namespace {

using namespace bisup;

// Random weights of any type, and x and y as views into the middle of larger matrices.
struct DenseProblem {
  std::vector<float> w_floats;
  std::vector<std::uint16_t> w_bits;
  std::vector<std::int8_t> w_codes;
  Matrix<float> x_store, y_store;
  DenseView w;
  MatrixRef<const float> x;
  MatrixRef<float> y;

  DenseProblem(DType type, int tokens, int rows, int cols)
      : w_floats(static_cast<std::size_t>(rows * cols)),
        w_bits(w_floats.size()),
        w_codes(w_floats.size()),
        x_store(tokens + 2, cols + 7),
        y_store(tokens + 2, rows + 5) {
    Random random(static_cast<std::uint64_t>(tokens * 7919 + rows * 31 + cols));
    for (std::size_t i = 0; i < w_floats.size(); ++i) {
      w_floats[i] = static_cast<float>(random.normal());
      w_codes[i] = static_cast<std::int8_t>(random.bits());
      w_bits[i] = type == DType::f16 ? to_half(w_floats[i]).bits : to_bfloat16(w_floats[i]).bits;
    }
    for (float& v :
         std::span(x_store.data(), static_cast<std::size_t>(x_store.rows() * x_store.cols()))) {
      v = static_cast<float>(random.normal());
    }
    w = {type == DType::f32  ? static_cast<const void*>(w_floats.data())
         : type == DType::i8 ? static_cast<const void*>(w_codes.data())
                             : w_bits.data(),
         type, rows, cols};
    x = x_store.ref().rows(1, tokens).cols(3, cols);
    y = y_store.ref().rows(1, tokens).cols(2, rows);
    std::fill_n(y_store.data(), y_store.rows() * y_store.cols(), untouched);
  }
};

void require_close(const DenseProblem& p, MatrixRef<const float> expected) {
  for (int t = 0; t < p.y.rows(); ++t) {
    for (int r = 0; r < p.y.cols(); ++r) {
      double magnitude = 0;
      for (int c = 0; c < p.w.cols; ++c)
        magnitude += std::fabs(static_cast<double>(p.w(r, c)) * p.x(t, c));
      // Each sum of n products errs by at most n u / (1 - n u) times the sum of magnitudes, in any
      // order (Higham, Accuracy and Stability, 3.1; u = 2^-24); the scalar one rounds the products
      // too: n + 1.
      const double bound = (2.0 * p.w.cols + 2) * 0x1p-24 * 1.001 * magnitude;
      REQUIRE(std::fabs(static_cast<double>(p.y(t, r)) - expected(t, r)) <= bound);
    }
  }
}

void require_untouched_around(const DenseProblem& p) {
  for (int t = 0; t < p.y_store.rows(); ++t) {
    for (int r = 0; r < p.y_store.cols(); ++r) {
      const bool inside = t >= 1 && t <= p.y.rows() && r >= 2 && r < 2 + p.y.cols();
      if (!inside) REQUIRE(p.y_store(t, r) == untouched);
    }
  }
}

struct Shape {
  int tokens, rows, cols;
};

void check_shape(DType type, Shape s) {
  CAPTURE(name(type), s.tokens, s.rows, s.cols);
  DenseProblem p(type, s.tokens, s.rows, s.cols);
  Matrix<float> expected(s.tokens, s.rows);
  scalar::gemm(p.w, p.x, expected.ref(), 0, s.rows);
  ThreadPool pool(2);
  on_every_target(dense_gemm_kernels<>, [&](Target target, const DenseGemmKernel& gemm) {
    CAPTURE(name(target));
    multiply_with(gemm, choose(dense_gemv_kernels<>, target).function, p.w, p.x, p.y, pool);
    require_close(p, expected.ref());
    require_untouched_around(p);
  });
}

TEST_CASE("dense products of every target agree with the scalar specification") {
  for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::i8}) {
    for (const int tokens : {1, 2, 3, 5, 8, 9, 13, 25}) check_shape(type, {tokens, 37, 43});
    check_shape(type, {1, 1, 1});
    check_shape(type, {12, 1, 1});
    check_shape(type, {12, 32, 16});
    check_shape(type, {20, 172, 172});
    check_shape(type, {7, 64, 576});
  }
  check_shape(DType::f32, {30, 33, 1537});  // three blocks of k
  check_shape(DType::bf16, {4, 576, 129});
}

TEST_CASE("no columns give zeros, no tokens give nothing") {
  ThreadPool pool(1);
  Matrix<float> y(10, 3);
  std::fill_n(y.data(), 30, 7.0f);
  const float nothing = 0;
  multiply(DenseView{&nothing, DType::f32, 3, 0}, MatrixRef<const float>(&nothing, 10, 0), y.ref(),
           pool);
  for (int i = 0; i < 30; ++i) REQUIRE(y.data()[i] == 0);
  multiply(DenseView{&nothing, DType::f32, 3, 0}, MatrixRef<const float>(&nothing, 0, 0),
           MatrixRef<float>(y.data(), 0, 3), pool);
}

TEST_CASE("dense products do not depend on the number of threads nor on the tokens beside") {
  on_every_target(dense_gemm_kernels<>, [&](Target target, const DenseGemmKernel& gemm) {
    CAPTURE(name(target));
    const DenseGemvFn gemv = choose(dense_gemv_kernels<>, target).function;
    for (const int tokens : {1, 8, 50}) {
      ThreadPool one(1), three(3);
      DenseProblem p(DType::f16, tokens, 200, 300);
      multiply_with(gemm, gemv, p.w, p.x, p.y, one);
      Matrix<float> again(tokens, 200);
      multiply_with(gemm, gemv, p.w, p.x, again.ref(), three);
      for (int t = 0; t < tokens; ++t)
        REQUIRE(std::memcmp(p.y.row_data(t), again.row(t).data(), 800) == 0);
      // The last tokens alone, by the same kind of kernel.
      const int few = tokens > gemv_tokens ? 11 : 1;
      multiply_with(gemm, gemv, p.w, p.x.rows(tokens - few, few), again.ref().rows(0, few), one);
      for (int t = 0; t < few; ++t) {
        REQUIRE(std::memcmp(p.y.row_data(tokens - few + t), again.row(t).data(), 800) == 0);
      }
    }
  });
}

TEST_CASE("packing writes its tile, zeros where lines are absent, and nothing behind") {
  constexpr int count = 43, all = 32;
  for (const auto& entry : dense_gemm_kernels<float>) {
    if (!runs_here(entry.target)) continue;
    const DenseGemmKernel& kernel = entry.function;
    for (const bool columns : {false, true}) {
      std::vector<float> from(all * count);
      for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<float>(i + 1);
      const DenseOperand operand{from.data(), DType::f32, columns ? all : count, columns};
      for (int width = kernel.tile_step; width <= kernel.tile_tokens; width += kernel.tile_step) {
        for (int lines = 1; lines <= width; ++lines) {
          CAPTURE(name(entry.target), columns, width, lines);
          std::vector<float> out(static_cast<std::size_t>(count * width) + 16, untouched);
          kernel.pack(operand, 0, lines, 0, count, width, out.data());
          for (int i = 0; i < count * width + 16; ++i) {
            const int k = i / width, line = i % width;
            const float expected = k >= count      ? untouched
                                   : line >= lines ? 0.0f
                                   : columns       ? static_cast<float>(k * all + line + 1)
                                                   : static_cast<float>(line * count + k + 1);
            REQUIRE(out[static_cast<std::size_t>(i)] == expected);
          }
        }
      }
    }
  }
}

TEST_CASE("shapes that do not fit are refused") {
  ThreadPool pool(1);
  DenseProblem p(DType::f32, 4, 6, 8);
  CHECK_THROWS_AS(multiply(p.w, p.x.cols(0, 7), p.y, pool), ContractViolation);
  CHECK_THROWS_AS(multiply(p.w, p.x, p.y.cols(0, 5), pool), ContractViolation);
  CHECK_THROWS_AS(multiply(p.w, p.x.rows(0, 3), p.y, pool), ContractViolation);
}

}  // namespace
