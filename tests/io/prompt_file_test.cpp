// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/io/prompt_file.hpp>
#include <bisup/llama/stored_prompt.hpp>
#include <fstream>
#include <iterator>

#include <bisup_test.hpp>
#include "../llama/golden_models.hpp"
#include "scratch_folder.hpp"

namespace {

using namespace bisup;
namespace fs = std::filesystem;

TEST_CASE("a prompt file gives its own model the same prompt, and no other model any") {
  const ScratchFolder folder;
  const fs::path path = folder.path() / "prompt.safetensors";
  const auto model = test::small_model("llama");
  const std::vector<int> ids = {5, 3, 2, 7};
  const auto prompt = llama::store_prompt(model, ids);
  REQUIRE(prompt);
  REQUIRE(io::save_prompt(path, model, *prompt));
  const auto loaded = io::load_prompt(path, model);
  if (!loaded) FAIL(loaded.error().describe());
  CHECK(std::equal(ids.begin(), ids.end(), loaded->ids().begin(), loaded->ids().end()));
  for (int layer = 0; layer < model.config.layers; ++layer) {
    for (int t = 0; t < 4; ++t) {
      for (int i = 0; i < prompt->width(); ++i) {
        REQUIRE(loaded->keys(layer)(t, i) == prompt->keys(layer)(t, i));
        REQUIRE(loaded->values(layer)(t, i) == prompt->values(layer)(t, i));
      }
    }
  }
  const auto rounded = round_to_nearest(model, Scheme::parse("W8A8-g32").value());
  CHECK(io::load_prompt(path, *rounded).error().code == Errc::unsupported);
  auto changed = test::small_model("llama");
  changed.blocks.back().norms.mlp[0] += 0.5f;
  CHECK(io::load_prompt(path, changed).error().code == Errc::unsupported);
  CHECK(io::load_prompt(path, test::small_model("qwen3")).error().code == Errc::unsupported);
}

TEST_CASE("a damaged prompt file is refused by name, whatever is wrong with it") {
  const ScratchFolder folder;
  const fs::path path = folder.path() / "prompt.safetensors";
  const auto model = test::small_model("llama");
  const std::vector<int> ids = {5, 3, 2, 7};
  REQUIRE(io::save_prompt(path, model, llama::store_prompt(model, ids).value()));
  const std::string good = read_file(path);
  struct Case {
    const char *from, *to;
    Errc code;
  };
  const Case cases[] = {
      {"\\\"schema\\\":1", "\\\"schema\\\":2", Errc::unknown_version},
      {"\\\"prompt\\\":[5,3,2,7]", "\\\"prompt\\\":[5,3,299]", Errc::malformed},
      {"\\\"prompt\\\":[5,3,2,7]", "\\\"prompt\\\":[5,3,2  ]", Errc::wrong_shape},
      {"\\\"prompt\\\":[5,3,2,7]", "\\\"prompt\\\":[       ]", Errc::missing},
      {"\"bisup_prompt\"", "\"bosup_prompt\"", Errc::missing},
      {"W16A16-g128", "W16A16-g129", Errc::unsupported},
  };
  for (const Case& c : cases) {
    INFO(c.from << " -> " << c.to);
    std::string bytes = good;
    REQUIRE(bytes.find(c.from) != std::string::npos);
    write_file(path, bytes.replace(bytes.find(c.from), std::string(c.from).size(), c.to));
    const auto loaded = io::load_prompt(path, model);
    REQUIRE_FALSE(loaded);
    CHECK(loaded.error().code == c.code);
    CHECK(loaded.error().where == path.string());
  }
  std::string bytes = good;
  bytes[bytes.size() - 3] = static_cast<char>(bytes[bytes.size() - 3] ^ 4);
  write_file(path, bytes);
  CHECK(io::load_prompt(path, model).error().code == Errc::wrong_checksum);
  for (std::size_t length = 0; length < good.size(); length += 1 + good.size() / 50) {
    write_file(path, good.substr(0, length));
    CHECK_FALSE(io::load_prompt(path, model));
  }
}

}  // namespace
