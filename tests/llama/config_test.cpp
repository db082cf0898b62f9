// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/llama/config.hpp>

#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup;
using llama::Config;

Config valid() {
  Config c;
  c.architecture = "llama", c.hidden_size = 64, c.intermediate_size = 172, c.layers = 5,
  c.heads = 8;
  c.kv_heads = 4, c.head_dim = 8, c.vocab_size = 512, c.max_positions = 512;
  c.bos_id = 1, c.eos_ids = {2, 511};
  return c;
}

TEST_CASE("a model's numbers are accepted, those that need not agree among them") {
  CHECK(valid().validate());
  auto wide = valid();
  wide.head_dim = 128, wide.sliding_window = 4096;  // Qwen3's heads are wider than hidden / heads
  CHECK(wide.validate());
}

TEST_CASE("one wrong number is named") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  using Kind = llama::RopeScalingKind;
  const std::vector<std::pair<const char*, std::function<void(Config&)>>> changes = {
      {"hidden_size", [](Config& c) { c.hidden_size = 0; }},
      {"intermediate_size", [](Config& c) { c.intermediate_size = -1; }},
      {"layers", [](Config& c) { c.layers = 0; }},
      {"layers", [](Config& c) { c.layers = 1 << 30; }},
      {"heads", [](Config& c) { c.heads = 0; }},
      {"kv heads", [](Config& c) { c.kv_heads = 0; }},
      {"kv heads", [](Config& c) { c.kv_heads = 3; }},
      {"kv heads", [](Config& c) { c.kv_heads = 16; }},
      {"head_dim", [](Config& c) { c.head_dim = 7; }},
      {"head_dim", [](Config& c) { c.head_dim = 0; }},
      {"vocab_size", [](Config& c) { c.vocab_size = 0; }},
      {"positions", [](Config& c) { c.max_positions = 0; }},
      {"epsilon", [](Config& c) { c.norm_eps = 0; }},
      {"epsilon", [=](Config& c) { c.norm_eps = nan; }},
      {"rope_theta", [](Config& c) { c.rope_theta = 0; }},
      {"rope_theta", [](Config& c) { c.rope_theta = HUGE_VAL; }},
      {"rope_theta", [=](Config& c) { c.rope_theta = nan; }},
      {"rope factor",
       [](Config& c) {
         c.rope_factors = {1, 2, 3};
       }},
      {"rope factor",
       [](Config& c) {
         c.rope_factors = {1, 2, 3, 0};
       }},
      {"rope factor",
       [=](Config& c) {
         c.rope_factors = {1, 2, 3, nan};
       }},
      {"sliding_window", [](Config& c) { c.sliding_window = 0; }},
      {"bos id 512", [](Config& c) { c.bos_id = 512; }},
      {"eos id -1",
       [](Config& c) {
         c.eos_ids = {2, -1};
       }},
      {"factor", [](Config& c) { c.rope_scaling = {.kind = Kind::linear, .factor = 0.5}; }},
      {"factor", [=](Config& c) { c.rope_scaling = {.kind = Kind::linear, .factor = nan}; }},
      {"original_max", [](Config& c) { c.rope_scaling = {.kind = Kind::yarn, .factor = 2}; }},
      {"low_freq_factor",
       [](Config& c) {
         c.rope_scaling = {.kind = Kind::llama3,
                           .factor = 8,
                           .low_frequency_factor = 4,
                           .high_frequency_factor = 1,
                           .original_max_positions = 256};
       }},
      {"beta",
       [](Config& c) {
         c.rope_scaling = {.kind = Kind::yarn,
                           .factor = 2,
                           .original_max_positions = 256,
                           .beta_fast = 1,
                           .beta_slow = 32};
       }},
  };
  for (const auto& [word, change] : changes) {
    auto config = valid();
    change(config);
    const auto result = config.validate();
    INFO(word);
    REQUIRE_FALSE(result);
    CHECK(result.error().code == Errc::out_of_range);
    CHECK(result.error().message.find(word) != std::string::npos);
  }
}

}  // namespace
