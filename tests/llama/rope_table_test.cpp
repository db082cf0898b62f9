// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/llama/rope_table.hpp>
#include <cmath>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

llama::Config plain(int head_dim = 64) {
  llama::Config config;
  config.head_dim = head_dim, config.rope_theta = 10000, config.max_positions = 4096;
  return config;
}

TEST_CASE("frequencies fall from 1 by equal ratios; linear scaling divides them all") {
  auto config = plain();
  const auto f = llama::rope_frequencies(config);
  REQUIRE(f.size() == 32);
  CHECK(f[0] == 1);
  CHECK(f[16] == Approx(0.01).epsilon(1e-12));  // 10000^(-32/64)
  config.rope_scaling = {.kind = llama::RopeScalingKind::linear, .factor = 4};
  CHECK(llama::rope_frequencies(config)[16] == Approx(0.0025).epsilon(1e-12));
  config.rope_scaling = {};
  config.rope_factors.assign(32, 2.0f);
  CHECK(llama::rope_frequencies(config)[16] == Approx(0.005).epsilon(1e-12));
}

TEST_CASE("llama3 and yarn keep short wavelengths, squeeze long ones, and never leave that range") {
  auto config = plain(128);
  config.rope_theta = 500000;
  const auto base = llama::rope_frequencies(config);
  for (const auto kind : {llama::RopeScalingKind::llama3, llama::RopeScalingKind::yarn}) {
    config.rope_scaling = {.kind = kind, .factor = 8, .original_max_positions = 8192};
    const auto scaled = llama::rope_frequencies(config);
    CHECK(scaled.front() == base.front());
    CHECK(scaled.back() == Approx(base.back() / 8).epsilon(1e-12));
    for (std::size_t i = 0; i < base.size(); ++i) {
      CHECK(scaled[i] <= base[i] * (1 + 1e-12));
      CHECK(scaled[i] >= base[i] / 8 * (1 - 1e-12));
      if (i > 0) CHECK(scaled[i] < scaled[i - 1]);
    }
  }
  config.rope_scaling = {
      .kind = llama::RopeScalingKind::yarn, .factor = 8, .original_max_positions = 8192};
  CHECK(llama::rope_magnitude(config) == Approx(0.1 * std::log(8.0) + 1).epsilon(1e-12));
  config.rope_scaling.attention_factor = 1.5;
  CHECK(llama::rope_magnitude(config) == 1.5);
}

TEST_CASE("scores depend on the distance alone, and lengths are kept") {
  const auto config = plain();
  const llama::RopeTable table(config, 200);
  ThreadPool pool(1);
  const auto rotated = [&](float seed, int position) {
    Matrix<float> x(1, 64);
    for (int i = 0; i < 64; ++i) x(0, i) = std::sin(seed * static_cast<float>(i + 1));
    table.rotate(x.ref(), position, pool);
    return x;
  };
  const auto dot = [](const Matrix<float>& a, const Matrix<float>& b) {
    double sum = 0;
    for (int i = 0; i < 64; ++i) sum += static_cast<double>(a(0, i)) * static_cast<double>(b(0, i));
    return sum;
  };
  const double near_start = dot(rotated(0.7f, 12), rotated(1.3f, 5)),
               later = dot(rotated(0.7f, 190), rotated(1.3f, 183));
  // 64 products of values up to 1, each rounded a few times in float32: 64 * 8 * 2^-24
  CHECK(std::abs(near_start - later) < 64 * 8 * 0x1p-24);
  CHECK(std::abs(dot(rotated(0.7f, 12), rotated(1.3f, 6)) - near_start) > 1e-3);
  const auto x = rotated(0.7f, 77), y = rotated(0.7f, 0);
  CHECK(std::abs(dot(x, x) - dot(y, y)) < 64 * 8 * 0x1p-24);
}

TEST_CASE("positions beyond the table are a broken contract") {
  const llama::RopeTable table(plain(), 10);
  ThreadPool pool(1);
  Matrix<float> x(3, 64);
  CHECK_NOTHROW(table.rotate(x.ref(), 7, pool));
  CHECK_THROWS_AS(table.rotate(x.ref(), 8, pool), ContractViolation);
  CHECK_THROWS_AS(table.rotate(x.ref(), -1, pool), ContractViolation);
}

}  // namespace
