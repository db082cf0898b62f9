// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/matrix.hpp>
#include <bisup/core/random.hpp>
#include <bisup/kernel/attention.hpp>
#include <bisup/pack/codes.hpp>
#include <bisup/pack/kv_store.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <bisup_test.hpp>
#include <conformance/targets.hpp>
#include <normals.hpp>

namespace {

using namespace bisup;

constexpr float nothing = -std::numeric_limits<float>::infinity();

// A tile with panels of its own for every kind, and the state of earlier tiles.
struct Problem {
  int dim, rows;
  std::vector<float> queries, exact_keys, packed_keys, exact_values, packed_values;
  std::vector<float> out, maximum, sum;
  AttentionTile tile;

  Problem(int dim_, int rows_, int heads, int first_query, const KvLaw& law)
      : dim(dim_),
        rows(rows_),
        queries(test::normal_values(rows * dim, 1)),
        exact_keys(test::normal_values(kv_tile * dim, 2)),
        packed_keys(test::normal_values(kv_tile * dim, 3)),
        exact_values(test::normal_values(kv_tile * dim, 4)),
        packed_values(test::normal_values(kv_tile * dim, 5)),
        out(test::normal_values(rows * dim, 6)),
        maximum(test::normal_values(rows, 7)),
        sum(static_cast<std::size_t>(rows), 2.0f) {
    maximum[0] = nothing, sum[0] = 0;  // a row that has seen no key yet
    std::fill_n(out.begin(), dim, 0.0f);
    tile = {.queries = queries.data(), .rows = rows, .dim = dim, .heads = heads};
    tile.first_query = first_query, tile.first_key = 128, tile.law = law;
    for (int p = 0; p < kv_panels; ++p) {
      const int at = p * kv_panel * dim;
      tile.exact_keys[p] = exact_keys.data() + at, tile.packed_keys[p] = packed_keys.data() + at;
      tile.exact_values[p] = exact_values.data() + at;
      tile.packed_values[p] = packed_values.data() + at;
    }
  }
  void run(void (*attend)(const AttentionTile&) noexcept) {
    tile.out = out.data(), tile.maximum = maximum.data(), tile.sum = sum.data();
    attend(tile);
  }
};

struct Case {
  int dim, rows, heads, first_query;
  KvLaw law;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  const KvLaw laws[] = {{},
                        {.recent = 0},
                        {.exact_below = 130, .recent = 20},
                        {.exact_below = 150, .recent = 64, .forgotten = 160},
                        {.recent = 7, .window = 30},
                        {.exact_below = 500, .recent = 3}};
  for (const KvLaw& law : laws) {
    for (const int first_query : {120, 128, 150, 191, 230}) {
      for (const int rows : {1, 2, 3, 4, 5, 6, 13}) all.push_back({64, rows, 1, first_query, law});
      for (const int dim : {32, 96, 128}) all.push_back({dim, 9, 3, first_query, law});
    }
  }
  return all;
}

TEST_CASE("every target takes the scalar step") {
  on_every_target(attention_kernel_table<>, [](Target target, const AttentionKernels& kernels) {
    for (const Case& c : cases()) {
      CAPTURE(name(target), c.dim, c.rows, c.first_query, c.law.exact_below, c.law.recent);
      Problem expected(c.dim, c.rows, c.heads, c.first_query, c.law);
      Problem got = expected;
      expected.run(scalar::attend), got.run(kernels.attend);
      for (int r = 0; r < c.rows; ++r) {
        const auto row = static_cast<std::size_t>(r);
        double magnitude = 0;  // of a score: sums of dim products err by dim u times it, twice
        for (const auto* keys : {&expected.exact_keys, &expected.packed_keys}) {
          for (int j = 0; j < kv_tile; ++j) {
            double size = 0;
            for (int d = 0; d < c.dim; ++d) {
              const auto at =
                  static_cast<std::size_t>((j / kv_panel * c.dim + d) * kv_panel + j % kv_panel);
              size +=
                  std::fabs(static_cast<double>(got.queries[row * static_cast<std::size_t>(c.dim) +
                                                            static_cast<std::size_t>(d)]) *
                            (*keys)[at]);
            }
            magnitude = std::max(magnitude, size);
          }
        }
        const double score = 2 * (c.dim + 1) * u * magnitude;
        REQUIRE(
            (expected.maximum[row] == got.maximum[row] ||
             std::fabs(static_cast<double>(expected.maximum[row]) - got.maximum[row]) <= score));
        // A power of two of a score: ln 2 times the score's error, as far as the maximum moves too,
        // and 8 u of its own, twice; sums of 65 terms err by 65 u, twice.
        const double power = 2 * (std::log(2.0) * score + 8 * u), sums = 2 * 65 * u;
        REQUIRE(std::fabs(static_cast<double>(expected.sum[row]) - got.sum[row]) <=
                (power + sums) * expected.sum[row] * 1.01);
        for (int d = 0; d < c.dim; ++d) {
          const auto at = row * static_cast<std::size_t>(c.dim) + static_cast<std::size_t>(d);
          // Values and what was there before are below 6; weights add up to the sum.
          REQUIRE(std::fabs(static_cast<double>(expected.out[at]) - got.out[at]) <=
                  (power + sums) * 6 * (expected.sum[row] + 1) * 1.01);
        }
      }
    }
  });
}

TEST_CASE("what a row gets does not depend on the rows beside it") {
  on_every_target(attention_kernel_table<>, [](Target target, const AttentionKernels& kernels) {
    const KvLaw law{.exact_below = 135, .recent = 20};
    Problem all(64, 13, 1, 150, law);
    Problem before = all;
    all.run(kernels.attend);
    for (int r = 0; r < 13; ++r) {
      CAPTURE(name(target), r);
      Problem one = before;
      one.tile.out = one.out.data() + r * 64, one.tile.maximum = one.maximum.data() + r;
      one.tile.sum = one.sum.data() + r, one.tile.queries += r * 64;
      one.tile.rows = 1, one.tile.first_query += r;
      kernels.attend(one.tile);
      const auto row = static_cast<std::size_t>(r);
      REQUIRE(one.maximum[row] == all.maximum[row]);
      REQUIRE(one.sum[row] == all.sum[row]);
      for (std::size_t d = 0; d < 64; ++d) REQUIRE(one.out[row * 64 + d] == all.out[row * 64 + d]);
    }
  });
}

TEST_CASE("every target scales to the bit, and no further") {
  on_every_target(attention_kernel_table<>, [](Target target, const AttentionKernels& kernels) {
    for (int count = 0; count < 40; ++count) {
      CAPTURE(name(target), count);
      const auto x = test::normal_values(count, 1);
      std::vector<float> got(41, 7.0f), expected = got;
      scalar::scale(x.data(), count, 0.3f, expected.data());
      kernels.scale(x.data(), count, 0.3f, got.data());
      REQUIRE(got == expected);
    }
  });
}

TEST_CASE("every target joins as the scalar one") {
  on_every_target(attention_kernel_table<>, [](Target target, const AttentionKernels& kernels) {
    CAPTURE(name(target));
    const int rows = 5, dim = 32;
    const auto out = test::normal_values(rows * dim, 1), maximum = test::normal_values(rows, 2);
    auto with_gap = maximum;
    with_gap[2] = nothing;
    const std::vector<float> sum(5, 3.0f);
    auto total = test::normal_values(rows * dim, 3), total_maximum = test::normal_values(rows, 4);
    total_maximum[3] = nothing;
    std::fill_n(total.begin() + 3 * dim, dim, 0.0f);
    auto total_sum = sum;
    total_sum[3] = 0;
    auto a = total, a_maximum = total_maximum, a_sum = total_sum;
    scalar::join(out.data(), with_gap.data(), sum.data(), rows, dim, total.data(),
                 total_maximum.data(), total_sum.data());
    kernels.join(out.data(), with_gap.data(), sum.data(), rows, dim, a.data(), a_maximum.data(),
                 a_sum.data());
    REQUIRE(a_maximum == total_maximum);
    // Two weights of at most 1, 8 u each and twice; two products and a sum of numbers below 6.
    for (std::size_t i = 0; i < a.size(); ++i) REQUIRE(std::fabs(a[i] - total[i]) <= 12 * 20 * u);
    for (std::size_t i = 0; i < a_sum.size(); ++i)
      REQUIRE(std::fabs(a_sum[i] - total_sum[i]) <= 6 * 20 * u);
    // The first part joins nothing, and nothing joins any part: both to the bit.
    for (int d = 0; d < dim; ++d) {
      REQUIRE(a[static_cast<std::size_t>(3 * dim + d)] ==
              out[static_cast<std::size_t>(3 * dim + d)]);
    }
  });
}

template <int Bits>
void packed_panels_agree(Target target, const AttentionKernels& kernels) {
  for (const int head_dim : {64, 128, 20, 96}) {
    for (const int group : {0, 32}) {
      CAPTURE(name(target), Bits, head_dim, group);
      const KvPanel panel{{Bits, group}, head_dim};
      Random random(static_cast<std::uint64_t>(head_dim + group));
      // Four bytes beyond the last row: vector loads may pass its end.
      std::vector<std::uint8_t> keys(static_cast<std::size_t>(panel.code_bytes()) + 4),
          values = keys;
      std::vector<std::uint8_t> zeros(static_cast<std::size_t>(panel.parameters()));
      std::vector<Half> scales(zeros.size());
      for (auto& zero : zeros) zero = static_cast<std::uint8_t>(random.below(1u << Bits));
      for (auto& scale : scales) scale = to_half(static_cast<float>(0.01 + random.uniform()));
      std::vector<std::uint8_t> codes(static_cast<std::size_t>(panel.dim()));
      std::vector<float> expected_keys(static_cast<std::size_t>(panel.floats()));
      auto expected_channels = expected_keys, expected_values = expected_keys, got = expected_keys;
      const auto center = test::normal_values(panel.dim(), 9);
      KvPanel channels = panel;
      channels.format = {.bits = Bits, .channels = true};
      scales.resize(std::max(scales.size(), static_cast<std::size_t>(panel.dim())), to_half(0.5f));
      zeros.resize(scales.size(), 1);
      for (int t = 0; t < kv_panel; ++t) {
        for (int d = 0; d < panel.dim(); ++d) {
          const int code = static_cast<int>(random.below(1u << Bits));
          const auto at = static_cast<std::size_t>(d / panel.group() * kv_panel + t);
          codes[static_cast<std::size_t>(d)] = static_cast<std::uint8_t>(code);
          const float x = decode(code, {to_float(scales[at]), zeros[at]});
          const auto dim = static_cast<std::size_t>(d);
          const auto in_keys = static_cast<std::size_t>(d * kv_panel + t);
          expected_keys[in_keys] =
              std::fma(to_float(scales[at]), static_cast<float>(code - zeros[at]), center[dim]);
          expected_channels[in_keys] =
              std::fma(to_float(scales[dim]), static_cast<float>(code - zeros[dim]), center[dim]);
          expected_values[static_cast<std::size_t>(t * panel.dim() + d)] = x;
        }
        store_key_codes<Bits>(codes.data(), panel.dim(), t, keys.data());
        store_value_codes<Bits>(codes.data(), panel.dim(), values.data() + t * panel.token_bytes());
      }
      kernels.keys[Bits](keys.data(), scales.data(), zeros.data(), center.data(), panel,
                         got.data());
      REQUIRE(got == expected_keys);
      kernels.channel_keys[Bits](keys.data(), scales.data(), zeros.data(), center.data(), channels,
                                 got.data());
      REQUIRE(got == expected_channels);
      kernels.values[Bits](values.data(), scales.data(), zeros.data(), panel, got.data());
      REQUIRE(got == expected_values);
    }
  }
}

TEST_CASE("every target reads what was stored, to the bit") {
  on_every_target(attention_kernel_table<>, [](Target target, const AttentionKernels& kernels) {
    packed_panels_agree<2>(target, kernels);
    packed_panels_agree<3>(target, kernels);
    packed_panels_agree<4>(target, kernels);
    packed_panels_agree<8>(target, kernels);
  });
}

TEST_CASE("every target widens an exact panel, to the bit, and no further") {
  on_every_target(attention_kernel_table<>, [](Target target, const AttentionKernels& kernels) {
    for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
      for (const int count : {512, 1024, 40, 7, 0}) {
        CAPTURE(name(target), name(type), count);
        const auto floats = test::normal_values(count, 1);
        AlignedBuffer<std::byte> panel(4u * static_cast<std::size_t>(count) + 4);
        std::vector<float> expected(static_cast<std::size_t>(count) + 8, 7.0f), got = expected;
        for (std::size_t i = 0; i < floats.size(); ++i) {
          const Half half = to_half(floats[i]);
          const BFloat16 brain = to_bfloat16(floats[i]);
          const auto put = [&](const auto& x) {
            std::memcpy(panel.data() + i * sizeof x, &x, sizeof x);
            expected[i] = to_float(x);
          };
          type == DType::f16 ? put(half) : type == DType::bf16 ? put(brain) : put(floats[i]);
        }
        kernels.widen[static_cast<std::size_t>(type)](panel.data(), count, got.data());
        REQUIRE(got == expected);
      }
    }
  });
}

TEST_CASE("every target sums what rounding does, to the bit, and as it is defined") {
  on_every_target(attention_kernel_table<>, [](Target target, const AttentionKernels& kernels) {
    for (const int count : {64, 32, 20, 7, 128, 1}) {
      for (const float shift : {0.0f, 3.0f}) {
        CAPTURE(name(target), count, shift);
        const Format format = KvFormat{3, 0}.format();
        std::vector<float> x = test::normal_values(count, static_cast<std::uint64_t>(count));
        for (float& v : x) v += shift;
        const GroupParameters p = fit(format, x, {0.7f, 0.7f});
        const KvRounding r{1.0f / p.scale, static_cast<float>(-p.zero),
                           static_cast<float>(format.highest() - p.zero), p.zero};
        const RoundingSums expected = scalar::rounding_sums(x.data(), count, p.scale, r);
        const RoundingSums got = kernels.rounding_sums(x.data(), count, p.scale, r);
        REQUIRE(got.error == expected.error);
        REQUIRE(got.square == expected.square);
        REQUIRE(got.product == expected.product);
        double error = 0, square = 0, product = 0, magnitude = 0;
        std::vector<std::uint8_t> codes(x.size());
        encode_group(format, x, p, codes);
        for (std::size_t i = 0; i < x.size(); ++i) {
          const double y = decode(codes[i], p), v = x[i];
          error += (v - y) * (v - y), square += v * v, product += v * y;
          magnitude += v * v + std::fabs(v * y);
        }
        // A term has three roundings at most, a sum count of them.
        const double bound = (count + 3) * u * magnitude;
        REQUIRE(std::fabs(expected.error - error) <= bound);
        REQUIRE(std::fabs(expected.square - square) <= bound);
        REQUIRE(std::fabs(expected.product - product) <= bound);
      }
    }
  });
}

TEST_CASE("every target rounds as pack/codes.hpp, to the bit") {
  on_every_target(attention_kernel_table<>, [](Target target, const AttentionKernels& kernels) {
    for (const int bits : {2, 3, 4, 8}) {
      for (const int count : {64, 32, 20, 7, 128}) {
        for (const float shift : {0.0f, 5.0f, -5.0f}) {  // groups of one sign too
          CAPTURE(name(target), bits, count, shift);
          const Format format = KvFormat{bits, 0}.format();
          std::vector<float> x =
              test::normal_values(count, static_cast<std::uint64_t>(bits * count));
          for (float& v : x) v += shift;
          const GroupParameters p = fit(format, x, {0.9f, 0.95f});
          std::vector<std::uint8_t> expected(x.size()), got(x.size());
          encode_group(format, x, p, expected);
          const Extremes e = kernels.extremes(x.data(), count);
          REQUIRE(parameters_for(format, e.low, e.high, {0.9f, 0.95f}) == p);
          kernels.round_group(x.data(), count,
                              {1.0f / p.scale, static_cast<float>(-p.zero),
                               static_cast<float>(format.highest() - p.zero), p.zero},
                              got.data());
          REQUIRE(got == expected);
        }
      }
    }
  });
}

}  // namespace
