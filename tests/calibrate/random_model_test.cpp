// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/random_model.hpp>
#include <bisup/llama/session.hpp>
#include <bisup/pack/layout.hpp>
#include <bisup_test.hpp>
#include <cmath>
#include <cstring>
#include <vector>

namespace {

using namespace bisup;

llama::Config small() {
  llama::Config c;
  c.hidden_size = 128, c.intermediate_size = 160, c.layers = 1, c.heads = 2, c.kv_heads = 1;
  c.head_dim = 64, c.vocab_size = 96, c.max_positions = 16;
  return c;
}

llama::Model made(const char* scheme, ThreadPool& pool, std::uint64_t seed = 0) {
  return random_model(small(), Scheme::parse(scheme).value(), pool, seed).value();
}

std::span<const std::uint8_t> codes(const llama::AnyLinear& linear) {
  return {linear.packed()->panels().codes, linear.packed()->shape().code_bytes()};
}

bool equal(std::span<const std::uint8_t> a, std::span<const std::uint8_t> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

TEST_CASE("random weights depend on the seed and not on the threads") {
  ThreadPool one(1), three(3);
  const auto a = made("W4A8-g64", one), b = made("W4A8-g64", three), c = made("W4A8-g64", one, 1);
  REQUIRE(equal(codes(a.blocks[0].down), codes(b.blocks[0].down)));
  REQUIRE_FALSE(equal(codes(a.blocks[0].down), codes(c.blocks[0].down)));
  REQUIRE_FALSE(equal(codes(a.blocks[0].gate), codes(a.blocks[0].up)));
  REQUIRE(a.embedding.view(7, 9) == b.embedding.view(7, 9));
}

TEST_CASE("no symmetric 8-bit code is -128") {
  ThreadPool pool(2);
  const auto model = made("W8A8-g64", pool);
  int smallest = 255;
  for (const std::uint8_t code : codes(model.blocks[0].down))
    smallest = std::min<int>(smallest, code);
  // 20480 codes of 255 values: the least has probability 1 - (254/255)^20480 > 1 - 1e-34 to be
  // there.
  REQUIRE(smallest == 1);
}

TEST_CASE("random models run, and their logits are of the size of numbers") {
  ThreadPool pool(2);
  for (const char* scheme :
       {"W16A16", "W8A8-g64", "W4A4KV4-g64-head8", "W3A8-g32-affine", "W2A16-channel"}) {
    CAPTURE(scheme);
    const auto model = made(scheme, pool);
    auto session = llama::Session::make(model, 16, KvPolicy::of(model.scheme), pool);
    REQUIRE(session);
    const std::vector<int> ids = {1, 2, 3, 4, 5};
    double squares = 0;
    for (const float x : session->next_logits(ids)) squares += static_cast<double>(x) * x;
    // A normed vector of 128 times weights of variance 1 / 128: variance 1 before rounding; 96
    // draws.
    REQUIRE(squares / 96 > 0.2);
    REQUIRE(squares / 96 < 5);
  }
}

}  // namespace
