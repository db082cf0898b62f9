// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/evaluate/divergence.hpp>
#include <bisup/evaluate/perplexity.hpp>
#include <bisup/llama/stored_prompt.hpp>
#include <cmath>
#include <cstdlib>
#include <limits>

#include <bisup_test.hpp>
#include "../llama/golden_models.hpp"
#include "golden_text.hpp"

namespace {

using namespace bisup;

TEST_CASE("a stored prompt stands before every window and is not scored") {
  auto model = test::small_model();
  const auto ids = test::some_ids(60);
  const std::vector<int> before = {3, 2, 1};
  const llama::Config& c = model.config;
  PromptCache prompt(before, c.layers, c.kv_heads, c.head_dim, DType::f32);
  double expected = 0;
  for (const int w : {0, 30}) {
    std::vector<int> all = before;
    all.insert(all.end(), ids.begin() + w, ids.begin() + w + 30);
    auto session = llama::Session::make(model, 33);
    int layer = 0;
    Matrix<float> logits(33, c.vocab_size), keys;
    const auto hidden = session->forward(all, [&](llama::Site site, MatrixRef<const float> x) {
      if (site == llama::Site::keys) {
        keys.resize(3, x.cols());
        for (int t = 0; t < 3; ++t) std::copy_n(x.row_data(t), x.cols(), keys.row(t).data());
      }
      if (site == llama::Site::values) prompt.set(layer++, keys.ref(), x.rows(0, 3));
    });
    session->logits(hidden, logits.ref());
    for (std::size_t t = 3; t < 32; ++t) {
      const auto row = std::as_const(logits).row(static_cast<int>(t));
      expected += log_sum_exp(row) - static_cast<double>(row[static_cast<std::size_t>(all[t + 1])]);
    }
  }
  model.prompt = prompt;
  const auto measured = perplexity(model, ids, {.context = 30}, model.kv);
  REQUIRE(measured);
  CHECK(measured->tokens == 58);
  // Logits of size 10 of hidden states that differ as those of a prompt in chunks do.
  CHECK(measured->nll == Approx(expected / 58).epsilon(1e-3));
  const auto twice = divergence(model, model.kv, model, model.kv, ids, {.context = 30});
  REQUIRE(twice);
  CHECK(twice->kl_mean == 0);
  CHECK(twice->model.nll == Approx(measured->nll).epsilon(1e-6));
}

TEST_CASE("positions from one on, and those before it, make the whole window") {
  const auto model = test::small_model();
  const auto ids = test::some_ids(30);
  const auto all = perplexity(model, ids, {.context = 30}, {}),
             before = perplexity(model, ids, {.context = 21, .windows = 1}, {}),
             after = perplexity(model, ids, {.context = 30, .score_from = 20}, {});
  REQUIRE(after);
  CHECK(after->tokens == 9);
  CHECK(29 * all->nll == Approx(20 * before->nll + 9 * after->nll).epsilon(1e-6));
  const auto packed = round_to_nearest(model, Scheme::parse("W4A8-g32").value());
  REQUIRE(packed);
  const auto compared = [&](WindowOptions windows) {
    return divergence(*packed, {}, model, {}, ids, windows).value();
  };
  const auto tail = compared({.context = 30, .score_from = 20});
  CHECK(tail.reference.nll == Approx(after->nll).epsilon(1e-6));
  CHECK(29 * compared({.context = 30}).kl_mean ==
        Approx(20 * compared({.context = 21, .windows = 1}).kl_mean + 9 * tail.kl_mean).epsilon(1e-6));
}

TEST_CASE("perplexity is the mean over all positions but a window's first, each window by itself") {
  const auto model = test::small_model();
  const auto ids = test::some_ids(75);
  const auto measured = perplexity(model, ids, {.context = 30}, {});
  REQUIRE(measured);
  CHECK(measured->windows == 2);
  CHECK(measured->tokens == 58);
  double total = 0;
  for (int w = 0; w < 2; ++w) {
    auto session = llama::Session::make(model, 30, {});
    REQUIRE(session);
    for (int t = 0; t < 29; ++t) {
      const auto logits =
          session->next_logits(std::vector<int>{ids[static_cast<std::size_t>(w * 30 + t)]});
      double z = 0;
      for (const float l : logits) z += std::exp(static_cast<double>(l));
      total += std::log(z) -
               static_cast<double>(
                   logits[static_cast<std::size_t>(ids[static_cast<std::size_t>(w * 30 + t + 1)])]);
    }
  }
  // token by token instead of in one pass: float32 sums in another order, as in session_test
  CHECK(measured->nll == Approx(total / 58).epsilon(1e-4));
  CHECK(measured->perplexity() == Approx(std::exp(total / 58)).epsilon(1e-3));
  CHECK(std::isfinite(measured->nll_stderr));
}

TEST_CASE("a text shorter than a window is an error; so are logits that are not finite") {
  auto model = test::small_model();
  CHECK(perplexity(model, test::some_ids(29), {.context = 30}, {}).error().code == Errc::too_short);
  CHECK(perplexity(model, {}, {.context = 30}, {}).error().code == Errc::too_short);
  auto foreign = test::some_ids(30);
  foreign[7] = model.config.vocab_size;
  CHECK(perplexity(model, foreign, {.context = 30}, {}).error().code == Errc::out_of_range);
  model.final_norm[0] = std::numeric_limits<float>::quiet_NaN();
  const auto broken = perplexity(model, test::some_ids(30), {.context = 30}, {});
  REQUIRE_FALSE(broken);
  CHECK(broken.error().code == Errc::not_finite);
}

TEST_CASE("progress counts windows and can stop") {
  const auto model = test::small_model();
  int calls = 0;
  const auto stopped = perplexity(model, test::some_ids(90), {.context = 30}, {},
                                  ThreadPool::shared(), [&](int done, int all) {
                                    CHECK(all == 3);
                                    return ++calls, done < 2;
                                  });
  CHECK(calls == 2);
  REQUIRE_FALSE(stopped);
  CHECK(stopped.error().code == Errc::interrupted);
}

TEST_CASE("packed and simulated perplexity agree within half a percent") {
  const auto model = test::small_model();
  const auto ids = test::some_ids(120);
  for (const char* text : {"W8A8KV8-g32", "W4A8KV8-g32", "W3A16-g32"}) {
    const auto scheme = Scheme::parse(text).value();
    const auto packed = round_to_nearest(model, scheme);
    const auto simulated = simulate(model, scheme);
    REQUIRE(packed);
    REQUIRE(simulated);
    const auto policy = KvPolicy::of(scheme);
    const auto a = perplexity(*packed, ids, {.context = 60}, policy),
               b = perplexity(*simulated, ids, {.context = 60}, policy);
    REQUIRE(a);
    REQUIRE(b);
    CHECK(a->perplexity() == Approx(b->perplexity()).epsilon(0.005));
    CHECK(a->nll != perplexity(model, ids, {.context = 60}, {})->nll);
  }
}

TEST_CASE("the tiny Llama: ids, logits, greedy text and NLL are those of transformers") {
  test::check_real_model(BISUP_SOURCE_DIR "/examples/tiny_llama", "tests/oracle/perplexity.json",
                         12);
}

// tests/oracle/run.sh fetches the model and runs this; it is hidden from a plain run.
TEST_CASE("SmolLM2: ids, logits, greedy text and NLL are those of transformers", "[.smollm2]") {
  const char* path = std::getenv("BISUP_SMOLLM2");
  REQUIRE(path != nullptr);
  test::check_real_model(path, "tests/oracle/smollm2.json", 0);
}

TEST_CASE("what a prompt has said is not said again, and not scored") {
  auto model = test::small_model();
  const auto plain = test::small_model();
  auto ids = test::some_ids(60);
  const int bos = ids[0];
  model.prompt = llama::store_prompt(model, std::vector<int>{bos}, DType::f32).value();
  const auto measured = perplexity(model, ids, {.context = 30}, {});
  REQUIRE(measured);
  CHECK(measured->tokens == 57);
  // The first window is the plain model's but for what follows BOS; keys and values are the same
  // floats.
  auto session = llama::Session::make(plain, 30);
  Matrix<float> logits(30, plain.config.vocab_size);
  session->logits(session->forward(std::span(ids).first(30)), logits.ref());
  double expected = 0;
  for (std::size_t t = 1; t < 29; ++t) {
    const auto row = std::as_const(logits).row(static_cast<int>(t));
    expected +=
        (log_sum_exp(row) - static_cast<double>(row[static_cast<std::size_t>(ids[t + 1])])) / 28;
  }
  CHECK(measured->window_nll[0] == Approx(expected).epsilon(1e-3));
  // Behind a longer prompt BOS is taken off if it is known to be one.
  model.prompt = llama::store_prompt(model, std::vector<int>{4, 5}).value();
  CHECK(perplexity(model, ids, {.context = 30}, {})->tokens == 58);
  CHECK(perplexity(model, ids, {.context = 30, .bos = bos}, {})->tokens == 57);
  // A reference without a prompt scores the same positions.
  const auto both = divergence(model, {}, plain, {}, ids, {.context = 30, .bos = bos});
  REQUIRE(both);
  CHECK(both->model.tokens == 57);
  CHECK(both->reference.window_nll[0] == Approx(expected).epsilon(1e-6));
  CHECK(both->model.window_nll[0] ==
        Approx(perplexity(model, ids, {.context = 30, .bos = bos}, {})->window_nll[0]));
}

}  // namespace
