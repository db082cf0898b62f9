// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/calibrator.hpp>
#include <bisup/calibrate/prompt_recorder.hpp>
#include <bisup/calibrate/simulated.hpp>
#include <bisup/llama/stored_prompt.hpp>
#include <bisup/tune/block_gradient.hpp>
#include <cmath>

#include <bisup_test.hpp>
#include <calibrate/tiny_llama.hpp>

namespace {

using namespace bisup;

const std::vector<Recipe> bases = {recipes::gptq, recipes::smoothquant, recipes::atom,
                                   recipes::quarot};

std::vector<int> first_ids(int count) {
  const auto ids = test::tiny_text();
  return {ids.begin(), ids.begin() + count};
}

llama::Model calibrated_model(const Recipe& recipe, const char* scheme,
                              const CalibrateOptions& options, ThreadPool& pool) {
  NoStore store;
  auto done = calibrate(test::tiny_source(), Scheme::parse(scheme).value(), recipe,
                        test::tiny_samples(2, 64), options, store, pool);
  if (!done) FAIL(recipe.name << ": " << done.error().describe());
  return std::move(done->model);
}

std::vector<float> logits_after(const llama::Model& model, std::span<const int> ids) {
  auto session = llama::Session::make(model, 64);
  REQUIRE(session);
  const auto logits = session->next_logits(ids);
  return {logits.begin(), logits.end()};
}

double largest(std::span<const float> values) {
  double most = 0;
  for (const float v : values) most = std::max(most, static_cast<double>(std::fabs(v)));
  return most;
}
double largest_difference(std::span<const float> a, std::span<const float> b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    most = std::max(most, std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  return most;
}

TEST_CASE("what is recorded is what a session of the float model knows") {
  ThreadPool pool(2);
  const auto ids = first_ids(12);
  const auto model = llama::read_model(test::tiny_source()).value();
  for (const Recipe& recipe : bases) {
    // Without the basis the oracle is the float model itself; with it, the model that is in that
    // basis and rounds nothing, but for embeddings in f16.
    const auto basis = recipe.basis == Basis::rotated
                           ? calibrated_model(recipe, "W16A16-head16", {}, pool)
                           : model;
    const PromptCache expected = llama::store_prompt(basis, ids, DType::f32, pool).value();
    const PromptCache recorded =
        calibrated_model(recipe, "W4A4KV4-g32", {.prompt = ids}, pool).prompt;
    REQUIRE(recorded.tokens() == 12);
    CHECK(std::equal(ids.begin(), ids.end(), recorded.ids().begin()));
    for (int layer = 0; layer < recorded.layers(); ++layer) {
      INFO(recipe.name << ", layer " << layer);
      for (const auto& [ours, theirs] :
           {std::pair(recorded.keys(layer), expected.keys(layer)),
            std::pair(recorded.values(layer), expected.values(layer))}) {
        double difference = 0, power = 0;
        for (int t = 0; t < 12; ++t) {
          for (int i = 0; i < recorded.width(); ++i) {
            difference +=
                std::pow(static_cast<double>(ours(t, i)) - static_cast<double>(theirs(t, i)), 2);
            power += std::pow(static_cast<double>(theirs(t, i)), 2);
          }
        }
        // Rounded to f16 once (2^-11 at most), and in the other basis the embeddings too.
        CHECK(std::sqrt(difference / power) < 0x1p-11 * (recipe.basis == Basis::rotated ? 4 : 1));
      }
    }
  }
}

TEST_CASE(
    "a model that rounds nothing answers behind its prompt as the float model behind its words") {
  ThreadPool pool(2);
  const auto all = first_ids(40);
  const std::vector<int> prompt(all.begin(), all.begin() + 12);
  const auto exact = logits_after(llama::read_model(test::tiny_source()).value(), all);
  const auto without =
      logits_after(llama::read_model(test::tiny_source()).value(), std::span(all).subspan(12));
  const double size = largest(exact);
  // As without a prompt (calibrator_test.cpp): f16 embeddings and lm_head; keys and values in f16
  // are one more rounding of the same size in each of four blocks.
  const double bound = 2 * 16 * 0x1p-12 * size;
  REQUIRE(largest_difference(exact, without) > 4 * bound);
  for (const Recipe& recipe : bases) {
    const auto model = calibrated_model(recipe, "W16A16-head16", {.prompt = prompt}, pool);
    const double difference =
        largest_difference(logits_after(model, std::span(all).subspan(12)), exact);
    INFO(recipe.name << ": " << difference / size);
    CHECK(difference < bound);
  }
}

TEST_CASE("the tuner's block behind a prompt is the packed block behind it") {
  ThreadPool pool(2);
  constexpr int tokens = 24;
  const auto ids = first_ids(9);
  for (Recipe recipe : {recipes::gptq, recipes::quarot}) {
    recipe.kv_clip = {0.9f};  // which has a logit: the tuner's clips are the cache's
    const auto model = calibrated_model(recipe, "W4A16KV4-g32", {.prompt = ids}, pool);
    const auto& c = model.config;
    PromptCache one(ids, 1, c.kv_heads, c.head_dim);
    put_layer(model.prompt, 0, one);
    KvPolicy policy = model.kv;
    policy.table.resize(static_cast<std::size_t>(c.kv_heads));  // layer 0
    REQUIRE(policy.table[0].keys.bits == 4);
    const llama::RopeTable rope(c, 9 + tokens);
    auto pass = BlockPass::make(c, rope, tokens, policy, one, pool);
    REQUIRE(pass);
    const auto text = test::tiny_judge();
    Matrix<float> x(tokens, c.hidden_size);
    llama::embed(model, std::span(text).first(tokens), x.ref());
    Matrix<float> packed = x.clone(), tuned(tokens, c.hidden_size), alone(tokens, c.hidden_size);
    pass->run(model.blocks[0], packed.ref());

    auto block = simulated<float>(model.blocks[0], model.block_shape(),
                                  model.kv.entry(0, 0, c.kv_heads), model.kv, pool);
    tune::BlockActivations<float> a;
    const tune::RopeAngleTable<float> at_once(c, 0, tokens), behind(c, 9, tokens);
    tune::forward<float>(block, at_once.view(), x.ref(), a, alone.ref(), pool);
    begin_with(block.cache, model.prompt, 0);
    CHECK(block.cache.prompt() == 9);
    tune::forward<float>(block, behind.view(), x.ref(), a, tuned.ref(), pool);
    double error = 0, wrong = 0, power = 0;
    for (int t = 0; t < tokens; ++t) {
      for (int i = 0; i < c.hidden_size; ++i) {
        const double y = static_cast<double>(packed(t, i));
        error += std::pow(static_cast<double>(tuned(t, i)) - y, 2);
        wrong += std::pow(static_cast<double>(alone(t, i)) - y, 2);
        power += y * y;
      }
    }
    INFO(recipe.name << ": " << std::sqrt(error / power) << ", without "
                     << std::sqrt(wrong / power));
    // Sums in another order, and where that moves a key or value across a tie, one code of 4 bits.
    CHECK(std::sqrt(error / power) < 2e-3);
    CHECK(std::sqrt(wrong / power) > 10 * std::sqrt(error / power));
  }
}

TEST_CASE("a prompt of few bits is the recorded one, rounded; the teacher's stays exact") {
  ThreadPool pool(2);
  const auto ids = first_ids(10);
  for (const Recipe& recipe : {recipes::atom, recipes::quarot}) {
    const auto exact = calibrated_model(recipe, "W4A4KV4-g32", {.prompt = ids}, pool);
    const auto few =
        calibrated_model(recipe, "W4A4KV4-g32", {.prompt = ids, .prompt_bits = 3}, pool);
    KvPolicy policy = exact.kv;
    policy.table.clear();
    const PromptCache expected = rounded_prompt(exact.prompt, policy, 3);
    for (int layer = 0; layer < expected.layers(); ++layer) {
      for (int t = 0; t < 10; ++t) {
        for (int i = 0; i < expected.width(); ++i) {
          REQUIRE(few.prompt.keys(layer)(t, i) == expected.keys(layer)(t, i));
          REQUIRE(few.prompt.values(layer)(t, i) == expected.values(layer)(t, i));
        }
      }
    }
    CHECK(few.prompt.keys(1)(5, 3) != exact.prompt.keys(1)(5, 3));
  }
}

TEST_CASE("a tuned model with a prompt does not depend on the number of threads") {
  ThreadPool one(1), three(3);
  Recipe recipe = *find_recipe("bisup_quarot");
  recipe.tuning = {.rank = 4, .length = 32, .block_steps = 2, .end_to_end_steps = 2};
  const CalibrateOptions options{.prompt = first_ids(7)};
  const auto text = test::tiny_judge();
  const auto request = std::span(text).first(20);
  const auto a = logits_after(calibrated_model(recipe, "W4A4KV4-g32", options, one), request);
  CHECK(a == logits_after(calibrated_model(recipe, "W4A4KV4-g32", options, three), request));
}

TEST_CASE("blocks are calibrated behind the prompt") {
  ThreadPool pool(2);
  const auto text = test::tiny_judge();
  const auto request = std::span(text).first(20);
  for (const Recipe& recipe : {recipes::atom, recipes::quarot}) {
    const auto with = calibrated_model(recipe, "W4A4KV4-g32", {.prompt = first_ids(7)}, pool);
    auto moved = calibrated_model(recipe, "W4A4KV4-g32", {}, pool);
    moved.prompt = with.prompt;
    CHECK(logits_after(with, request) != logits_after(moved, request));
  }
}

TEST_CASE("a prompt that the model cannot read is refused before anything long") {
  NoStore store;
  const auto refused = [&](std::vector<int> ids) {
    const auto done =
        calibrate(test::tiny_source(), Scheme::parse("W4A4-g32").value(), recipes::gptq,
                  test::tiny_samples(1, 32), {.prompt = std::move(ids)}, store);
    REQUIRE_FALSE(done);
    CHECK(done.error().code == Errc::out_of_range);
    return done.error().message;
  };
  CHECK(refused(std::vector<int>(513, 3)) == "a prompt of 513 tokens; the model has 512 positions");
  CHECK(refused({3, 1 << 20}).find("token 1048576") == 0);
  CHECK(refused({-1}).find("token -1") == 0);
  const auto config = test::tiny_source().config();
  CHECK(check_prompt_length(512, config));
}

}  // namespace
