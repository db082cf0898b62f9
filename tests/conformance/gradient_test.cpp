// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/kernel/gradient.hpp>
#include <cmath>
#include <cstdint>
#include <vector>

#include <bisup_test.hpp>
#include <conformance/targets.hpp>
#include <normals.hpp>

namespace {

using namespace bisup;

constexpr int lengths[] = {1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 172, 576};

std::vector<double> widened(const std::vector<float>& x) {
  return {x.begin(), x.end()};
}
// A row with a mark behind it that must stay.
std::vector<float> room(int count) {
  return std::vector<float>(static_cast<std::size_t>(count) + 1, untouched);
}

// Calls check(kernels, length) for every target and length.
template <class Check>
void on_all(Check&& check) {
  on_every_target(gradient_kernel_table<float>,
                  [&](Target target, const GradientKernels<float>& kernels) {
                    for (const int n : lengths) {
                      CAPTURE(name(target), n);
                      check(kernels, n);
                    }
                  });
}

TEST_CASE("rounding to levels of every target is exact to the bit, as is what passes through") {
  const auto& exact = scalar_gradient_kernels<float>;
  on_all([&](const GradientKernels<float>& kernels, int n) {
    for (const LevelRange<float> levels :
         {LevelRange<float>{0.3f, 1 / 0.3f, -4, 3}, {0.1f, 10, -5, 2}}) {
      auto x = test::normal_values(n, 1);
      if (n > 16) x[2] = NAN, x[3] = INFINITY, x[4] = -INFINITY, x[5] = 0;
      const auto g = test::normal_values(n, 2);
      auto y = room(n), expected = room(n);
      kernels.round_to_levels(x.data(), n, levels, y.data());
      exact.round_to_levels(x.data(), n, levels, expected.data());
      REQUIRE(y == expected);

      if (n > 16) x[2] = x[3] = x[4] = 100;
      const auto sums = kernels.round_gradient(x.data(), g.data(), n, levels, y.data());
      const auto s = exact.round_gradient(x.data(), g.data(), n, levels, expected.data());
      REQUIRE(y == expected);
      double magnitude = 0;
      for (const float v : g) magnitude += std::fabs(v);
      // Two sums of n terms of at most |g|, in two orders; |round(u) - u| <= 1/2.
      REQUIRE(std::fabs(sums.inside - s.inside) <= 2 * (n + 2) * u * 0.5 * magnitude);
      REQUIRE(std::fabs(sums.below - s.below) <= 2 * n * u * magnitude);
      REQUIRE(std::fabs(sums.above - s.above) <= 2 * n * u * magnitude);
      auto in_place = g;
      kernels.round_gradient(x.data(), in_place.data(), n, levels, in_place.data());
      expected.pop_back();
      REQUIRE(in_place == expected);
    }
  });
}

TEST_CASE("the gradient of swiglu is within its bound of the exact one") {
  on_all([](const GradientKernels<float>& kernels, int n) {
    auto gate = test::normal_values(n, 1, 3);
    const auto up = test::normal_values(n, 2), dh = test::normal_values(n, 3);
    if (n > 8) gate[1] = 100, gate[2] = -100, gate[3] = 0;
    auto dgate = room(n), dup = room(n);
    kernels.swiglu_gradient(gate.data(), up.data(), dh.data(), n, dgate.data(), dup.data());
    for (std::size_t i = 0; i < gate.size(); ++i) {
      const double a = gate[i], d = dh[i], v = up[i], s = 1 / (1 + std::exp(-a));
      // s errs by 3 u of exp and two roundings, below 6 u; so does 1 - s, absolutely. Products and
      // sums add five more. 2^-126: what is below the smallest normal number may vanish.
      const double dgate_bound = 16 * u * std::fabs(d * v) * s * (1 + std::fabs(a)) + 0x1p-126;
      REQUIRE(std::fabs(dgate[i] - d * v * s * (1 + a * (1 - s))) <= dgate_bound);
      REQUIRE(std::fabs(dup[i] - d * a * s) <= 9 * u * std::fabs(d * a) * s + 0x1p-126);
    }
    REQUIRE(dgate.back() == untouched);
    REQUIRE(dup.back() == untouched);
    auto gate_in_place = gate, up_in_place = up;
    kernels.swiglu_gradient(gate_in_place.data(), up_in_place.data(), dh.data(), n,
                            gate_in_place.data(), up_in_place.data());
    dgate.pop_back(), dup.pop_back();
    REQUIRE(gate_in_place == dgate);
    REQUIRE(up_in_place == dup);
  });
}

TEST_CASE("the gradients of softmax and norm are within their bounds of the exact ones") {
  on_all([](const GradientKernels<float>& kernels, int n) {
    auto p = test::normal_values(n, 1);
    for (float& v : p) v = std::fabs(v) / static_cast<float>(n);
    const auto dp = test::normal_values(n, 2), weight = test::normal_values(n, 3),
               x = test::normal_values(n, 4);
    auto ds = room(n);
    kernels.softmax_gradient(p.data(), dp.data(), n, ds.data());
    double dot = 0, magnitude = 0;
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double term = static_cast<double>(p[i]) * dp[i];
      dot += term, magnitude += std::fabs(term);
    }
    for (std::size_t i = 0; i < p.size(); ++i) {
      // The dot product has n products and sums; then a difference and a product.
      const double exact = p[i] * (dp[i] - dot);
      const double bound = (n + 3) * u * p[i] * (magnitude + std::fabs(dp[i]));
      REQUIRE(std::fabs(ds[i] - exact) <= bound);
    }
    REQUIRE(ds.back() == untouched);

    auto dx = room(n);
    kernels.rms_norm_gradient(x.data(), weight.data(), dp.data(), n, 1e-5f, dx.data());
    const auto wide = widened(x), w = widened(weight), g = widened(dp);
    std::vector<double> exact(x.size());
    scalar::rms_norm_gradient<double>(wide.data(), w.data(), g.data(), n, 1e-5f, exact.data());
    double squares = 0, terms = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      squares += wide[i] * wide[i], terms += std::fabs(wide[i] * w[i] * g[i]);
    }
    const double r = 1 / std::sqrt(squares / n + 1e-5);
    for (std::size_t i = 0; i < x.size(); ++i) {
      // The root errs by (n / 2 + 4) u (conformance/rows), its cube three times that; the dot
      // product by (n + 1) u; five roundings more.
      const double root = (n / 2.0 + 4) * u;
      const double bound = (root + 4 * u) * std::fabs(r * w[i] * g[i]) +
                           (3 * root + (n + 9) * u) * std::fabs(wide[i]) * r * r * r * terms / n;
      REQUIRE(std::fabs(dx[i] - exact[i]) <= 1.001 * bound);
    }
    REQUIRE(dx.back() == untouched);
  });
}

TEST_CASE("products of rows are exact, sums of them within the bound of their order") {
  on_all([](const GradientKernels<float>& kernels, int n) {
    const auto a = test::normal_values(n, 1), b = test::normal_values(n, 2),
               before = test::normal_values(n, 3);
    auto y = room(n), expected = room(n);
    kernels.product(a.data(), b.data(), n, y.data());
    scalar::product(a.data(), b.data(), n, expected.data());
    REQUIRE(y == expected);
    auto sum = before;
    sum.push_back(untouched);
    kernels.add_product(a.data(), b.data(), n, 0.7f, sum.data());
    double dot = 0, magnitude = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      const double ab = static_cast<double>(a[i]) * b[i];
      dot += ab, magnitude += std::fabs(ab);
      const double term = static_cast<double>(0.7f) * ab;
      // Two products and a sum.
      const double bound = 3 * u * (std::fabs(term) + std::fabs(before[i]));
      REQUIRE(std::fabs(sum[i] - (before[i] + term)) <= bound);
    }
    REQUIRE(sum.back() == untouched);
    REQUIRE(std::fabs(kernels.dot(a.data(), b.data(), n) - dot) <= (n + 1) * u * magnitude);
  });
}

TEST_CASE("the divergence of two rows of logits and its gradient are within their bounds") {
  on_all([](const GradientKernels<float>& kernels, int n) {
    const auto teacher = test::normal_values(n, 1, 4), student = test::normal_values(n, 2, 4);
    const auto log_sum = [n](const std::vector<float>& x) {
      const LogSum<double> s = scalar::log_sum<double>(widened(x).data(), n);
      return s.largest + std::log(s.sum);
    };
    const LogSum<float> found = kernels.log_sum(teacher.data(), n);
    double sum = 0, weighted = 0;
    for (const float v : teacher) {
      const double below = static_cast<double>(v) - found.largest;
      sum += std::exp(below), weighted += std::fabs(below) * std::exp(below);
    }
    REQUIRE(found.largest == *std::max_element(teacher.begin(), teacher.end()));
    // Each exp errs by 3 u and by what its argument was rounded; n additions.
    REQUIRE(std::fabs(found.sum - sum) <= u * ((n + 4) * sum + weighted));

    const auto p_log = static_cast<float>(log_sum(teacher)),
               q_log = static_cast<float>(log_sum(student));
    auto gradient = room(n);
    const float kl =
        kernels.divergence(teacher.data(), student.data(), n, p_log, q_log, 0.5f, gradient.data());
    double exact = 0, bound = 0;
    for (std::size_t i = 0; i < teacher.size(); ++i) {
      const double lp = static_cast<double>(teacher[i]) - p_log;
      const double lq = static_cast<double>(student[i]) - q_log;
      const double p = std::exp(lp), q = std::exp(lq);
      exact += p * (lp - lq);
      // The arguments round by u |l|, exp by 3 u, then a product and n sums.
      const double arguments = std::fabs(lp) + std::fabs(lq);
      bound += p * (std::fabs(lp - lq) * (n + 6 + std::fabs(lp)) + 2 * arguments) * u;
      const double entry = 0.5 * (q - p);
      const double entry_bound = 0.5 * u * (q * (5 + std::fabs(lq)) + p * (5 + std::fabs(lp)));
      REQUIRE(std::fabs(gradient[i] - entry) <= 1.001 * entry_bound);
    }
    REQUIRE(std::fabs(kl - exact) <= 1.001 * bound);
    REQUIRE(gradient.back() == untouched);
  });
}

}  // namespace
