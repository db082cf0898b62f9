// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/kernel/attention.hpp>
#include <bisup/pack/kv_store.hpp>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include <bisup_test.hpp>
#include <conformance/targets.hpp>
#include <normals.hpp>

namespace {

using namespace bisup;

// Where a word of keys lies: of every four dims first the first and third, then the others.
std::size_t key_word(int token, int dim) {
  const int pair = dim % 2, second = dim / 2 % 2;
  return static_cast<std::size_t>(((dim / 4 * 2 + pair) * kv_panel + token) * 2 + second);
}
std::size_t value_word(int token, int dim, int dims) {
  return static_cast<std::size_t>((token / 2 * dims + dim) * 2 + token % 2);
}
std::size_t query_word(int dim) {
  return static_cast<std::size_t>(dim / 4 * 4 + dim % 2 * 2 + dim / 2 % 2);
}

template <class Check>
void on_word_targets(Check check) {
  on_every_target(attention_kernel_table<>, [&](Target target, const AttentionKernels& kernels) {
    if (kernels.query_words != nullptr) check(target, kernels);
  });
}

template <int Bits>
void codes_become_words(Target target, const AttentionKernels& kernels) {
  for (const int head_dim : {64, 128, 20, 96}) {
    for (const int group : {0, 32}) {
      CAPTURE(name(target), Bits, head_dim, group);
      const KvPanel panel{{Bits, group}, head_dim};
      const int dims = panel.dim();
      Random random(static_cast<std::uint64_t>(head_dim + group));
      // Four bytes beyond the last row: vector loads may pass its end.
      std::vector<std::uint8_t> keys(static_cast<std::size_t>(panel.code_bytes()) + 4), values = keys;
      std::vector<std::uint8_t> zeros(static_cast<std::size_t>(panel.parameters()));
      for (auto& zero : zeros) zero = static_cast<std::uint8_t>(random.below(1u << Bits));
      std::vector<std::int16_t> expected_keys(static_cast<std::size_t>(panel.floats())), expected_values = expected_keys,
                                                                                        got = expected_keys;
      std::vector<std::uint8_t> codes(static_cast<std::size_t>(dims));
      for (int t = 0; t < kv_panel; ++t) {
        for (int d = 0; d < dims; ++d) {
          const auto code = static_cast<std::uint8_t>(random.below(1u << Bits));
          codes[static_cast<std::size_t>(d)] = code;
          const int zero = zeros[static_cast<std::size_t>(d / panel.group() * kv_panel + t)];
          expected_keys[key_word(t, d)] = expected_values[value_word(t, d, dims)] =
              static_cast<std::int16_t>(code - zero);
        }
        store_key_codes<Bits>(codes.data(), dims, t, keys.data());
        store_value_codes<Bits>(codes.data(), dims, values.data() + t * panel.token_bytes());
      }
      kernels.key_words[Bits](keys.data(), zeros.data(), panel, got.data());
      REQUIRE(got == expected_keys);
      kernels.value_words[Bits](values.data(), zeros.data(), panel, got.data());
      REQUIRE(got == expected_values);
    }
  }
}

TEST_CASE("codes without their zero points become words, to the bit") {
  on_word_targets([](Target target, const AttentionKernels& kernels) {
    codes_become_words<2>(target, kernels);
    codes_become_words<3>(target, kernels);
    codes_become_words<4>(target, kernels);
    codes_become_words<8>(target, kernels);
  });
}

TEST_CASE("queries become words of 15 bits") {
  on_word_targets([](Target target, const AttentionKernels& kernels) {
    for (const int dim : {32, 64, 96, 512}) {
      CAPTURE(name(target), dim);
      std::vector<float> row = test::normal_values(dim, 1);
      const std::vector<float> center = test::normal_values(dim, 2);
      std::vector<std::int16_t> words(row.size());
      float scale = 0, with_center = 0;
      kernels.query_words(row.data(), center.data(), dim, words.data(), &scale, &with_center);
      float largest = 0;
      double product = 0, magnitude = 0;
      for (std::size_t d = 0; d < row.size(); ++d) {
        largest = std::max(largest, std::fabs(row[d]));
        product += static_cast<double>(row[d]) * center[d], magnitude += std::fabs(static_cast<double>(row[d]) * center[d]);
      }
      REQUIRE(scale == largest / word_levels);
      REQUIRE(std::fabs(with_center - product) <= (dim + 1) * u * magnitude);
      const float inverse = word_levels / largest;
      for (int d = 0; d < dim; ++d)
        REQUIRE(words[query_word(d)] == static_cast<int>(std::nearbyint(row[static_cast<std::size_t>(d)] * inverse)));

      kernels.query_words(std::vector<float>(row.size()).data(), center.data(), dim, words.data(), &scale, &with_center);
      REQUIRE(scale == 0);
      REQUIRE(words == std::vector<std::int16_t>(row.size()));
      for (const float broken : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        row[static_cast<std::size_t>(dim) - 3] = broken;
        kernels.query_words(row.data(), center.data(), dim, words.data(), &scale, &with_center);
        REQUIRE_FALSE(std::isfinite(scale));
      }
    }
  });
}

// A tile whose packed panels are there as words, and as the floats that they stand for.
struct WordProblem {
  WordProblem(const WordProblem&) = delete;  // its tile points into it
  int dim, rows, group;
  std::vector<float> queries, exact_keys, exact_values, packed_keys, packed_values, center;
  std::vector<std::int16_t> key_words, value_words, words;
  std::vector<Half> key_scales, value_scales;
  std::vector<float> scales, centers, out, maximum, sum;
  AttentionTile tile;
  WordTile in_words;

  WordProblem(int dim_, int rows_, int heads, int group_, int bits, int first_query, const KvLaw& law)
      : dim(dim_),
        rows(rows_),
        group(group_),
        queries(test::normal_values(rows * dim, 1)),
        exact_keys(test::normal_values(kv_tile * dim, 2)),
        exact_values(test::normal_values(kv_tile * dim, 3)),
        packed_keys(exact_keys.size()),
        packed_values(exact_keys.size()),
        center(test::normal_values(dim, 4)),
        key_words(exact_keys.size()),
        value_words(exact_keys.size()),
        words(queries.size()),
        key_scales(static_cast<std::size_t>(kv_tile * groups())),
        value_scales(key_scales.size()),
        scales(static_cast<std::size_t>(rows)),
        centers(scales.size()),
        out(test::normal_values(rows * dim, 6)),
        maximum(test::normal_values(rows, 7)),
        sum(scales.size(), 2.0f) {
    maximum[0] = -std::numeric_limits<float>::infinity(), sum[0] = 0;
    std::fill_n(out.begin(), dim, 0.0f);
    Random random(static_cast<std::uint64_t>(bits * dim + rows));
    // Values are below 3.
    for (auto* all : {&key_scales, &value_scales}) {
      for (Half& scale : *all) scale = to_half(static_cast<float>(random.uniform() * 3 / (1 << bits)));
    }
    for (int j = 0; j < kv_tile; ++j) {
      const int panel = j / kv_panel, t = j % kv_panel, at = panel * kv_panel * dim;
      for (int d = 0; d < dim; ++d) {
        const auto scale = static_cast<std::size_t>((panel * groups() + d / group) * kv_panel + t);
        const auto word = [&] {
          return static_cast<std::int16_t>(static_cast<int>(random.below(1u << bits)) - (1 << bits) / 3);
        };
        const std::int16_t k = word(), v = word();
        key_words[static_cast<std::size_t>(at) + key_word(t, d)] = k;
        value_words[static_cast<std::size_t>(at) + value_word(t, d, dim)] = v;
        packed_keys[static_cast<std::size_t>(at + d * kv_panel + t)] =
            std::fma(to_float(key_scales[scale]), static_cast<float>(k), center[static_cast<std::size_t>(d)]);
        packed_values[static_cast<std::size_t>(at + t * dim + d)] =
            to_float(value_scales[scale]) * static_cast<float>(v);
      }
    }
    tile = {.queries = queries.data(), .rows = rows, .dim = dim, .heads = heads, .first_query = first_query};
    tile.first_key = 128, tile.law = law;
    in_words = {.queries = words.data(),
                .query_scales = scales.data(),
                .query_centers = centers.data(),
                .key_group = group,
                .value_group = group};
    for (int p = 0; p < kv_panels; ++p) {
      const int at = p * kv_panel * dim;
      tile.exact_keys[p] = exact_keys.data() + at, tile.exact_values[p] = exact_values.data() + at;
      tile.packed_keys[p] = packed_keys.data() + at, tile.packed_values[p] = packed_values.data() + at;
      in_words.keys[p] = {key_words.data() + at, key_scales.data() + p * groups() * kv_panel};
      in_words.values[p] = {value_words.data() + at, value_scales.data() + p * groups() * kv_panel};
    }
  }
  [[nodiscard]] int groups() const { return (dim + group - 1) / group; }
  void run(const AttentionKernels& kernels, int first = 0, int count = -1) {
    if (count < 0) count = rows;
    AttentionTile t = tile;
    WordTile w = in_words;
    for (int r = 0; r < rows && kernels.query_words != nullptr; ++r) {
      kernels.query_words(queries.data() + r * dim, center.data(), dim, words.data() + r * dim, &scales[static_cast<std::size_t>(r)],
                          &centers[static_cast<std::size_t>(r)]);
      t.words = &w;
    }
    t.rows = count, t.first_query += first / t.heads;
    t.queries += first * dim, w.queries += first * dim, w.query_scales += first, w.query_centers += first;
    t.out = out.data() + first * dim, t.maximum = maximum.data() + first, t.sum = sum.data() + first;
    kernels.attend(t);
  }
};

TEST_CASE("words give what the scalar step gives with their floats") {
  const AttentionKernels by_floats = choose(attention_kernel_table<>, Target::scalar).function;
  const KvLaw laws[] = {{.recent = 0},
                        {.exact_below = 130, .recent = 20},
                        {.exact_below = 150, .recent = 64, .forgotten = 160},
                        {.recent = 7, .window = 30},
                        {.exact_below = 500, .recent = 3}};
  on_word_targets([&](Target target, const AttentionKernels& kernels) {
    for (const KvLaw& law : laws) {
      for (const int first_query : {120, 128, 151, 191, 230}) {
        for (const auto& [dim, group, bits, rows] : {std::tuple{64, 64, 8, 1}, {64, 64, 4, 6}, {64, 32, 8, 7}, {64, 64, 2, 11},
                                                     {96, 96, 3, 9}, {128, 64, 8, 14}, {128, 128, 4, 15}, {32, 32, 8, 4}}) {
          CAPTURE(name(target), dim, group, bits, rows, first_query, law.exact_below, law.recent);
          const int heads = rows % 3 == 0 ? 3 : 1;
          WordProblem expected(dim, rows, heads, group, bits, first_query, law);
          WordProblem got(dim, rows, heads, group, bits, first_query, law);
          expected.run(by_floats), got.run(kernels);
          for (int r = 0; r < rows; ++r) {
            const auto row = static_cast<std::size_t>(r);
            double magnitude = 0, rounding = 0;  // of a score: of its sum, and of its words
            for (int j = 0; j < kv_tile; ++j) {
              double exact = 0, packed = 0, size = 0;
              for (int d = 0; d < dim; ++d) {
                const auto at = static_cast<std::size_t>((j / kv_panel * dim + d) * kv_panel + j % kv_panel);
                const double q = std::fabs(got.queries[row * static_cast<std::size_t>(dim) + static_cast<std::size_t>(d)]);
                exact += q * std::fabs(got.exact_keys[at]), packed += q * std::fabs(got.packed_keys[at]);
                packed += q * std::fabs(got.center[static_cast<std::size_t>(d)]);
                size += std::fabs(got.packed_keys[at] - got.center[static_cast<std::size_t>(d)]);
              }
              // Half a step of the query's words, and what the inverse's rounding makes of 2^14 steps.
              magnitude = std::max({magnitude, exact, packed});
              rounding = std::max(rounding, 0.51 * got.scales[row] * size);
            }
            const double score = 2 * (dim + 4) * u * magnitude + rounding;
            REQUIRE((expected.maximum[row] == got.maximum[row] ||
                     std::fabs(static_cast<double>(expected.maximum[row]) - got.maximum[row]) <= score));
            // As in conformance/attend.
            const double power = 2 * (std::log(2.0) * score + 8 * u), sums = 2 * 66 * u;
            REQUIRE(std::fabs(static_cast<double>(expected.sum[row]) - got.sum[row]) <=
                    (power + sums) * expected.sum[row] * 1.01);
            for (int d = 0; d < dim; ++d) {
              const auto at = row * static_cast<std::size_t>(dim) + static_cast<std::size_t>(d);
              // Values and what was there before are below 6. A weight of at most one, times its scale, is
              // rounded to half a step of 2^-14 of the largest: 64 of them, each of a value below 3.
              REQUIRE(std::fabs(static_cast<double>(expected.out[at]) - got.out[at]) <=
                      ((power + sums) * 6 * (expected.sum[row] + 1) + kv_tile * 0.51 / word_levels * 3) * 1.01);
            }
          }
        }
      }
    }
  });
}

TEST_CASE("a row of words does not depend on the rows beside it") {
  on_word_targets([](Target target, const AttentionKernels& kernels) {
    const KvLaw law{.exact_below = 135, .recent = 20};
    WordProblem all(64, 13, 1, 32, 4, 150, law);
    all.run(kernels);
    WordProblem apart(64, 13, 1, 32, 4, 150, law);
    for (int r = 0; r < 13; ++r) {
      CAPTURE(name(target), r);
      apart.run(kernels, r, 1);
    }
    REQUIRE(apart.maximum == all.maximum);
    REQUIRE(apart.sum == all.sum);
    REQUIRE(apart.out == all.out);
  });
}

TEST_CASE("a scale behind what a row sees is not read") {
  on_word_targets([](Target target, const AttentionKernels& kernels) {
    CAPTURE(name(target));
    const KvLaw law{.recent = 0};
    WordProblem clean(64, 3, 3, 64, 4, 150, law), dirty(64, 3, 3, 64, 4, 150, law);
    const Half broken = to_half(std::numeric_limits<float>::quiet_NaN());
    for (int key = 151 - 128; key < kv_tile; ++key) {  // tokens that come later
      dirty.key_scales[static_cast<std::size_t>(key)] = broken;
      dirty.value_scales[static_cast<std::size_t>(key)] = broken;
    }
    clean.run(kernels), dirty.run(kernels);
    REQUIRE(dirty.out == clean.out);
    REQUIRE(dirty.sum == clean.sum);
    dirty.value_scales[0] = broken;
    dirty.run(kernels);
    REQUIRE(std::isnan(dirty.out[0]));
  });
}

}  // namespace
