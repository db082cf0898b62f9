// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/kernel/scalar.hpp>
#include <bisup/ops/gemm.hpp>
#include <cmath>
#include <cstring>
#include <iostream>
#include <type_traits>
#include <vector>

#include <bisup_test.hpp>
#include <conformance/packed_problem.hpp>
#include <conformance/targets.hpp>

namespace {

using namespace bisup;

void scalar_gemm(const PackedPanels& w, const ActivationView& x, MatrixRef<float> y) {
  with_bits(w.shape.format.bits, [&]<int Bits>() {
    scalar::gemm<Bits>(w, x, y, {0, w.shape.row_tiles(), 0, x.tokens});
  });
}

// The magnitude that rounding errors scale with: sum over groups of |s_w s_a dot|.
double magnitude(const PackedPanels& w, const ActivationView& x, int t, int r) {
  double sum = 0;
  const PackedShape& shape = w.shape;
  for (int g = 0; g < shape.groups(); ++g) {
    std::int64_t dot = 0;
    const int begin = g * shape.group_codes();
    for (int c = begin; c < std::min(begin + shape.group_codes(), shape.padded_cols()); ++c) {
      const int u = with_bits(shape.format.bits, [&]<int Bits>() {
        return load_code<Bits, panel16>(w.codes + shape.tile_offset(r, c), r % 16, c % 32);
      });
      dot += (u - w.zero(r, g)) * x.codes[t * x.padded_cols + c];
    }
    sum += std::fabs(static_cast<double>(w.scale(r, g)) * x.scale(t, g) * static_cast<double>(dot));
  }
  return sum;
}

// Runs one entry over the whole product inside a larger matrix and compares it with scalar.
void require_conforms(const Entry<GemmFn>& entry, const PackedPanels& w, const ActivationView& x,
                      MatrixRef<const float> expected) {
  Matrix<float> store(x.tokens + 2, w.shape.rows + 5);
  std::fill_n(store.data(), store.rows() * store.cols(), untouched);
  const MatrixRef<float> y = store.ref().rows(1, x.tokens).cols(2, w.shape.rows);
  entry.function(w, x, y, {0, w.shape.row_tiles(), 0, x.tokens});
  for (int t = 0; t < x.tokens; ++t) {
    for (int r = 0; r < w.shape.rows; ++r) {
      if (y(t, r) == expected(t, r)) continue;
      // Each side: rounding a dot of more than 24 bits, the product of two scales, the product with
      // the dot, and at most `groups` sums, each relative 2^-24 of the sum of magnitudes.
      const double bound = 2 * (w.shape.groups() + 3) * 0x1p-24 * 1.001 * magnitude(w, x, t, r);
      const double error = std::fabs(static_cast<double>(y(t, r)) - expected(t, r));
      CAPTURE(name(entry.target), t, r, y(t, r), expected(t, r), bound);
      REQUIRE(error <= bound);
    }
  }
  for (int i = 0; i < store.rows(); ++i) {
    for (int j = 0; j < store.cols(); ++j) {
      const bool inside = i >= 1 && i <= x.tokens && j >= 2 && j < w.shape.rows + 2;
      if (!inside && store(i, j) != untouched)
        FAIL(name(entry.target) << " wrote outside y at " << i << ", " << j);
    }
  }
}

#if BISUP_X86
template <bool UnpackOnce>
GemmFn panels_of(const Format& format) {
  return with_bits(format.bits, [&]<int Bits>() -> GemmFn {
    const auto of = []<bool Affine>(std::bool_constant<Affine>) -> GemmFn {
      return [](const PackedPanels& w, const ActivationView& x, MatrixRef<float> y,
                GemmRange range) noexcept {
        avx512::gemm_panels<Bits, Affine>(w, x, y, range, UnpackOnce);
      };
    };
    return format.affine() ? of(std::true_type{}) : of(std::false_type{});
  });
}
#endif

void check(const Format& format, int rows, int cols, int tokens, bool token_scales) {
  INFO(describe(format, rows, cols, tokens)
       << (token_scales ? ", token scales" : ", group scales"));
  const PackedProblem w(format, rows, cols);
  const QuantizedActivation x =
      random_activation({.group = format.group, .token_scales = token_scales}, tokens, cols);
  Matrix<float> expected(tokens, rows);
  scalar_gemm(w.panels, x.view(), expected.ref());
  for (const Target target : all_targets) {
    const Entry<GemmFn> entry = gemm_kernel(format, target);
    if (entry.target == target && runs_here(target))
      require_conforms(entry, w.panels, x.view(), expected.ref());
  }
#if BISUP_X86
  // Which of the two ways gemm takes depends on the processor; here both.
  for (const GemmFn function : {panels_of<false>(format), panels_of<true>(format)}) {
    if (runs_here(Target::avx512_vnni))
      require_conforms({Target::avx512_vnni, function}, w.panels, x.view(), expected.ref());
  }
#endif
}

}  // namespace

TEST_CASE("a packed product agrees with scalar in every format and shape") {
  for (const Target target : all_targets) {
    if (!runs_here(target))
      std::cout << "skipped: " << name(target) << " does not run on this processor\n";
  }
  int n =
      0;  // shapes, scale types and scale groups take turns, so that all pairs with a width meet
  constexpr int row_counts[] = {1, 15, 17, 172}, col_counts[] = {32, 40, 172, 576},
                token_counts[] = {1, 2, 5, 7, 13};
  for (const int bits : widths) {
    for (const Zero zero : {Zero::symmetric, Zero::affine}) {
      for (const int group : {0, 32, 64, 128}) {
        for (int turn = 0; turn < 10; ++turn, ++n) {
          const Format format{bits, group, zero, static_cast<Scale>(n % 3)};
          check(format, row_counts[n / 2 % 4], col_counts[(turn + n / 10) % 4], token_counts[n % 5],
                turn % 2 == 0);
        }
      }
    }
  }
}

TEST_CASE("a packed product of many tokens agrees with scalar too") {
  // Panels may be unpacked a part of the columns at a time: of 600 the second part is a short one.
  for (const int bits : widths) {
    for (const Zero zero : {Zero::symmetric, Zero::affine}) {
      check({bits, 32, zero}, 33, 600, 70, true);
      check({bits, 128, zero, Scale::bf16}, 50, 1060, 65, false);
    }
  }
  check({.bits = 4, .group = 64}, 20, 520, 200, true);  // more tokens than are multiplied at once
  check({.bits = 3, .group = 192}, 20, 1000, 64, true);
}

TEST_CASE("the integers of a packed product are exact") {
  // With scales of one and a group whose dot stays below 2^24, y is the integer itself.
  for (const int bits : widths) {
    for (const Zero zero : {Zero::symmetric, Zero::affine}) {
      const Format format{bits, 0, zero, Scale::f32};
      PackedProblem w(format, 33, 256);
      for (std::size_t i = 0; i < w.panels.shape.scale_count(); ++i)
        static_cast<float*>(w.buffer.scales())[i] = 1;
      // Only the largest and the smallest code, against -127 and 127: the most that 16-bit steps
      // hold.
      for (std::size_t i = 0; i < w.panels.shape.code_bytes(); ++i)
        w.buffer.codes()[i] = i / 64 % 3 == 0 ? 0 : 255;
      QuantizedActivation x = random_activation({.group = 0}, 7, 256);
      for (int t = 0; t < 7; ++t) {
        x.scales()(t, 0) = 1, x.sums()(t, 0) = 0;
        for (int c = 0; c < 256; ++c) {
          x.codes()(t, c) = static_cast<std::int8_t>(t == 0 || (t + c) % (t + 1) ? 127 : -127);
          x.sums()(t, 0) += x.codes()(t, c);
        }
      }
      Matrix<float> expected(7, 33), y(7, 33);
      scalar_gemm(w.panels, x.view(), expected.ref());
      for (const Target target : all_targets) {
        if (!runs_here(target)) continue;
        gemm_kernel(format, target)
            .function(w.panels, x.view(), y.ref(), {0, w.panels.shape.row_tiles(), 0, 7});
        INFO(describe(format, 33, 256, 7) << ", " << name(target));
        REQUIRE(std::memcmp(y.data(), expected.data(), 7 * 33 * sizeof(float)) == 0);
      }
    }
  }
}

TEST_CASE("a token's row does not depend on its batch, nor y on the threads") {
  constexpr int tokens = 200, rows = 150, cols = 160;  // more than one task both ways
  for (const int bits : widths) {
    const Format format{bits, 64, bits % 2 == 0 ? Zero::affine : Zero::symmetric, Scale::f16};
    const PackedProblem w(format, rows, cols);
    const QuantizedActivation x = random_activation({.group = 64}, tokens, cols);
    const ActivationView all = x.view();
    ThreadPool one(1), three(3);
    Matrix<float> y(tokens, rows), threaded(tokens, rows), part(13, rows);
    gemm(w.panels, all, y.ref(), one);
    gemm(w.panels, all, threaded.ref(), three);
    REQUIRE(std::memcmp(y.data(), threaded.data(), sizeof(float) * tokens * rows) == 0);
    for (int count = 1; count <= 13; ++count) {
      const int first = 3 * count;
      ActivationView some = all;
      some.codes += first * all.padded_cols, some.scales += first * all.scale_groups;
      some.sums += first * all.groups, some.tokens = count;
      part.resize(count, rows);
      gemm(w.panels, some, part.ref(), one);
      INFO(bits << " bits, " << count << " tokens alone");
      REQUIRE(std::memcmp(part.data(), y.ref().row_data(first),
                          sizeof(float) * static_cast<std::size_t>(count * rows)) == 0);
    }
  }
}

TEST_CASE("a packed product refuses what does not fit together") {
  const PackedProblem w(Format{4, 64}, 20, 96);
  ThreadPool pool(1);
  QuantizedActivation x = random_activation({.group = 64}, 2, 96);
  Matrix<float> y(2, 20), narrow(2, 19), tall(3, 20);
  REQUIRE_NOTHROW(gemm(w.panels, x.view(), y.ref(), pool));
  REQUIRE_THROWS_AS(gemm(w.panels, x.view(), narrow.ref(), pool), ContractViolation);
  REQUIRE_THROWS_AS(gemm(w.panels, x.view(), tall.ref(), pool), ContractViolation);
  x = random_activation({.group = 32}, 2, 96);  // quantized for other groups
  REQUIRE_THROWS_AS(gemm(w.panels, x.view(), y.ref(), pool), ContractViolation);
  x = random_activation({.group = 64}, 2, 95);
  REQUIRE_THROWS_AS(gemm(w.panels, x.view(), y.ref(), pool), ContractViolation);
  PackedShape long_row{Format{8, 0}, 16, longest_group + 32};
  REQUIRE_THROWS_AS(gemm({nullptr, nullptr, nullptr, long_row}, x.view(), y.ref(), pool),
                    ContractViolation);
}
