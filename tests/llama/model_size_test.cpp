// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/random_model.hpp>
#include <bisup/llama/model_size.hpp>
#include <bisup_test.hpp>

namespace {

using namespace bisup;

llama::Config small(bool tied) {
  llama::Config c;
  c.hidden_size = 64, c.intermediate_size = 96, c.layers = 2, c.heads = 2, c.kv_heads = 1;
  c.head_dim = 32, c.vocab_size = 48, c.max_positions = 16, c.tied_embeddings = tied;
  return c;
}

// Per block: q 64x64, k and v 32x64, o 64x64, gate and up 96x64, down 64x96.
constexpr std::size_t block_weights = 64 * 64 * 2 + 2 * 32 * 64 + 3 * 96 * 64;
constexpr std::size_t norms = 2 * 2 * 64 + 64;
constexpr std::size_t table = 48 * 64;

llama::ModelSize size_of(bool tied, const char* scheme) {
  return llama::model_size(random_model(small(tied), Scheme::parse(scheme).value()).value());
}

TEST_CASE("a float model counts every parameter once") {
  const auto tied = size_of(true, "W16A16"), untied = size_of(false, "W16A16");
  REQUIRE(tied.parameters == 2 * block_weights + norms + table);
  REQUIRE(untied.parameters == tied.parameters + table);
  REQUIRE(tied.bytes == 2 * (2 * block_weights + table) + 4 * norms);
  REQUIRE(untied.bytes == tied.bytes + 2 * table);
  REQUIRE(tied.bits_per_weight() == 16.0);
  // Decoding reads the head but one row of an embedding of its own.
  REQUIRE(untied.token_bytes == tied.token_bytes);
}

TEST_CASE("bits per weight count scales, zero points and padding") {
  // Rows of 64: one f16 scale for 64 codes. Rows of 96 (down): two groups, of 64 and of 32 codes.
  const double scales = 16.0 * (2 * (64 * 64 * 2 + 2 * 32 * 64 + 2 * 96 * 64) / 64.0 + 2 * 64 * 2);
  const auto four = size_of(true, "W4A16-g64");
  REQUIRE(four.linear_weights == 2 * block_weights);
  REQUIRE(four.bits_per_weight() == Approx(4 + scales / (2.0 * block_weights)).epsilon(1e-12));
  const auto affine = size_of(true, "W4A16-g64-affine");
  REQUIRE(affine.bits_per_weight() ==
          Approx(4 + 1.5 * scales / (2.0 * block_weights)).epsilon(1e-12));
}

TEST_CASE("a packed head counts among the quantized weights and once among the parameters") {
  const auto head16 = size_of(true, "W4A16-g64"), head8 = size_of(true, "W4A16-g64-head8");
  REQUIRE(head8.parameters == head16.parameters);
  REQUIRE(head8.linear_weights == head16.linear_weights + table);
  REQUIRE(head8.bytes == head16.bytes + table + 48 * 2);  // beside the embedding: codes and scales
}

TEST_CASE("a learned bias is part of the weights' bits, the float model's own is a parameter") {
  for (const bool own : {false, true}) {
    auto model = random_model(small(true), Scheme::parse("W4A16-g64").value()).value();
    const auto before = llama::model_size(model);
    model.config.mlp_bias = own;
    for (auto& block : model.blocks) block.up.set_bias(std::vector<float>(96, 1.0f));
    const auto after = llama::model_size(model);
    constexpr std::size_t biases = 2 * 96;
    CHECK(after.bytes == before.bytes + 4 * biases);
    CHECK(after.linear_bytes == before.linear_bytes + (own ? 0 : 4 * biases));
    CHECK(after.parameters == before.parameters + (own ? biases : 0));
  }
}

TEST_CASE("a stored prompt is paid for by the weights that it makes usable") {
  auto model = random_model(small(true), Scheme::parse("W4A16-g64").value()).value();
  const auto before = llama::model_size(model);
  model.prompt = PromptCache({1, 2, 3}, 2, 1, 32);
  const auto after = llama::model_size(model);
  constexpr std::size_t prompt = 3 * 2 * 2 * 32 * 2;  // tokens, layers, keys and values of 32, in f16
  CHECK(after.bytes == before.bytes + prompt);
  CHECK(after.linear_bytes == before.linear_bytes + prompt);
  CHECK(after.parameters == before.parameters);
}

}  // namespace
