// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/llama/stored_prompt.hpp>
#include <cmath>

#include <bisup_test.hpp>
#include "golden_models.hpp"

namespace {

using namespace bisup;

TEST_CASE("a stored prompt is what a session over its ids knows, piece by piece too") {
  auto model = test::small_model();
  const std::vector<int> first = {9, 8, 7}, second = {6, 5}, request = {1, 2, 3, 4};
  std::vector<int> all = {9, 8, 7, 6, 5, 1, 2, 3, 4};
  auto plain = llama::Session::make(model, 9);
  const auto logits = plain->next_logits(all);
  const std::vector<float> expected(logits.begin(), logits.end());
  model.prompt = llama::store_prompt(model, first, DType::f32).value();
  CHECK(model.prompt.tokens() == 3);
  const auto longer = llama::store_prompt(model, second, DType::f32);
  REQUIRE(longer);
  CHECK(longer->tokens() == 5);
  model.prompt = *longer;
  auto session = llama::Session::make(model, 9);
  const auto got = session->next_logits(request);
  // As a prompt in chunks (session_test.cpp).
  for (std::size_t i = 0; i < expected.size(); ++i) CHECK(std::abs(got[i] - expected[i]) < 1e-3f);
  const std::vector<int> strange = {128};
  CHECK(llama::store_prompt(model, strange).error().code == Errc::out_of_range);
}

TEST_CASE("a reference begins with the same tokens as the model, read by itself") {
  auto model = test::small_model(), reference = test::small_model();
  const std::vector<int> ids = {9, 8, 7}, others = {4, 5};
  CHECK(llama::share_prompt(model, reference));
  CHECK(reference.prompt.empty());
  auto& q = reference.blocks[0].v;
  Matrix<float> weights = llama::as_matrix(q.dense()->view);
  for (int r = 0; r < weights.rows(); ++r) {
    for (float& w : weights.row(r)) w *= 2;
  }
  q = llama::AnyLinear(llama::dense_tensor(std::move(weights)), q.bias());
  model.prompt = llama::store_prompt(model, ids).value();
  reference.prompt = llama::store_prompt(reference, others).value();
  REQUIRE(llama::share_prompt(model, reference));
  CHECK(std::equal(ids.begin(), ids.end(), reference.prompt.ids().begin(),
                   reference.prompt.ids().end()));
  CHECK(reference.prompt.values(0)(2, 1) != model.prompt.values(0)(2, 1));
  const auto* before = reference.prompt.values(0).data;
  REQUIRE(llama::share_prompt(model, reference));
  CHECK(reference.prompt.values(0).data == before);
  model.prompt = {};
  REQUIRE(llama::share_prompt(model, reference));
  CHECK(reference.prompt.empty());
}

}  // namespace
