// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/kernel/scalar.hpp>
#include <bisup/ops/quantize_activation.hpp>
#include <cmath>
#include <cstring>
#include <limits>

#include <bisup_test.hpp>
#include <conformance/targets.hpp>

namespace {

using namespace bisup;

bool same(const QuantizedActivation& a, const QuantizedActivation& b) {
  const ActivationView p = a.view(), q = b.view();
  const auto tokens = static_cast<std::size_t>(p.tokens);
  return std::memcmp(p.codes, q.codes, tokens * static_cast<std::size_t>(p.padded_cols)) == 0 &&
         std::memcmp(p.sums, q.sums, tokens * static_cast<std::size_t>(p.groups) * 4) == 0 &&
         std::memcmp(p.scales, q.scales, tokens * static_cast<std::size_t>(p.scale_groups) * 4) ==
             0;
}

template <class Kernel>
QuantizedActivation run(Kernel kernel, MatrixRef<const float> x, const ActivationFormat& format) {
  QuantizedActivation out;
  out.resize(format, x.rows(), x.cols());
  std::memset(out.codes().data(), 99, static_cast<std::size_t>(x.rows() * out.codes().cols()));
  kernel(x, format, out.codes(), out.scales(), out.sums(), 0, x.rows());
  return out;
}

void check_every_target(MatrixRef<const float> x, const ActivationFormat& format) {
  CAPTURE(format.bits, format.group, format.token_scales, format.clip, x.rows(), x.cols());
  const QuantizedActivation expected = run(scalar::quantize_activation, x, format);
  on_every_target(quantize_activation_kernels, [&](Target target, QuantizeActivationFn kernel) {
    INFO(name(target));
    REQUIRE(same(run(kernel, x, format), expected));
  });
}

Matrix<float> rows_of_many_sizes(int tokens, int cols) {
  Matrix<float> x(tokens, cols);
  Random random(static_cast<std::uint64_t>(tokens * 31 + cols));
  for (int t = 0; t < tokens; ++t) {
    const double size = std::exp2(static_cast<double>(random.below(20)) - 10);
    for (float& v : x.row(t)) v = static_cast<float>(size * random.normal());
  }
  return x;
}

}  // namespace

TEST_CASE("activations are rounded to the same bits on every target") {
  for (const int cols : {1, 31, 32, 40, 172, 576}) {
    const Matrix<float> x = rows_of_many_sizes(5, cols);
    for (const int group : {0, 32, 64, 128}) {
      for (const int bits : {2, 4, 5, 8}) {
        for (const bool token_scales : {false, true}) {
          check_every_target(x.ref(), {.bits = bits, .group = group, .token_scales = token_scales});
          check_every_target(
              x.ref(), {.bits = bits, .group = group, .token_scales = token_scales, .clip = 0.7f});
        }
      }
    }
  }
}

TEST_CASE("ties, zeros and numbers that are none are rounded to the same bits on every target") {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN(),
                  infinity = std::numeric_limits<float>::infinity();
  Matrix<float> x(6, 70);
  for (int t = 0; t < 6; ++t) {
    for (int c = 0; c < 70; ++c)
      x(t, c) = (t == 0 ? 0.0f : static_cast<float>(c % 255) - 127.0f) + (c > 1 ? 0.5f : 0.0f);
  }
  for (float& v : x.row(0)) v = -0.0f;
  x(2, 3) = nan;
  x(3, 40) = infinity;
  x(4, 40) = -infinity, x(4, 69) = nan;
  x(5, 0) = std::numeric_limits<float>::max(), x(5, 1) = std::numeric_limits<float>::denorm_min();
  for (const bool token_scales : {false, true}) {
    for (const int group : {0, 32})
      check_every_target(x.ref(), {.group = group, .token_scales = token_scales});
  }
  const QuantizedActivation out = run(scalar::quantize_activation, x.ref(), {.group = 0});
  REQUIRE(out.view().codes[2 * out.view().padded_cols + 3] == -127);  // a NaN is the lowest code
  REQUIRE(std::isinf(out.view().scales[3]));                          // an infinity is not hidden
}

TEST_CASE("rounded activations are within half a step, and sums are sums") {
  const Matrix<float> x = rows_of_many_sizes(9, 172);
  ThreadPool pool(2);
  QuantizedActivation out;
  for (const int bits : {2, 4, 8}) {
    for (const bool token_scales : {false, true}) {
      quantize_activation(x.ref(), {.bits = bits, .group = 64, .token_scales = token_scales}, out,
                          pool);
      const ActivationView a = out.view();
      for (int t = 0; t < a.tokens; ++t) {
        double squares = 0, steps = 0;
        for (int c = 0; c < a.cols; ++c) {
          const double step = a.scale(t, c / 64);
          const double error = x(t, c) - step * a.codes[t * a.padded_cols + c];
          // Half a step, and the rounding of x / step of up to 127 levels (two roundings of 2^-24).
          REQUIRE(std::fabs(error) <= step * (0.5 + 127 * 0x1p-23));
          squares += error * error, steps += step * step;
        }
        // Uniform errors have variance step^2 / 12; a tenth of that RMSE is 172 errors all but
        // zero.
        REQUIRE(std::sqrt(squares) >= 0.1 * std::sqrt(steps / 12));
        for (int g = 0; g < a.groups; ++g) {
          int sum = 0;
          for (int c = 64 * g; c < std::min(64 * g + 64, a.padded_cols); ++c)
            sum += a.codes[t * a.padded_cols + c];
          REQUIRE(a.sums[t * a.groups + g] == sum);
        }
      }
    }
  }
}
