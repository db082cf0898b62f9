// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bisup/core/random.hpp>
#include <bisup/ops/few_rows.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <bisup_test.hpp>
#include <conformance/targets.hpp>

namespace {

using namespace bisup;

std::vector<float> word_test_floats(int count, double size) {
  Random random(static_cast<std::uint64_t>(count));
  std::vector<float> x(static_cast<std::size_t>(count));
  for (float& v : x) v = static_cast<float>(random.normal() * size);
  return x;
}

TEST_CASE("words are within half a step, the largest number is the largest word, on every target") {
  on_every_target(word_rows_kernels, [&](Target target, const WordRowsKernel& kernel) {
    CAPTURE(name(target));
    for (const int cols : {1, 7, 8, 9, 16, 31, 33, 576}) {
      for (const double size : {1e-20, 1.0, 1e20}) {
        for (const int levels : {127, 32767}) {
          for (const bool with_factors : {false, true}) {
            CAPTURE(cols, size, levels, with_factors);
            const std::vector<float> x = word_test_floats(cols, size),
                                     factors = word_test_floats(cols + 1, 3);
            const float* const f = with_factors ? factors.data() : nullptr;
            std::vector<std::int16_t> words(x.size() + 1, 999), expected(x.size());
            const float scale = kernel.round(x.data(), f, cols, levels, words.data());
            REQUIRE(scale == scalar::round_words(x.data(), f, cols, levels, expected.data()));
            CHECK(words.back() == 999);
            int largest = 0;
            for (std::size_t c = 0; c < x.size(); ++c) {
              REQUIRE(words[c] == expected[c]);
              // Half a step, and three roundings of numbers of up to `levels` steps.
              const double step = scale,
                           value = static_cast<double>(x[c]) * (f == nullptr ? 1.0 : f[c]);
              REQUIRE(std::fabs(step * words[c] - value) <= step * (0.5 + 3 * levels * u));
              largest = std::max(largest, std::abs(int{words[c]}));
            }
            REQUIRE(largest == levels);
          }
        }
      }
    }
  });
}

TEST_CASE(
    "nothing and next to nothing round to zero, what is not finite is not lost, on every target") {
  constexpr float infinity = std::numeric_limits<float>::infinity(),
                  nan = std::numeric_limits<float>::quiet_NaN();
  on_every_target(word_rows_kernels, [&](Target target, const WordRowsKernel& kernel) {
    CAPTURE(name(target));
    for (const float odd : {0.0f, 1e-40f, infinity, -infinity, nan}) {
      for (const int place : {0, 3, 20}) {
        CAPTURE(odd, place);
        std::vector<float> x(21, std::isfinite(odd) ? odd : 1.0f);
        x[static_cast<std::size_t>(place)] = odd;
        std::vector<std::int16_t> words(x.size(), 999);
        const float scale = kernel.round(x.data(), nullptr, 21, 32767, words.data());
        for (const std::int16_t word : words) REQUIRE(word == 0);
        REQUIRE((std::isfinite(odd) ? scale == 0 : std::isnan(scale)));
      }
    }
  });
}

TEST_CASE("every target's sums of codes and words are those of 64-bit integers") {
  const auto check = [](const WordRowsKernel& kernel, int rows, int cols, int tokens) {
    CAPTURE(rows, cols, tokens);
    Random random(static_cast<std::uint64_t>(rows * 31 + cols));
    std::vector<std::int8_t> codes(static_cast<std::size_t>(rows * cols));
    std::vector<std::int16_t> words(static_cast<std::size_t>(tokens * cols));
    std::vector<float> scales(static_cast<std::size_t>(tokens)),
        y(static_cast<std::size_t>(tokens * (rows + 3)), untouched);
    for (std::int8_t& code : codes)
      code = random.below(3) == 0 ? std::int8_t{-128} : static_cast<std::int8_t>(random.bits());
    for (std::int16_t& word : words)
      word = random.below(3) == 0 ? std::int16_t{-32767} : static_cast<std::int16_t>(random.bits());
    std::fill_n(codes.begin(), cols,
                std::int8_t{-128});  // the first row and token: the largest sum there is
    std::fill_n(words.begin(), cols, std::int16_t{-32767});
    for (float& scale : scales) scale = static_cast<float>(0.01 + random.uniform());
    kernel.dots({codes.data(), cols, rows, cols, words.data(), cols, scales.data(), tokens,
                 y.data(), rows + 3});
    for (int t = 0; t < tokens; ++t) {
      const float* const row = y.data() + t * (rows + 3);
      for (int r = 0; r < rows + 3; ++r) {
        if (r >= rows) {
          REQUIRE(row[r] == untouched);
          continue;
        }
        std::int64_t dot = 0, magnitude = 0;
        for (int c = 0; c < cols; ++c) {
          const std::int64_t term = std::int64_t{codes[static_cast<std::size_t>(r * cols + c)]} *
                                    words[static_cast<std::size_t>(t * cols + c)];
          dot += term, magnitude += std::abs(term);
        }
        // A lane's sum as a float, four additions of lanes, the scale, and a sum of blocks.
        const double scale = scales[static_cast<std::size_t>(t)];
        const double bound =
            (6 + cols / code_dot_block) * u * 1.001 * scale * static_cast<double>(magnitude);
        REQUIRE(std::fabs(row[r] - scale * static_cast<double>(dot)) <= bound);
      }
    }
  };
  on_every_target(word_rows_kernels, [&](Target target, const WordRowsKernel& kernel) {
    CAPTURE(name(target));
    for (const int rows : {1, 3, 4, 9, 13, 20}) {
      for (const int cols : {1, 15, 16, 40, 576, 2048, 5001}) {
        for (const int tokens : {1, 2, 7, 8}) check(kernel, rows, cols, tokens);
      }
    }
  });
}

}  // namespace
