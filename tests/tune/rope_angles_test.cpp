// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/tune/rope_angles.hpp>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

TEST_CASE("a pair turns as the runtime turns it, to the bit, from any position on") {
  llama::Config config;
  config.head_dim = 16;
  config.rope_scaling = {
      .kind = llama::RopeScalingKind::yarn, .factor = 4, .original_max_positions = 32};
  ThreadPool pool(1);
  const llama::RopeTable table(config, 40);
  const tune::RopeAngleTable<float> angles(config, 30, 10);
  const auto view = angles.view().first(7);
  CHECK(view.cosines.rows() == 7);
  Matrix<float> x(7, 16);
  for (int t = 0; t < 7; ++t) {
    for (int i = 0; i < 8; ++i) x(t, i) = 1;  // (1, 0) turns into (cosine, sine)
  }
  table.rotate(x.ref(), 30, pool);
  for (int t = 0; t < 7; ++t) {
    for (int i = 0; i < 8; ++i) {
      REQUIRE(x(t, i) == view.cosines(t, i));
      REQUIRE(x(t, i + 8) == view.sines(t, i));
    }
  }
}

}  // namespace
