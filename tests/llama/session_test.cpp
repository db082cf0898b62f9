// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/llama/session.hpp>
#include <cmath>

#include <bisup_test.hpp>
#include "golden_models.hpp"

namespace {

using namespace bisup;

std::vector<int> some_ids(int count) {
  std::vector<int> ids;
  for (int i = 0; i < count; ++i) ids.push_back((37 * i + 11) % 128);
  return ids;
}

Matrix<float> hidden_states(const llama::Model& model, const std::vector<int>& ids,
                            const std::vector<int>& chunks, const KvPolicy& policy,
                            ThreadPool& pool) {
  auto session = llama::Session::make(model, static_cast<int>(ids.size()), policy, pool);
  REQUIRE(session);
  Matrix<float> all(static_cast<int>(ids.size()), model.config.hidden_size);
  int first = 0;
  for (const int chunk : chunks) {
    const auto hidden = session->forward(
        std::span(ids).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(chunk)));
    for (int t = 0; t < chunk; ++t)
      std::copy_n(hidden.row_data(t), hidden.cols(), all.row(first + t).data());
    first += chunk;
  }
  REQUIRE(first == static_cast<int>(ids.size()));
  return all;
}

double largest_difference(const Matrix<float>& a, const Matrix<float>& b) {
  double worst = 0;
  for (int r = 0; r < a.rows(); ++r) {
    for (int c = 0; c < a.cols(); ++c)
      worst =
          std::max(worst, std::abs(static_cast<double>(a(r, c)) - static_cast<double>(b(r, c))));
  }
  return worst;
}

TEST_CASE("a prompt in chunks, or token by token, ends in the same hidden states") {
  ThreadPool pool(2);
  const auto ids = some_ids(40);
  for (const char* name : {"llama", "qwen3", "mistral_window"}) {
    const auto model = test::small_model(name);
    const auto whole = hidden_states(model, ids, {40}, {}, pool);
    // Products of one and of many tokens may sum in another order; three blocks of RMS-normed
    // values of size 1 amplify 2^-24 * sqrt(172) by less than a thousandfold.
    CHECK(largest_difference(whole, hidden_states(model, ids, {7, 1, 20, 12}, {}, pool)) < 1e-3);
    CHECK(largest_difference(whole, hidden_states(model, ids, std::vector<int>(40, 1), {}, pool)) <
          1e-3);
  }
}

TEST_CASE("the number of threads does not change a bit") {
  ThreadPool one(1), three(3);
  const auto ids = some_ids(33);
  const auto model = test::small_model();
  CHECK(largest_difference(hidden_states(model, ids, {33}, {}, one),
                           hidden_states(model, ids, {33}, {}, three)) == 0);
  const auto packed = round_to_nearest(model, Scheme::parse("W4A4KV4-g64").value());
  REQUIRE(packed);
  const auto policy = KvPolicy::of(packed->scheme);
  CHECK(largest_difference(hidden_states(*packed, ids, {33}, policy, one),
                           hidden_states(*packed, ids, {33}, policy, three)) == 0);
}

TEST_CASE("truncating and going on is the same as never having gone further") {
  ThreadPool pool(2);
  const auto model = test::small_model();
  const auto ids = some_ids(24);
  auto session = llama::Session::make(model, 40, {}, pool);
  REQUIRE(session);
  (void)session->forward(ids);
  (void)session->forward(std::vector<int>{5, 6, 7});
  session->truncate(24);
  CHECK(session->size() == 24);
  const auto again = session->next_logits(std::vector<int>{9});
  std::vector<float> kept(again.begin(), again.end());
  auto fresh = llama::Session::make(model, 40, {}, pool);
  REQUIRE(fresh);
  (void)fresh->forward(ids);
  const auto expected = fresh->next_logits(std::vector<int>{9});
  CHECK(std::equal(kept.begin(), kept.end(), expected.begin()));
}

// What a session over `ids` knows afterwards, as a stored prompt.
PromptCache stored_prompt(const llama::Model& model, const std::vector<int>& ids) {
  const llama::Config& c = model.config;
  PromptCache prompt(ids, c.layers, c.kv_heads, c.head_dim, DType::f32);
  auto session = llama::Session::make(model, static_cast<int>(ids.size()));
  REQUIRE(session);
  int layer = 0;
  MatrixRef<const float> keys;
  (void)session->forward(ids, [&](llama::Site site, MatrixRef<const float> x) {
    if (site == llama::Site::keys) keys = x;
    if (site == llama::Site::values) prompt.set(layer++, keys, x);
  });
  return prompt;
}

TEST_CASE("a session begins with the model's stored prompt and never forgets it") {
  ThreadPool pool(2);
  auto model = test::small_model();
  const std::vector<int> before = {9, 8, 7, 6, 5}, ids = some_ids(12);
  auto plain = llama::Session::make(model, 17, pool);
  REQUIRE(plain);
  std::vector<int> both = before;
  both.insert(both.end(), ids.begin(), ids.end());
  const auto logits = plain->next_logits(both);
  const std::vector<float> expected(logits.begin(), logits.end());

  model.prompt = stored_prompt(model, before);
  auto session = llama::Session::make(model, 17, pool);
  REQUIRE(session);
  CHECK(session->size() == 5);
  CHECK(session->prompt_tokens() == 5);
  for (const int kept : {0, 3, 5}) {
    session->truncate(kept);
    CHECK(session->size() == 5);
    const auto got = session->next_logits(ids);
    // Products of 12 and of 17 tokens may sum in another order, as in chunks.
    for (std::size_t i = 0; i < expected.size(); ++i) CHECK(std::abs(got[i] - expected[i]) < 1e-3f);
  }
  CHECK(after_prompt(both, model.prompt).data() == both.data() + 5);
  CHECK(after_prompt(before, model.prompt).size() == 5);
  CHECK(after_prompt(ids, model.prompt).size() == 12);

  // The prompt's positions come on top of the model's.
  CHECK(llama::Session::make(model, model.config.max_positions + 5));
  CHECK_FALSE(llama::Session::make(model, model.config.max_positions + 6));
  CHECK(llama::Session::make(model, 4).error().code == Errc::cache_full);
  model.kv = {.recent = 3, .keys = {4}, .values = {4}};
  CHECK(llama::Session::make(model, 9)->cache().policy() == model.kv);
}

TEST_CASE("what a session cannot hold is an error or a broken contract, never an overflow") {
  const auto model = test::small_model();
  const auto too_long = llama::Session::make(model, model.config.max_positions + 1, {});
  REQUIRE_FALSE(too_long);
  CHECK(too_long.error().code == Errc::out_of_range);
  auto session = llama::Session::make(model, 4, {});
  REQUIRE(session);
  CHECK_THROWS_AS(session->forward(some_ids(5)), ContractViolation);
  CHECK_THROWS_AS(session->forward(std::vector<int>{128}), ContractViolation);
  CHECK_THROWS_AS(session->forward(std::vector<int>{-1}), ContractViolation);
}

TEST_CASE(
    "ids of another model's tokenizer are the world's error, with the id and the vocabulary") {
  const auto model = test::small_model();
  CHECK(llama::check_ids({}, model.config));
  CHECK(llama::check_ids(std::vector<int>{0, 127}, model.config));
  for (const int id : {-1, 128, 2'000'000'000}) {
    const auto checked = llama::check_ids(std::vector<int>{0, id}, model.config);
    REQUIRE_FALSE(checked);
    CHECK(checked.error().code == Errc::out_of_range);
    CHECK(checked.error().message.find("token " + std::to_string(id) +
                                       " is none of the model's 128") == 0);
  }
}

}  // namespace
