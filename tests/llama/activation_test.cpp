// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/llama/activation.hpp>
#include <cmath>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

TEST_CASE("floats pass through, integers and the simulation stand for the same values") {
  Matrix<float> x(3, 172);
  for (int t = 0; t < 3; ++t) {
    for (int c = 0; c < 172; ++c) x(t, c) = std::sin(static_cast<float>(t * 172 + c));
  }
  ThreadPool pool(1);
  llama::Activation plain, integer, simulated;
  plain.prepare(x.ref(), {}, pool);
  CHECK(plain.values().data() == x.data());
  CHECK_FALSE(plain.is_integer());
  CHECK_THROWS_AS(plain.integers(), ContractViolation);

  const ActivationFormat format{.bits = 4, .group = 64};
  integer.prepare(x.ref(), {format, false}, pool);
  simulated.prepare(x.ref(), {format, true}, pool);
  REQUIRE(integer.is_integer());
  CHECK_FALSE(simulated.is_integer());
  const ActivationView view = integer.integers();
  int moved = 0;
  for (int t = 0; t < 3; ++t) {
    for (int c = 0; c < 172; ++c) {
      CHECK(simulated.values()(t, c) ==
            view.scale(t, c / 64) * static_cast<float>(view.codes[t * view.padded_cols + c]));
      moved += simulated.values()(t, c) != x(t, c) ? 1 : 0;
    }
  }
  CHECK(moved > 300);
}

}  // namespace
