// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/evaluate/divergence.hpp>
#include <bisup/evaluate/reference_states.hpp>

#include <bisup_test.hpp>
#include "../llama/golden_models.hpp"

namespace {

using namespace bisup;

TEST_CASE("states are found by all their tokens, and stay where they are") {
  ReferenceStates known;
  Matrix<float> one(2, 3), two(3, 3);
  one(1, 2) = 5, two(2, 0) = 7;
  const std::vector<int> first = {4, 9}, longer = {4, 9, 1};
  const auto* held = &known.add(first, std::move(one));
  CHECK(known.find(longer) == nullptr);
  for (int i = 0; i < 20; ++i) known.add(std::vector<int>{i}, Matrix<float>(1, 3));
  known.add(longer, std::move(two));
  CHECK(known.find(first) == held);
  CHECK(held->states(1, 2) == 5);
  REQUIRE(known.find(longer) != nullptr);
  CHECK(known.find(longer)->states(2, 0) == 7);
  CHECK(known.find(std::vector<int>{9, 4}) == nullptr);
  CHECK(known.size() == 22);
}

TEST_CASE("a comparison with known states is the same to the bit, and reads only what is new") {
  const auto model = test::small_model("llama");
  const auto packed = round_to_nearest(model, Scheme::parse("W4A8KV8-g32").value());
  REQUIRE(packed);
  const auto ids = test::some_ids(120);
  const auto compared = [&](WindowOptions windows, ReferenceStates* known) {
    auto d = divergence(*packed, KvPolicy::of(packed->scheme), model, {}, ids, windows,
                        ThreadPool::shared(), {}, known);
    REQUIRE(d);
    return *d;
  };
  const WindowOptions two = {.context = 40, .windows = 2}, all = {.context = 40};
  ReferenceStates known;
  const auto plain = compared(all, nullptr);
  (void)compared(two, &known);
  CHECK(known.size() == 2);
  for (int time = 0; time < 2; ++time) {
    const auto again = compared(all, &known);
    CHECK(again.kl_mean == plain.kl_mean);
    CHECK(again.kl_p99 == plain.kl_p99);
    CHECK(again.model.window_nll == plain.model.window_nll);
    CHECK(again.reference.window_nll == plain.reference.window_nll);
    CHECK(known.size() == 3);
  }

  ReferenceStates wrong;  // it is these that are read
  for (const auto& read : known) {
    Matrix<float> states = read.states.clone();
    for (int t = 0; t < states.rows(); ++t) states(t, 0) += 1;
    wrong.add(read.ids, std::move(states));
  }
  CHECK(compared(all, &wrong).reference.nll != plain.reference.nll);
}

}  // namespace
