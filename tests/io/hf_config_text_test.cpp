// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/io/hf_config_text.hpp>

#include <bisup_test.hpp>
#include "../llama/golden_models.hpp"

namespace {

using namespace bisup;

TEST_CASE("a config survives the way through its text, for every architecture and option") {
  const auto golden = test::read_json("tests/oracle/models.json");
  for (const auto& [name, model] : golden.at("models").items()) {
    auto config = io::parse_hf_config(model.at("config").dump(), name);
    REQUIRE(config);
    config->eos_ids = {2, 5};
    INFO(name);
    const auto again = io::parse_hf_config(io::hf_config_text(*config), name);
    REQUIRE(again);
    CHECK(*again == *config);
    if (config->architecture == "llama") continue;  // has no window
    config->sliding_window = 12;
    const auto windowed = io::parse_hf_config(io::hf_config_text(*config), name);
    REQUIRE(windowed);
    CHECK(*windowed == *config);
  }
}

TEST_CASE("errors name the place the text came from") {
  for (const char* bad :
       {"", "[]", "{}", "{\"model_type\": \"mamba\"}", "{\"model_type\": \"llama\"}"}) {
    const auto config = io::parse_hf_config(bad, "model.safetensors");
    REQUIRE_FALSE(config);
    CHECK(config.error().where == "model.safetensors");
  }
}

}  // namespace
