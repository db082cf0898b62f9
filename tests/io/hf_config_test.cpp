// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/io/hf_config.hpp>

#include <string>
#include <utility>
#include <vector>

#include <bisup/core/random.hpp>
#include <bisup_test.hpp>

#include "scratch_folder.hpp"

namespace {

using namespace bisup;
using namespace bisup::io;

Json valid_config(const std::string& type = "llama") {
  return {{"architectures", {"AnyForCausalLM"}},
          {"model_type", type},
          {"hidden_act", "silu"},
          {"hidden_size", 128},
          {"intermediate_size", 384},
          {"num_hidden_layers", 4},
          {"num_attention_heads", 8},
          {"num_key_value_heads", 4},
          {"vocab_size", 2048},
          {"max_position_embeddings", 512},
          {"rms_norm_eps", 1e-6},
          {"bos_token_id", 1},
          {"eos_token_id", 2},
          {"rope_theta", 10000.0},
          {"tie_word_embeddings", true}};
}
Json with(Json config, const char* key, Json value) {
  return config[key] = std::move(value), config;
}
Json without(Json config, const char* key) {
  return config.erase(key), config;
}

struct ConfigFolder : ScratchFolder {
  Result<llama::Config> read(const Json& config) const {
    return read_hf_config(write("config.json", config.dump()));
  }
};

TEST_CASE("the fields of a llama") {
  const ConfigFolder folder;
  const auto config = folder.read(valid_config());
  REQUIRE(config);
  CHECK(config->architecture == "llama");
  CHECK((config->hidden_size == 128 && config->intermediate_size == 384 && config->layers == 4));
  CHECK((config->heads == 8 && config->kv_heads == 4 && config->head_dim == 16));
  CHECK((config->vocab_size == 2048 && config->max_positions == 512));
  CHECK(config->norm_eps == 1e-6f);
  CHECK(config->rope_theta == 10000.0);
  CHECK(config->rope_scaling == llama::RopeScaling{});
  CHECK((config->tied_embeddings && config->bos_id == 1));
  CHECK(config->eos_ids == std::vector<int>{2});
  CHECK_FALSE(
      (config->attention_bias || config->output_bias || config->mlp_bias || config->qk_norm));
  CHECK_FALSE(config->sliding_window);
}

TEST_CASE("what is absent means what transformers makes of it") {
  const ConfigFolder folder;
  Json config = valid_config();
  for (const char* key : {"num_key_value_heads", "rms_norm_eps", "bos_token_id", "eos_token_id",
                          "rope_theta", "tie_word_embeddings", "hidden_act"}) {
    config.erase(key);
  }
  config["head_dim"] = nullptr, config["rope_scaling"] = nullptr;
  const auto read = folder.read(config);
  REQUIRE(read);
  CHECK((read->kv_heads == 8 && read->head_dim == 16 && read->norm_eps == 1e-6f));
  CHECK((read->rope_theta == 10000.0 && !read->tied_embeddings && !read->bos_id));
  CHECK(read->eos_ids.empty());
  CHECK(folder.read(valid_config("qwen3"))->head_dim == 128);
  CHECK(folder.read(with(valid_config("qwen3"), "head_dim", 32))->head_dim == 32);
}

TEST_CASE("biases and norms belong to the architecture") {
  const ConfigFolder folder;
  const auto flags = [&](const Json& config) {
    const auto c = folder.read(config).value();
    return std::vector<bool>{c.attention_bias, c.output_bias, c.mlp_bias, c.qk_norm};
  };
  const auto biased = [](const char* type) {
    return with(with(valid_config(type), "attention_bias", true), "mlp_bias", true);
  };
  CHECK(flags(biased("llama")) == std::vector<bool>{true, true, true, false});
  CHECK(flags(biased("mistral")) == std::vector<bool>{false, false, false, false});
  CHECK(flags(valid_config("qwen2")) == std::vector<bool>{true, false, false, false});
  CHECK(flags(valid_config("qwen3")) == std::vector<bool>{false, false, false, true});
  CHECK(flags(biased("qwen3")) == std::vector<bool>{true, true, false, true});
}

TEST_CASE("sliding windows, Mistral's and Qwen's") {
  const ConfigFolder folder;
  const auto window = [&](const Json& config) {
    return folder.read(config).value().sliding_window;
  };
  CHECK(window(with(valid_config("llama"), "sliding_window", 64)) == std::nullopt);
  CHECK(window(with(valid_config("mistral"), "sliding_window", 64)) == 64);
  CHECK(window(with(valid_config("mistral"), "sliding_window", nullptr)) == std::nullopt);
  CHECK(window(valid_config("mistral")) == 4096);
  Json qwen = with(with(valid_config("qwen2"), "sliding_window", 64), "max_window_layers", 0);
  CHECK(window(qwen) == std::nullopt);
  CHECK(window(with(qwen, "use_sliding_window", true)) == 64);
  qwen["max_window_layers"] = 4;
  CHECK(window(with(qwen, "use_sliding_window", true)) == std::nullopt);
  qwen["max_window_layers"] = 2;
  const auto mixed = folder.read(with(qwen, "use_sliding_window", true));
  REQUIRE_FALSE(mixed);
  CHECK(mixed.error().code == Errc::unsupported);
  Json listed = with(qwen, "layer_types", std::vector<std::string>(4, "full_attention"));
  CHECK(window(listed) == std::nullopt);
  listed["use_sliding_window"] = true;
  listed["layer_types"] = std::vector<std::string>(4, "sliding_attention");
  CHECK(window(listed) == 64);
}

TEST_CASE("rope scaling, older and newer spelling") {
  const ConfigFolder folder;
  using Kind = llama::RopeScalingKind;
  const auto scaling = [&](const Json& value, const char* key = "rope_scaling") {
    return folder.read(with(valid_config(), key, value)).value().rope_scaling;
  };
  const auto linear = scaling({{"type", "linear"}, {"factor", 4.0}});
  CHECK((linear.kind == Kind::linear && linear.factor == 4.0));
  CHECK(scaling({{"rope_type", "linear"}, {"factor", 4}}) == linear);
  CHECK(scaling({{"rope_type", "default"}}).kind == Kind::none);
  const auto llama3 = scaling({{"rope_type", "llama3"},
                               {"factor", 8.0},
                               {"low_freq_factor", 1.0},
                               {"high_freq_factor", 4.0},
                               {"original_max_position_embeddings", 256}});
  CHECK((llama3.kind == Kind::llama3 && llama3.factor == 8 && llama3.low_frequency_factor == 1 &&
         llama3.high_frequency_factor == 4 && llama3.original_max_positions == 256));
  Json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 128}};
  const auto plain = scaling(yarn);
  CHECK((plain.kind == Kind::yarn && plain.factor == 4 && plain.original_max_positions == 128));
  CHECK((plain.beta_fast == 32 && plain.beta_slow == 1 && !plain.attention_factor));
  CHECK(scaling(with(yarn, "attention_factor", 1.5)).attention_factor == 1.5);
  CHECK(scaling(with(yarn, "beta_fast", 16)).beta_fast == 16);
  // (0.1 * 2 * ln 4 + 1) / (0.1 * 1 * ln 4 + 1), by hand; two roundings of a double.
  CHECK(scaling(with(with(yarn, "mscale", 2.0), "mscale_all_dim", 1.0)).attention_factor.value() ==
        Approx(1.12175114372).epsilon(1e-9));
  const auto config =
      folder.read(with(valid_config(), "rope_parameters",
                       {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 5e5}}));
  REQUIRE(config);
  CHECK((config->rope_theta == 5e5 && config->rope_scaling == linear));

  // Both: transformers 5 takes `rope_scaling or rope_parameters`, theta included.
  const Json newer = {{"rope_type", "default"}, {"rope_theta", 5e5}};
  const Json both = with(with(valid_config(), "rope_parameters", newer), "rope_scaling",
                         {{"rope_type", "linear"}, {"factor", 4.0}});
  const auto older = folder.read(both);
  REQUIRE(older);
  CHECK((older->rope_scaling == linear &&
         older->rope_theta == folder.read(valid_config())->rope_theta));
  const auto empty = folder.read(with(both, "rope_scaling", Json::object()));
  REQUIRE(empty);
  CHECK((empty->rope_scaling.kind == Kind::none && empty->rope_theta == 5e5));
}

TEST_CASE("quantized weights are refused by the name of their method") {
  const ConfigFolder folder;
  for (const char* method : {"gptq", "awq", "bitsandbytes", "compressed-tensors", "fp8", "hqq",
                             "aqlm", "eetq", "torchao", "mxfp4", "quark", "bitnet", "auto-round"}) {
    const auto refused = folder.read(
        with(valid_config(), "quantization_config", {{"quant_method", method}, {"bits", 4}}));
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::unsupported);
    CHECK(refused.error().message.find("quantization_config' of '" + std::string(method)) !=
          std::string::npos);
  }
  for (const Json& value : {Json::object(), Json::array(), Json(4), Json{{"quant_method", 4}}}) {
    const auto refused = folder.read(with(valid_config(), "quantization_config", value));
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::unsupported);
  }
}

TEST_CASE("EOS ids come from both files, each once") {
  const ConfigFolder folder;
  folder.write("generation_config.json", R"({"eos_token_id": [7, 2, 9], "bos_token_id": 5})");
  CHECK(folder.read(valid_config())->eos_ids == std::vector<int>{2, 7, 9});
  CHECK(folder.read(with(valid_config(), "eos_token_id", {3, 2}))->eos_ids ==
        std::vector<int>{3, 2, 7, 9});
  const auto path = folder.write("generation_config.json", R"({"eos_token_id": "2"})");
  const auto wrong = folder.read(valid_config());
  REQUIRE_FALSE(wrong);
  CHECK(wrong.error().where == path.string());
}

struct HostileConfig {
  std::string what, bytes;
  Errc code;
};

std::vector<HostileConfig> hostile_configs() {
  const auto malformed = Errc::malformed, missing = Errc::missing, range = Errc::out_of_range,
             unsupported = Errc::unsupported;
  std::vector<HostileConfig> files = {
      {"an empty file", "", malformed},
      {"a page of HTML", "<html></html>", malformed},
      {"zeros", std::string(64, '\0'), malformed},
      {"a list", "[]", malformed},
      {"null", "null", malformed},
      {"an empty object", "{}", missing},
      {"deep nesting", std::string(100'000, '['), malformed},
      {"deep nesting in a field", "{\"a\":" + std::string(100'000, '['), malformed},
      {"bytes that are not UTF-8", "{\"model_type\":\"\xff\"}", malformed},
      {"a key twice", R"({"model_type":"llama","model_type":"llama"})", malformed},
      {"NaN", R"({"model_type":"llama","hidden_size":NaN})", malformed},
      {"Infinity", R"({"model_type":"llama","rms_norm_eps":Infinity})", malformed},
      {"1e999", R"({"model_type":"llama","rms_norm_eps":1e999})", malformed},
      {"a comment", "// config\n{}", malformed},
      {"17 MB of spaces", std::string(17 << 20, ' '), range},
  };
  const auto add = [&](const char* what, const Json& config, Errc code) {
    files.push_back({what, config.dump(), code});
  };
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size",
                          "num_attention_heads", "max_position_embeddings"}) {
    add(key, without(valid_config(), key), missing);
    add(key, with(valid_config(), key, nullptr), missing);
    add(key, with(valid_config(), key, "128"), malformed);
    add(key, with(valid_config(), key, 128.5), malformed);
    add(key, with(valid_config(), key, {128}), malformed);
    add(key, with(valid_config(), key, 0), range);
    add(key, with(valid_config(), key, -128), range);
    add(key, with(valid_config(), key, 2147483647), range);
    add(key, with(valid_config(), key, 1ull << 32), malformed);
    add(key, with(valid_config(), key, ~0ull), malformed);
  }
  add("no kv heads of Mistral", without(valid_config("mistral"), "num_key_value_heads"), missing);
  add("no model_type", without(valid_config(), "model_type"), missing);
  add("an unknown architecture", with(valid_config(), "model_type", "gpt_neox"), unsupported);
  add("an empty architecture", with(valid_config(), "model_type", ""), unsupported);
  add("a model_type that is a number", with(valid_config(), "model_type", 3), malformed);
  add("quantized weights", with(valid_config(), "quantization_config", {{"quant_method", "gptq"}}),
      unsupported);
  add("gelu", with(valid_config(), "hidden_act", "gelu"), unsupported);
  add("heads that kv heads do not divide", with(valid_config(), "num_key_value_heads", 3), range);
  add("more kv heads than heads", with(valid_config(), "num_key_value_heads", 16), range);
  add("no head_dim to derive", with(valid_config(), "num_attention_heads", 7), range);
  add("an odd head_dim", with(valid_config(), "head_dim", 15), range);
  add("head_dim 0", with(valid_config(), "head_dim", 0), range);
  add("epsilon 0", with(valid_config(), "rms_norm_eps", 0.0), range);
  add("a negative epsilon", with(valid_config(), "rms_norm_eps", -1e300), range);
  add("a huge epsilon", with(valid_config(), "rms_norm_eps", 1e300), range);
  add("an epsilon that is text", with(valid_config(), "rms_norm_eps", "1e-6"), malformed);
  add("theta 0", with(valid_config(), "rope_theta", 0), range);
  add("a negative theta", with(valid_config(), "rope_theta", -10000), range);
  add("a flag that is a number", with(valid_config(), "tie_word_embeddings", 1), malformed);
  add("an EOS outside the vocabulary", with(valid_config(), "eos_token_id", 2048), range);
  add("a negative EOS", with(valid_config(), "eos_token_id", -1), range);
  add("an EOS list with text", with(valid_config(), "eos_token_id", {2, "3"}), malformed);
  add("a BOS outside the vocabulary", with(valid_config(), "bos_token_id", 1 << 30), range);
  add("a BOS list", with(valid_config(), "bos_token_id", {1}), malformed);
  add("half a head rotated", with(valid_config(), "partial_rotary_factor", 0.5), unsupported);
  const auto scaling = [&](const char* what, const Json& value, Errc code) {
    add(what, with(valid_config(), "rope_scaling", value), code);
  };
  scaling("a scaling that is a list", Json::array(), malformed);
  scaling("a scaling that is a number", 4, malformed);
  scaling("dynamic scaling", {{"type", "dynamic"}, {"factor", 2.0}}, unsupported);
  add("dynamic scaling beside newer parameters",
      with(with(valid_config(), "rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e4}}),
           "rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}),
      unsupported);
  scaling("longrope", {{"rope_type", "longrope"}, {"factor", 2.0}}, unsupported);
  scaling("a type that is a number", {{"rope_type", 1}}, malformed);
  scaling("linear without a factor", {{"type", "linear"}}, missing);
  scaling("a factor of 0", {{"type", "linear"}, {"factor", 0}}, range);
  scaling("a negative factor", {{"type", "linear"}, {"factor", -2}}, range);
  scaling("a factor that is text", {{"type", "linear"}, {"factor", "2"}}, malformed);
  scaling("llama3 without its factors", {{"rope_type", "llama3"}, {"factor", 8.0}}, missing);
  scaling("llama3 with equal factors",
          {{"rope_type", "llama3"},
           {"factor", 8.0},
           {"low_freq_factor", 4.0},
           {"high_freq_factor", 4.0},
           {"original_max_position_embeddings", 256}},
          range);
  scaling("YaRN of 0 positions", {{"rope_type", "yarn"}, {"original_max_position_embeddings", 0}},
          range);
  scaling("YaRN without rounding", {{"rope_type", "yarn"}, {"factor", 2.0}, {"truncate", false}},
          unsupported);
  scaling("scaling by layer type", {{"full_attention", {{"rope_type", "default"}}}}, unsupported);
  add("layer types of another length",
      with(valid_config("qwen2"), "layer_types", {"full_attention"}), malformed);
  add("layer types that are a number", with(valid_config("qwen2"), "layer_types", 4), malformed);
  add("an unknown layer type",
      with(valid_config("qwen3"), "layer_types", std::vector<std::string>(4, "linear_attention")),
      unsupported);
  add("a forbidden window",
      with(valid_config("qwen3"), "layer_types", std::vector<std::string>(4, "sliding_attention")),
      malformed);
  add("a window of 0", with(valid_config("mistral"), "sliding_window", 0), range);
  add("a window that is text", with(valid_config("mistral"), "sliding_window", "64"), malformed);
  return files;
}

TEST_CASE("a hostile config is an error that names the file") {
  const ConfigFolder folder;
  const auto files = hostile_configs();
  CHECK(files.size() >= 40);
  for (const auto& [what, bytes, code] : files) {
    INFO(what << ": " << bytes.substr(0, 500));
    const auto path = folder.write("config.json", bytes);
    const auto config = read_hf_config(path);
    REQUIRE_FALSE(config);
    CHECK(name(config.error().code) == std::string(name(code)));
    CHECK(config.error().where == path.string());
    CHECK_FALSE(config.error().message.empty());
    CHECK(config.error().message.size() < 500);
  }
}

TEST_CASE("a config cut anywhere is an error, and so is a hostile generation config") {
  const ConfigFolder folder;
  const std::string whole = valid_config().dump();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    CHECK_FALSE(read_hf_config(folder.write("config.json", whole.substr(0, size))));
  }
  for (const char* bytes : {"", "[]", "{", R"({"eos_token_id":[2,[3]]})", R"({"eos_token_id":-1})",
                            R"({"eos_token_id":99999999999})"}) {
    folder.write("generation_config.json", bytes);
    CHECK_FALSE(folder.read(valid_config()));
  }
}

TEST_CASE("flipped bytes make an error or a config that is valid") {
  const ConfigFolder folder;
  const std::string whole = valid_config().dump();
  Random random(13);
  int refused = 0;
  for (int round = 0; round < 1500; ++round) {
    std::string bytes = whole;
    for (std::uint32_t flips = 1 + random.below(3); flips > 0; --flips) {
      bytes[random.below(static_cast<std::uint32_t>(bytes.size()))] =
          static_cast<char>(random.below(128));
    }
    const auto config = read_hf_config(folder.write("config.json", bytes));
    refused += !config;
    if (config) REQUIRE(config->validate());
  }
  CHECK(refused > 500);  // four fifths of the bytes are keys and punctuation
}

TEST_CASE("a file that is not there is refused by name") {
  const ConfigFolder folder;
  const auto config = read_hf_config(folder.path() / "config.json");
  REQUIRE_FALSE(config);
  CHECK(config.error().code == Errc::cannot_open);
}

}  // namespace
