// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/text/model_files.hpp>

#include <bisup_test.hpp>
#include <string>

#include "tiny_gguf.hpp"
#include "tiny_tokenizer.hpp"

namespace {

using namespace bisup;
using namespace bisup::text;

TEST_CASE("a tokenizer comes from either kind of file, or is missing") {
  io::TokenizerFiles files;
  files.where = "model";
  auto none = load_tokenizer(files);
  REQUIRE_FALSE(none);
  CHECK((none.error().code == Errc::missing && none.error().where == "model"));
  files.tokenizer_json = tiny::byte_level().dump();
  CHECK(load_tokenizer(files));
  files.tokenizer_json.clear();
  tiny::GgufFile gguf;
  gguf.string("tokenizer.ggml.model", "gpt2");
  gguf.strings("tokenizer.ggml.tokens", {"a", "b"});
  gguf.strings("tokenizer.ggml.merges", {});
  gguf.string("tokenizer.ggml.pre", "gpt-2");
  files.gguf_metadata = gguf.bytes();
  const auto tokenizer = load_tokenizer(files);
  if (!tokenizer) FAIL(tokenizer.error().describe());
  CHECK(tokenizer->encode("ab")->size() == 2);
  files.gguf_metadata = "GGUF";
  CHECK_FALSE(load_tokenizer(files));
}

TEST_CASE("a chat template is the model's own, or in its configuration, or missing") {
  io::TokenizerFiles files;
  CHECK(load_chat_template(files).error().code == Errc::missing);
  files.tokenizer_config = R"({"chat_template": "{{ '<|im_start|>' }}"})";
  CHECK(load_chat_template(files)->family() == ChatFamily::chatml);
  files.chat_template = "{{ '<|start_header_id|>' }}{{ '<|eot_id|>' }}";
  CHECK(load_chat_template(files)->family() == ChatFamily::llama3);
}

}  // namespace
