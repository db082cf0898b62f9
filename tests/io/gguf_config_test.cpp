// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/io/gguf_config.hpp>

#include <functional>
#include <string>
#include <vector>

#include <bisup_test.hpp>

#include "gguf_builder.hpp"
#include "scratch_folder.hpp"

namespace {

using namespace bisup;
using namespace bisup::io;
using Change = std::function<void(GgufBuilder&)>;

// A model's metadata without the keys in `without`, then `change`.
Result<llama::Config> config_without(const std::string& without, const Change& change = {},
                                     const std::string& architecture = "llama") {
  const ScratchFolder folder;
  GgufBuilder file;
  const std::string prefix = architecture + ".";
  const auto add = [&](const std::string& key, std::uint32_t value) {
    if (key != without) file.u32(key.starts_with("tok") ? key : prefix + key, value);
  };
  if (without != "general.architecture") file.text("general.architecture", architecture);
  add("embedding_length", 64), add("feed_forward_length", 96), add("block_count", 2);
  add("attention.head_count", 4), add("attention.head_count_kv", 2), add("context_length", 128);
  add("tokenizer.ggml.bos_token_id", 1), add("tokenizer.ggml.eos_token_id", 2);
  if (without != "epsilon") file.f32(prefix + "attention.layer_norm_rms_epsilon", 1e-5f);
  if (without != "token_embd")
    file.tensor("token_embd.weight", {64, 10}, 0, std::string(2560, 'e'));
  if (change) change(file);
  return read_gguf_config(Gguf::open(folder.write("m.gguf", file.bytes())).value());
}

TEST_CASE("the metadata of a llama") {
  const auto config = config_without("");
  REQUIRE(config);
  CHECK((config->hidden_size == 64 && config->intermediate_size == 96 && config->layers == 2));
  CHECK((config->heads == 4 && config->kv_heads == 2 && config->head_dim == 16));
  CHECK((config->vocab_size == 10 && config->max_positions == 128 && config->norm_eps == 1e-5f));
  CHECK((config->rope_theta == 10000 && config->tied_embeddings && config->bos_id == 1));
  CHECK(config->eos_ids == std::vector<int>{2});
  CHECK_FALSE(
      (config->attention_bias || config->output_bias || config->mlp_bias || config->qk_norm));
  CHECK(config_without("attention.head_count_kv")->kv_heads == 4);
}

TEST_CASE("what keys and tensors change") {
  const auto with = [](const Change& change, const char* architecture = "llama") {
    return config_without("", change, architecture).value();
  };
  CHECK(with([](auto& f) { f.f32("llama.rope.freq_base", 5e5f); }).rope_theta == 5e5);
  CHECK(with([](auto& f) {
          f.u32("llama.attention.key_length", 32).u32("llama.attention.value_length", 32);
        }).head_dim == 32);
  CHECK(with([](auto& f) { f.u32("tokenizer.ggml.eot_token_id", 7); }).eos_ids ==
        std::vector<int>{2, 7});
  const std::string bias(256, 'b');
  CHECK(
      with([&](auto& f) { f.tensor("blk.0.attn_q.bias", {64}, 0, bias); }, "qwen2").attention_bias);
  CHECK(with([&](auto& f) { f.tensor("blk.0.attn_output.bias", {64}, 0, bias); }).output_bias);
  CHECK_FALSE(with([&](auto& f) { f.tensor("output.weight", {64}, 0, bias); }).tied_embeddings);
  CHECK(with({}, "qwen3").qk_norm);
  const auto linear = with([](auto& f) {
    f.text("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 4);
  });
  CHECK((linear.rope_scaling.kind == llama::RopeScalingKind::linear &&
         linear.rope_scaling.factor == 4));
  const auto yarn = with([](auto& f) {
    f.text("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 2);
    f.u32("llama.rope.scaling.original_context_length", 64);
  });
  CHECK((yarn.rope_scaling.kind == llama::RopeScalingKind::yarn &&
         yarn.rope_scaling.original_max_positions == 64));
  std::string factors;
  for (int i = 1; i <= 8; ++i) factors += GgufBuilder::raw(static_cast<float>(i));
  const auto llama3 = with([&](auto& f) { f.tensor("rope_freqs.weight", {8}, 0, factors); });
  CHECK(llama3.rope_factors == std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8});
}

TEST_CASE("a model that is incomplete or not computed is refused by name") {
  for (const char* key :
       {"general.architecture", "embedding_length", "feed_forward_length", "block_count",
        "attention.head_count", "context_length", "epsilon", "token_embd"}) {
    INFO(key);
    const auto config = config_without(key);
    REQUIRE_FALSE(config);
    CHECK(config.error().code == Errc::missing);
    CHECK(config.error().where.ends_with("m.gguf"));
  }
  CHECK(config_without("", {}, "gemma").error().code == Errc::unsupported);
  const std::vector<std::pair<const char*, Change>> changes = {
      {"unsupported", [](auto& f) { f.u32("llama.expert_count", 8); }},
      {"unsupported", [](auto& f) { f.u32("llama.rope.dimension_count", 8); }},
      {"unsupported", [](auto& f) { f.u32("llama.attention.value_length", 8); }},
      {"unsupported", [](auto& f) { f.text("llama.rope.scaling.type", "longrope"); }},
      {"malformed", [](auto& f) { f.u32("llama.rope.scaling.type", 1); }},
      {"malformed", [](auto& f) { f.text("llama.rope.freq_base", "10000"); }},
      {"missing", [](auto& f) { f.text("llama.rope.scaling.type", "linear"); }},
      {"out of range", [](auto& f) { f.f32("llama.rope.freq_base", -1); }},
      {"out of range",
       [](auto& f) { f.value("llama.rope.freq_base", 6, GgufBuilder::raw(0x7fc00000u)); }},
      {"out of range", [](auto& f) { f.u32("llama.attention.key_length", ~0u); }},
      {"out of range", [](auto& f) { f.u32("tokenizer.ggml.eot_token_id", 10); }},
      {"out of range", [](auto& f) { f.u32("tokenizer.ggml.eot_token_id", ~0u); }},
      {"wrong shape", [](auto& f) { f.tensor("rope_freqs.weight", {4}, 0, std::string(16, 'f')); }},
      {"out of range",
       [](auto& f) { f.tensor("rope_freqs.weight", {8}, 0, std::string(32, '\0')); }},
  };
  for (const auto& [code, change] : changes) {
    const auto config = config_without("", change);
    REQUIRE_FALSE(config);
    INFO(config.error().describe());
    CHECK(std::string(name(config.error().code)) == code);
    CHECK(config.error().where.ends_with("m.gguf"));
  }
  const auto mixed = config_without("attention.head_count", [](auto& f) {
    f.array("llama.attention.head_count", 4, 2, GgufBuilder::raw(4u) + GgufBuilder::raw(8u));
  });
  CHECK_FALSE(mixed);
}

}  // namespace
