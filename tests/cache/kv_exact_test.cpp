// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/cache/kv_exact.hpp>
#include <bisup/core/random.hpp>
#include <cmath>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

TEST_CASE("a token comes back as round_exact says, and no other token changes") {
  Random random(3);
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (const KvSide side : {KvSide::keys, KvSide::values}) {
      for (const int head_dim : {64, 20}) {
        CAPTURE(name(type), head_dim);
        const KvPanel panel{{4}, head_dim};
        AlignedBuffer<std::byte> page(static_cast<std::size_t>(panel.floats()) * 4);
        std::vector<std::vector<float>> rows(kv_panel, std::vector<float>(64));
        for (int lane = 0; lane < kv_panel; ++lane) {
          auto& row = rows[static_cast<std::size_t>(lane)];
          for (float& x : row) x = static_cast<float>(random.normal());
          write_exact(side, panel, type, row.data(), lane, page.data());
        }
        for (int lane = 0; lane < kv_panel; ++lane) {
          std::vector<float> expected = rows[static_cast<std::size_t>(lane)], got(64);
          expected.resize(static_cast<std::size_t>(head_dim));
          round_exact(type, expected);
          read_exact(side, panel, type, page.data(), lane, got.data());
          got.resize(expected.size());
          CHECK(got == expected);
        }
      }
    }
  }
}

TEST_CASE("f32 stays as it is, f16 and bf16 err by half of their last place") {
  const std::vector<float> x = {1.0f + 0x1p-12f, -3.14159f, 0x1p-20f, 70000.0f, -1e9f, 0.0f};
  std::vector<float> same = x, half = x, brain = x;
  round_exact(DType::f32, same), round_exact(DType::f16, half), round_exact(DType::bf16, brain);
  CHECK(same == x);
  CHECK(half[0] == 1.0f);
  CHECK(std::fabs(half[1] - x[1]) <= 0x1p-10f);
  CHECK(half[1] != x[1]);
  CHECK(half[2] == 0x1p-20f);  // a subnormal
  CHECK(half[3] == 65504.0f);  // and not infinity
  CHECK(half[4] == -65504.0f);
  CHECK(half[5] == 0.0f);
  CHECK(std::fabs(brain[1] - x[1]) <= 0x1p-7f);
  CHECK(std::fabs(brain[4] - x[4]) <= 1e9f * 0x1p-8f);
  CHECK(std::isfinite(brain[3]));
}

}  // namespace
