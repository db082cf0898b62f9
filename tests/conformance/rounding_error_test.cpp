// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/kernel/rounding_error.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include <bisup_test.hpp>
#include <conformance/targets.hpp>

namespace {

using namespace bisup;

constexpr float none = std::numeric_limits<float>::infinity();

TEST_CASE("what rounding costs, on every target within the bound of its arithmetic") {
  on_every_target(rounding_error_table<>, [](Target target, const RoundingErrorKernels& kernels) {
    for (const int count : {0, 1, 7, 8, 9, 16, 17, 32, 33, 64, 128, 240, 300, 576}) {
      for (const CodeLevels levels :
           {CodeLevels{0.3f, -8, 7}, CodeLevels{1.1f, -1, 2}, CodeLevels{1e-3f, 0, 3}}) {
        for (const bool weighted : {false, true}) {
          CAPTURE(name(target), count, levels.scale, weighted);
          Random random(static_cast<std::uint64_t>(count));
          // NaN behind the last value: nothing may be read there.
          std::vector<float> x(static_cast<std::size_t>(count) + 1, NAN), weights = x;
          double squares = 0, power = 0, squares_bound = 0, power_bound = 0;
          for (std::size_t i = 0; i + 1 < x.size(); ++i) {
            x[i] = i == 5 ? 0.0f : static_cast<float>(random.normal());
            weights[i] = static_cast<float>(random.uniform());
            const double h = weighted ? weights[i] : 1.0f;
            float level = std::nearbyint(x[i] * (1.0f / levels.scale));
            level = std::min(std::max(level, levels.low), levels.high);
            const double value = double{levels.scale} * level, d = std::fabs(x[i] - value);
            squares += h * d * d, power += h * std::pow(d, 2.4);
            // The distance is rounded, and so is the value where no fused form is at hand.
            const double slip = u * (std::fabs(value) + d) * 1.001;
            squares_bound += h * (2 * d * slip + slip * slip);
            power_bound += h * (std::pow(d + slip, 2.4) - std::pow(d, 2.4));
          }
          const float* h = weighted ? weights.data() : nullptr;
          // A square, a weight, and as many sums as there are values.
          REQUIRE(std::fabs(kernels.squares(x.data(), h, count, levels, none) - squares) <=
                  squares_bound + (count + 3) * u * 1.001 * squares);
          // Newton's last step leaves r within 3 u of rounding its terms and 3 (2.9e-5)^2 of its
          // own; (a r^2)^2 has four r's, five products and twice the rounding of a.
          REQUIRE(std::fabs(kernels.power(x.data(), h, count, levels, none) - power) <=
                  power_bound + ((count + 24) * u + 12 * 2.9e-5 * 2.9e-5) * 1.001 * power);
        }
      }
    }
  });
}

TEST_CASE("a sum beyond the limit may stop early, and then says so") {
  on_every_target(rounding_error_table<>, [](Target target, const RoundingErrorKernels& kernels) {
    CAPTURE(name(target));
    std::vector<float> x(2048, 0.5f);  // each costs 0.25 and nothing rounds
    const CodeLevels levels{1, 0, 0};
    const float whole = kernels.squares(x.data(), nullptr, 2048, levels, none);
    REQUIRE(whole == 512);
    REQUIRE(kernels.squares(x.data(), nullptr, 2048, levels, 512) == whole);
    REQUIRE(kernels.squares(x.data(), nullptr, 2048, levels, 100) > 100);
  });
}

}  // namespace
