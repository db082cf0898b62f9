// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/evaluate/divergence.hpp>
#include <cmath>

#include <bisup_test.hpp>
#include "../llama/golden_models.hpp"

namespace {

using namespace bisup;

TEST_CASE("one position by hand") {
  const std::vector<float> p = {std::log(0.5f), std::log(0.25f), std::log(0.25f)};
  const std::vector<float> q = {std::log(0.25f) + 3, std::log(0.5f) + 3,
                                std::log(0.25f) + 3};  // a shift cancels
  const auto d = detail::compare_position(p, q, 1);
  CHECK(d.kl == Approx(0.5 * std::log(2) - 0.25 * std::log(2)).epsilon(1e-6));
  CHECK(d.nll == Approx(std::log(2)).epsilon(1e-6));
  CHECK(d.reference_nll == Approx(std::log(4)).epsilon(1e-6));
  CHECK_FALSE(d.same_top);
}

TEST_CASE("a model does not diverge from itself") {
  const auto model = test::small_model("llama");
  const auto d = divergence(model, {}, model, {}, test::some_ids(60), {.context = 30});
  REQUIRE(d);
  CHECK(d->kl_mean == 0);
  CHECK(d->kl_p99 == 0);
  CHECK(d->top1_agreement == 1);
  CHECK(d->model.nll == d->reference.nll);
  CHECK(d->model.tokens == 58);
}

TEST_CASE("divergence is positive, falls with the bits, and carries both perplexities") {
  const auto model = test::small_model("llama");
  const auto ids = test::some_ids(120);
  double last = 1e9;
  for (const char* text : {"W3A4KV4-g32", "W4A8KV8-g32", "W8A8KV8-g32"}) {
    const auto packed = round_to_nearest(model, Scheme::parse(text).value());
    REQUIRE(packed);
    const auto d =
        divergence(*packed, KvPolicy::of(packed->scheme), model, {}, ids, {.context = 60});
    REQUIRE(d);
    CHECK(d->kl_mean > 0);
    CHECK(d->kl_mean < last);
    CHECK(d->kl_p99 > d->kl_mean);
    last = d->kl_mean;
    const auto alone = perplexity(*packed, ids, {.context = 60}, KvPolicy::of(packed->scheme));
    CHECK(d->model.nll ==
          Approx(alone->nll).epsilon(1e-6));  // float exp of the same logits in both
  }
}

TEST_CASE("different vocabularies cannot be compared") {
  auto other = test::small_model("llama");
  other.config.vocab_size = 127;
  const auto d =
      divergence(other, {}, test::small_model("llama"), {}, test::some_ids(60), {.context = 30});
  REQUIRE_FALSE(d);
  CHECK(d.error().code == Errc::wrong_shape);
  const auto model = test::small_model("llama");
  auto foreign = test::some_ids(60);
  foreign[59] = model.config.vocab_size;
  CHECK(divergence(model, {}, model, {}, foreign, {.context = 30}).error().code ==
        Errc::out_of_range);
}

}  // namespace
