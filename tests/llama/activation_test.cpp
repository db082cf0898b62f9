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
  integer.prepare(x.ref(), {.format = format}, pool);
  simulated.prepare(x.ref(), {.format = format, .simulate = true}, pool);
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

TEST_CASE("an input is rotated, reordered and scaled before it is rounded") {
  constexpr int cols = 96, tokens = 3;
  Matrix<float> x(tokens, cols);
  for (int t = 0; t < tokens; ++t) {
    for (int c = 0; c < cols; ++c) x(t, c) = std::sin(static_cast<float>(t * cols + 5 * c));
  }
  llama::InputForm form;
  form.rotation = Hadamard::make({3, 32, 1}).value();
  for (int c = 0; c < cols; ++c) {
    form.order.push_back((c * 7 + 2) % cols);
    form.multiplier.push_back(0.5f + static_cast<float>(c));
  }
  ThreadPool pool(2);
  Matrix<float> rotated = x.clone();
  form.rotation.apply(rotated.ref(), pool);
  llama::Activation input;
  input.prepare(x.ref(), form, pool);
  for (int t = 0; t < tokens; ++t) {
    for (int c = 0; c < cols; ++c) {
      const auto j = static_cast<std::size_t>(c);
      REQUIRE(input.values()(t, c) == form.multiplier[j] * rotated(t, form.order[j]));
    }
  }
  CHECK(input.exact().data() == input.values().data());

  form.order.pop_back();
  CHECK_THROWS_AS(input.prepare(x.ref(), form, pool), ContractViolation);
}

TEST_CASE("an input in words is that of the newest one") {
  ThreadPool pool(1);
  Matrix<float> first(2, 64), second(1, 64);
  for (int c = 0; c < 64; ++c) first(0, c) = 1, first(1, c) = 2, second(0, c) = static_cast<float>(c + 1);
  llama::Activation input;
  const llama::InputForm form{.format = ActivationFormat{.group = 32}};
  input.prepare(first.ref(), form, pool);
  CHECK(input.exact_words(pool).tokens == 2);
  input.prepare(second.ref(), form, pool);
  for (int i = 0; i < 2; ++i) {
    const WordsView words = input.exact_words(pool);
    REQUIRE(words.tokens == 1);
    for (int c = 0; c < 64; ++c) {
      // 32767 steps are 64: half a step, and the rounding of the scale, its inverse and the product.
      REQUIRE(std::fabs(words.scales[0] * static_cast<float>(words.row(0)[c]) - second(0, c)) <= words.scales[0] * 0.51f);
    }
  }
}

TEST_CASE("keepers are the last channels, in 8 bits with one scale a token, unclipped") {
  constexpr int cols = 128, kept = 32, body = cols - kept;
  Matrix<float> x(2, cols);
  for (int t = 0; t < 2; ++t) {
    for (int c = 0; c < cols; ++c) x(t, c) = std::cos(static_cast<float>(t * 31 + c));
  }
  const ActivationFormat format{.bits = 3, .group = 32, .clip = 0.7f};
  ThreadPool pool(1);
  llama::Activation integer, simulated;
  integer.prepare(x.ref(), {.format = format, .keepers = kept}, pool);
  simulated.prepare(x.ref(), {.format = format, .simulate = true, .keepers = kept}, pool);
  CHECK(integer.integers().cols == body);
  const WordsView keepers = integer.keeper_words();
  REQUIRE(keepers.pairs == kept / 2);
  double error = 0, rough = 0;
  for (int t = 0; t < 2; ++t) {
    for (int c = 0; c < kept; ++c) {
      const float value = keepers.scales[t] * static_cast<float>(keepers.row(t)[c]);
      REQUIRE(simulated.values()(t, body + c) == value);
      // Half a step, and the rounding of the division and of the product.
      CHECK(std::fabs(value - x(t, body + c)) <= keepers.scales[t] * 0.5001f);
      error += std::fabs(value - x(t, body + c));
    }
    for (int c = 0; c < body; ++c) rough += std::fabs(simulated.values()(t, c) - x(t, c));
  }
  CHECK(error > 0);
  CHECK(rough / body > 8 * error / kept);  // 3 bits and a clip against 8 bits: 42 times the step
  CHECK(simulated.exact().data() == x.data());
}

}  // namespace
