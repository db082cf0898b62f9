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

// Where a code of keys and of values lies among a panel's bytes.
std::size_t key_byte(int token, int dim) {
  return static_cast<std::size_t>((dim / 4 * kv_panel + token) * 4 + dim % 4);
}
std::size_t value_byte(int token, int dim, int dims) {
  return static_cast<std::size_t>((token / 4 * dims + dim) * 4 + token % 4);
}
// A query's integer.
int query_at(const std::int8_t* bytes, int dim) {
  const std::int8_t* four = bytes + dim / 4 * 8 + dim % 4;
  return 256 * four[0] + four[4];
}

template <class Check>
void on_code_targets(Check check) {
  on_every_target(attention_kernel_table<>, [&](Target target, const AttentionKernels& kernels) {
    if (kernels.query_bytes != nullptr) check(target, kernels);
  });
}

template <int Bits>
void codes_become_bytes(Target target, const AttentionKernels& kernels) {
  for (const int head_dim : {64, 128, 20, 96}) {
    CAPTURE(name(target), Bits, head_dim);
    const KvPanel panel{{Bits, 0}, head_dim};
    const int dims = panel.dim();
    Random random(static_cast<std::uint64_t>(head_dim));
    // Four bytes beyond the last row: vector loads may pass its end.
    std::vector<std::uint8_t> keys(static_cast<std::size_t>(panel.code_bytes()) + 4), values = keys;
    std::vector<std::uint8_t> expected_keys(static_cast<std::size_t>(panel.floats())),
        expected_values = expected_keys, got = expected_keys;
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(dims));
    for (int t = 0; t < kv_panel; ++t) {
      for (int d = 0; d < dims; ++d) {
        const auto code = static_cast<std::uint8_t>(random.below(1u << Bits));
        codes[static_cast<std::size_t>(d)] = expected_keys[key_byte(t, d)] =
            expected_values[value_byte(t, d, dims)] = code;
      }
      store_key_codes<Bits>(codes.data(), dims, t, keys.data());
      store_value_codes<Bits>(codes.data(), dims, values.data() + t * panel.token_bytes());
    }
    if (kernels.key_bytes[Bits] == nullptr) {
      got.assign(keys.begin(), keys.end() - 4);
    } else {
      kernels.key_bytes[Bits](keys.data(), panel, got.data());
    }
    REQUIRE(got == expected_keys);
    kernels.value_bytes[Bits](values.data(), panel, got.data());
    REQUIRE(got == expected_values);
  }
}

TEST_CASE("codes become bytes, to the bit; keys of 8 bits lie so") {
  on_code_targets([](Target target, const AttentionKernels& kernels) {
    codes_become_bytes<2>(target, kernels);
    codes_become_bytes<3>(target, kernels);
    codes_become_bytes<4>(target, kernels);
    codes_become_bytes<8>(target, kernels);
  });
}

TEST_CASE("queries become integers of two bytes") {
  on_code_targets([](Target target, const AttentionKernels& kernels) {
    for (const auto& sizes : {std::tuple{32, 32}, {64, 64}, {96, 64}, {128, 32}, {256, 256}}) {
      const auto [first, second] = sizes;
      const int dim = first, group = second;
      CAPTURE(name(target), dim, group);
      std::vector<float> row = test::normal_values(dim, 1);
      const std::vector<float> center = test::normal_values(dim, 2);
      std::vector<std::int8_t> bytes(2 * row.size());
      std::vector<std::int32_t> sums(static_cast<std::size_t>((dim + group - 1) / group));
      float scale = 0, with_center = 0;
      const auto run = [&] {
        kernels.query_bytes(row.data(), center.data(), dim, group,
                            {bytes.data(), sums.data(), &scale, &with_center});
      };
      row[3] = -9, row[4] = 9;  // the largest of both signs
      run();
      double product = 0, magnitude = 0;
      std::vector<std::int32_t> expected_sums(sums.size());
      for (int d = 0; d < dim; ++d) {
        const auto at = static_cast<std::size_t>(d);
        product += static_cast<double>(row[at]) * center[at],
            magnitude += std::fabs(static_cast<double>(row[at]) * center[at]);
        expected_sums[at / static_cast<std::size_t>(group)] += query_at(bytes.data(), d);
        REQUIRE(query_at(bytes.data(), d) ==
                static_cast<int>(std::nearbyint(row[at] * (two_byte_levels / 9.0f))));
      }
      REQUIRE(query_at(bytes.data(), 3) == -two_byte_levels);
      REQUIRE(query_at(bytes.data(), 4) == two_byte_levels);
      REQUIRE(scale == 9.0f / two_byte_levels);
      REQUIRE(sums == expected_sums);
      REQUIRE(std::fabs(with_center - product) <= (dim + 1) * u * magnitude);

      for (const float broken :
           {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        row[static_cast<std::size_t>(dim) - 3] = broken;
        run();
        REQUIRE_FALSE(std::isfinite(scale));
      }
      row.assign(row.size(), 0.0f);
      run();
      REQUIRE(scale == 0);
      REQUIRE(bytes == std::vector<std::int8_t>(bytes.size()));
    }
  });
}

// A tile whose packed panels are there as codes, and as the floats that they stand for.
struct CodeProblem {
  CodeProblem(const CodeProblem&) = delete;  // its tile points into it
  int dim, rows, group;
  std::vector<float> queries, exact_keys, exact_values, packed_keys, packed_values, center;
  std::vector<std::uint8_t> key_codes, value_codes, key_zeros, value_zeros;
  std::vector<std::int8_t> bytes;
  std::vector<std::int32_t> sums;
  std::vector<Half> key_scales, value_scales;
  std::vector<float> scales, centers, out, maximum, sum;
  AttentionTile tile;
  CodeTile codes;

  CodeProblem(int dim_, int rows_, int heads, int group_, int bits, int first_query,
              const KvLaw& law)
      : dim(dim_),
        rows(rows_),
        group(group_),
        queries(test::normal_values(rows * dim, 1)),
        exact_keys(test::normal_values(kv_tile * dim, 2)),
        exact_values(test::normal_values(kv_tile * dim, 3)),
        packed_keys(exact_keys.size()),
        packed_values(exact_keys.size()),
        center(test::normal_values(dim, 4)),
        key_codes(exact_keys.size()),
        value_codes(exact_keys.size()),
        key_zeros(static_cast<std::size_t>(kv_tile * groups())),
        value_zeros(key_zeros.size()),
        bytes(2 * queries.size()),
        sums(static_cast<std::size_t>(rows * groups())),
        key_scales(key_zeros.size()),
        value_scales(key_zeros.size()),
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
      for (Half& scale : *all)
        scale = to_half(static_cast<float>(random.uniform() * 3 / (1 << bits)));
    }
    for (auto* all : {&key_zeros, &value_zeros}) {
      for (auto& zero : *all) zero = static_cast<std::uint8_t>(random.below(1u << bits));
    }
    for (int j = 0; j < kv_tile; ++j) {
      const int panel = j / kv_panel, t = j % kv_panel, at = panel * kv_panel * dim;
      for (int d = 0; d < dim; ++d) {
        const auto scale = static_cast<std::size_t>((panel * groups() + d / group) * kv_panel + t);
        const auto k = static_cast<std::uint8_t>(random.below(1u << bits));
        const auto v = static_cast<std::uint8_t>(random.below(1u << bits));
        key_codes[static_cast<std::size_t>(at) + key_byte(t, d)] = k;
        value_codes[static_cast<std::size_t>(at) + value_byte(t, d, dim)] = v;
        packed_keys[static_cast<std::size_t>(at + d * kv_panel + t)] =
            std::fma(to_float(key_scales[scale]), static_cast<float>(k - key_zeros[scale]),
                     center[static_cast<std::size_t>(d)]);
        packed_values[static_cast<std::size_t>(at + t * dim + d)] =
            to_float(value_scales[scale]) * static_cast<float>(v - value_zeros[scale]);
      }
    }
    tile = {.queries = queries.data(),
            .rows = rows,
            .dim = dim,
            .heads = heads,
            .first_query = first_query};
    tile.first_key = 128, tile.law = law;
    codes = {.queries = bytes.data(),
             .query_sums = sums.data(),
             .query_scales = scales.data(),
             .query_centers = centers.data(),
             .key_group = group,
             .value_group = group};
    for (int p = 0; p < kv_panels; ++p) {
      const int at = p * kv_panel * dim;
      tile.exact_keys[p] = exact_keys.data() + at, tile.exact_values[p] = exact_values.data() + at;
      tile.packed_keys[p] = packed_keys.data() + at,
      tile.packed_values[p] = packed_values.data() + at;
      const int parameters = p * groups() * kv_panel;
      codes.keys[p] = {key_codes.data() + at, key_zeros.data() + parameters,
                       key_scales.data() + parameters};
      codes.values[p] = {value_codes.data() + at, value_zeros.data() + parameters,
                         value_scales.data() + parameters};
    }
  }
  [[nodiscard]] int groups() const { return (dim + group - 1) / group; }
  void run(const AttentionKernels& kernels, int first = 0, int count = -1) {
    if (count < 0) count = rows;
    AttentionTile t = tile;
    CodeTile c = codes;
    for (int r = 0; r < rows && kernels.query_bytes != nullptr; ++r) {
      const auto at = static_cast<std::size_t>(r);
      kernels.query_bytes(
          queries.data() + r * dim, center.data(), dim, group,
          {bytes.data() + 2 * r * dim, sums.data() + r * groups(), &scales[at], &centers[at]});
      t.codes = &c;
    }
    t.rows = count, t.first_query += first / t.heads;
    t.queries += first * dim, c.queries += 2 * first * dim, c.query_sums += first * groups();
    c.query_scales += first, c.query_centers += first;
    t.out = out.data() + first * dim, t.maximum = maximum.data() + first,
    t.sum = sum.data() + first;
    kernels.attend(t);
  }
};

TEST_CASE("codes give what the scalar step gives with their floats") {
  const AttentionKernels by_floats = choose(attention_kernel_table<>, Target::scalar).function;
  const KvLaw laws[] = {{.recent = 0},
                        {.exact_below = 130, .recent = 20},
                        {.exact_below = 150, .recent = 64, .forgotten = 160},
                        {.recent = 7, .window = 30},
                        {.exact_below = 500, .recent = 3},
                        {.recent = 40}};
  on_code_targets([&](Target target, const AttentionKernels& kernels) {
    for (const KvLaw& law : laws) {
      for (const int first_query : {120, 128, 151, 191, 230}) {
        for (const auto& [dim, group, bits, rows] : {std::tuple{64, 64, 8, 1},
                                                     {64, 64, 4, 6},
                                                     {64, 32, 8, 7},
                                                     {64, 64, 2, 11},
                                                     {96, 96, 3, 9},
                                                     {128, 64, 8, 14},
                                                     {128, 128, 4, 15},
                                                     {32, 32, 8, 4}}) {
          CAPTURE(name(target), dim, group, bits, rows, first_query, law.exact_below, law.recent);
          const int heads = rows % 3 == 0 ? 3 : 1;
          CodeProblem expected(dim, rows, heads, group, bits, first_query, law);
          CodeProblem got(dim, rows, heads, group, bits, first_query, law);
          expected.run(by_floats), got.run(kernels);
          for (int r = 0; r < rows; ++r) {
            const auto row = static_cast<std::size_t>(r);
            double magnitude = 0, rounding = 0;  // of a score: of its sum, and of its integers
            for (int j = 0; j < kv_tile; ++j) {
              double exact = 0, packed = 0, size = 0;
              for (int d = 0; d < dim; ++d) {
                const auto at =
                    static_cast<std::size_t>((j / kv_panel * dim + d) * kv_panel + j % kv_panel);
                const double q = std::fabs(
                    got.queries[row * static_cast<std::size_t>(dim) + static_cast<std::size_t>(d)]);
                exact += q * std::fabs(got.exact_keys[at]),
                    packed += q * std::fabs(got.packed_keys[at]);
                packed += q * std::fabs(got.center[static_cast<std::size_t>(d)]);
                size += std::fabs(got.packed_keys[at] - got.center[static_cast<std::size_t>(d)]);
              }
              // Half a step of the query's integers, and what the inverse's rounding makes of 2^15
              // steps.
              magnitude = std::max({magnitude, exact, packed});
              rounding = std::max(rounding, 0.51 * got.scales[row] * size);
            }
            const double score = 2 * (dim + 4) * u * magnitude + rounding;
            REQUIRE((expected.maximum[row] == got.maximum[row] ||
                     std::fabs(static_cast<double>(expected.maximum[row]) - got.maximum[row]) <=
                         score));
            // As in conformance/attend.
            const double power = 2 * (std::log(2.0) * score + 8 * u), sums = 2 * 66 * u;
            REQUIRE(std::fabs(static_cast<double>(expected.sum[row]) - got.sum[row]) <=
                    (power + sums) * expected.sum[row] * 1.01);
            for (int d = 0; d < dim; ++d) {
              const auto at = row * static_cast<std::size_t>(dim) + static_cast<std::size_t>(d);
              // Values and what was there before are below 6. A weight of at most one, times its
              // scale, is rounded to half a step of 2^-15 of the largest: 64 of them, each of a
              // value below 3.
              REQUIRE(std::fabs(static_cast<double>(expected.out[at]) - got.out[at]) <=
                      ((power + sums) * 6 * (expected.sum[row] + 1) +
                       kv_tile * 0.51 / two_byte_levels * 3) *
                          1.01);
            }
          }
        }
      }
    }
  });
}

TEST_CASE("a row of integers does not depend on the rows beside it") {
  on_code_targets([](Target target, const AttentionKernels& kernels) {
    const KvLaw law{.exact_below = 135, .recent = 20};
    CodeProblem all(64, 13, 1, 32, 4, 150, law);
    all.run(kernels);
    CodeProblem apart(64, 13, 1, 32, 4, 150, law);
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
  on_code_targets([](Target target, const AttentionKernels& kernels) {
    CAPTURE(name(target));
    const KvLaw law{.recent = 0};
    CodeProblem clean(64, 3, 3, 64, 4, 150, law), dirty(64, 3, 3, 64, 4, 150, law);
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
