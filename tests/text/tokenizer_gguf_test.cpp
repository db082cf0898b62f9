// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/text/tokenizer_gguf.hpp>

#include <bisup/core/random.hpp>
#include <bisup/text/tokenizer_json.hpp>
#include <bisup_test.hpp>
#include <map>
#include <string>
#include <vector>

#include "tiny_gguf.hpp"
#include "tiny_tokenizer.hpp"

namespace {

using namespace bisup;
using namespace bisup::text;
using tiny::GgufFile;
using tiny::Json;
using Ids = std::vector<int>;

// The GGUF that a converter would make of a tokenizer.json.
GgufFile converted(const Json& json, const std::string& model) {
  std::map<int, std::string> by_id;
  std::map<int, std::int32_t> types;
  for (const auto& [token, id] : json["model"]["vocab"].items()) by_id[id] = token;
  for (const auto& [id, token] : by_id) types[id] = model == "llama" && named_byte(token) ? 6 : 1;
  for (const Json& added : json["added_tokens"]) {
    by_id[added["id"]] = added["content"];
    types[added["id"]] = added["special"] ? 3 : 4;
  }
  GgufFile file;
  file.string("tokenizer.ggml.model", model);
  std::vector<std::string> tokens, merges;
  std::vector<std::int32_t> kinds;
  for (const auto& [id, token] : by_id) tokens.push_back(token), kinds.push_back(types[id]);
  file.strings("tokenizer.ggml.tokens", tokens);
  file.integers("tokenizer.ggml.token_type", kinds);
  for (const Json& merge : json["model"]["merges"]) {
    merges.push_back(merge.is_string()
                         ? merge.get<std::string>()
                         : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  if (model == "gpt2") {
    file.strings("tokenizer.ggml.merges", merges);
  } else {  // a token's score is minus the number of the merge that makes it
    std::map<std::string, float> score;
    for (std::size_t i = 0; i < merges.size(); ++i) {
      std::string token = merges[i];
      token.erase(token.find(' '), 1);
      score.emplace(token, -static_cast<float>(i) - 1);
    }
    std::vector<float> scores;
    for (const auto& token : tokens)
      scores.push_back(score.count(token) != 0 ? score[token] : -1000);
    file.numbers("tokenizer.ggml.scores", scores);
  }
  return file;
}

Result<Tokenizer> read(const GgufFile& file) {
  const std::string bytes = file.bytes();
  const auto gguf = io::Gguf::parse(std::as_bytes(std::span(bytes)), nullptr, "model.gguf");
  if (!gguf) return gguf.error();
  return Tokenizer::from_gguf(gguf.value());
}

std::string tokens(const Tokenizer& tokenizer, std::string_view text) {
  std::string out;
  const auto ids = tokenizer.encode(text);
  for (const int id : ids.value()) out += "[" + std::string(tokenizer.token(id)) + "]";
  return out;
}

TEST_CASE("a byte-level GGUF gives the ids of the tokenizer.json it was made from") {
  const Json json = tiny::byte_level(std::string(pattern::qwen2));
  GgufFile file = converted(json, "gpt2");
  file.string("tokenizer.ggml.pre", "qwen2");
  const auto gguf = read(file);
  if (!gguf) FAIL(gguf.error().describe());
  const auto reference = Tokenizer::from_json_text(json.dump(), "tokenizer.json");
  REQUIRE(reference);
  Random random(15);
  for (int i = 0; i < 500; ++i) {
    std::string text = tiny::awkward_text(random, random.below(20));
    for (std::size_t at; (at = text.find("\u017f")) != text.npos;)
      text.replace(at, 2, "s");  // see KnownPattern
    const EncodeOptions plain = {.parse_special = true, .add_special = false};
    REQUIRE(*gguf->encode(text, plain) == *reference->encode(text, plain));
    REQUIRE(gguf->decode(*gguf->encode(text), true) == text);
  }
}

TEST_CASE("the name of the pre-tokenizer says how digits are cut") {
  const auto cut = [](const char* name) {
    Json json = tiny::byte_level();
    json["model"]["vocab"]["12"] = 400;
    json["model"]["merges"].push_back("1 2");
    json["added_tokens"] = Json::array();
    GgufFile file = converted(json, "gpt2");
    if (name != nullptr) file.string("tokenizer.ggml.pre", name);
    file.boolean("tokenizer.ggml.add_bos_token", false);
    const auto tokenizer = read(file);
    if (!tokenizer) FAIL(tokenizer.error().describe());
    return tokens(*tokenizer, "1212");
  };
  CHECK(cut("smollm") == "[1][2][1][2]");
  CHECK(cut("qwen2") == "[1][2][1][2]");
  CHECK(cut("gpt-2") == "[12][12]");
  CHECK(cut("llama-bpe") == "[12][1][2]");
  CHECK(cut("default") == "[12][1][2]");
  CHECK(cut(nullptr) == "[12][1][2]");
  CHECK(cut("tekken") == "[1][2][1][2]");
}

TEST_CASE("a SentencePiece GGUF merges by score, as merges by rank would") {
  const Json json = tiny::sentence_piece();
  GgufFile file = converted(json, "llama");
  file.boolean("tokenizer.ggml.add_bos_token", false);
  const auto gguf = read(file);
  if (!gguf) FAIL(gguf.error().describe());
  const auto reference = Tokenizer::from_json_text(json.dump(), "tokenizer.json");
  Random random(16);
  for (int i = 0; i < 500; ++i) {
    const std::string text = tiny::awkward_text(random, random.below(20));
    REQUIRE(gguf->decode(*gguf->encode(text, {.parse_special = false}), true) == text);
  }
  for (const char* text : {"the cat and the hat", "they'll", "caf\u00e9 \u4f60\u597d \U0001F600",
                           "1234", " x", "<s>a</s>"}) {
    CHECK(*gguf->encode(text) == *reference->encode(text));
  }
}

TEST_CASE("the highest score is merged first and of equal scores the leftmost") {
  GgufFile file;
  file.string("tokenizer.ggml.model", "llama");
  file.boolean("tokenizer.ggml.add_space_prefix", false);
  file.boolean("tokenizer.ggml.add_bos_token", false);
  file.strings("tokenizer.ggml.tokens", {"<unk>", "a", "b", "c", "ab", "bc", "ca", "dd"});
  file.integers("tokenizer.ggml.token_type", {2, 1, 1, 1, 1, 1, 1, 1});
  file.numbers("tokenizer.ggml.scores", {0, 0, 0, 0, -2, -1, -2, -3});
  const auto tokenizer = read(file);
  REQUIRE(tokenizer);
  CHECK(tokens(*tokenizer, "abc") == "[a][bc]");
  CHECK(tokens(*tokenizer, "cab") == "[ca][b]");
  CHECK(tokens(*tokenizer, "ddd") == "[dd][<unk>]");  // a character that is no token merges all the same
}

TEST_CASE("which tokens are put around, and which end a text") {
  GgufFile file = converted(tiny::sentence_piece(), "llama");
  const auto tokenizer =
      read(file);  // SentencePiece has BOS 1, EOS 2 and puts BOS in front by default
  REQUIRE(tokenizer);
  CHECK((tokenizer->bos() == 1 && tokenizer->eos() == Ids{2} && tokenizer->adds_bos()));
  file.boolean("tokenizer.ggml.add_eos_token", true);
  CHECK(read(file)->encode("")->back() == 2);
  file.boolean("tokenizer.ggml.add_space_prefix", false);
  CHECK(tokens(*read(file), "\v") == "[<s>][<0x0B>][</s>]");
}

TEST_CASE("broken tokenizers in a GGUF are refused by name") {
  const auto refused = [](const GgufFile& file, Errc code) {
    const auto tokenizer = read(file);
    CHECK_FALSE(tokenizer);
    if (!tokenizer) {
      CHECK(tokenizer.error().code == code);
      CHECK(tokenizer.error().where == "model.gguf");
    }
  };
  refused(GgufFile(), Errc::missing);
  const GgufFile byte_level = converted(tiny::byte_level(), "gpt2"),
                 pieces = converted(tiny::sentence_piece(), "llama");
  const auto with = [](GgufFile file, auto&& spoil) { return spoil(file), file; };
  for (const char* model : {"bert", "t5", "rwkv", ""}) {
    refused(with(byte_level, [&](auto& f) { f.string("tokenizer.ggml.model", model); }),
            Errc::unsupported);
  }
  for (const char* pre : {"klingon", "", "Qwen2"}) {
    refused(with(byte_level, [&](auto& f) { f.string("tokenizer.ggml.pre", pre); }),
            Errc::unsupported);
  }
  const std::string tokens = "tokenizer.ggml.tokens", types = "tokenizer.ggml.token_type";
  refused(with(byte_level, [&](auto& f) { f.remove(tokens); }), Errc::missing);
  refused(with(byte_level, [&](auto& f) { f.string(tokens, "x"); }), Errc::malformed);
  refused(with(byte_level, [&](auto& f) { f.strings(tokens, {}); }), Errc::malformed);
  refused(with(byte_level, [&](auto& f) { f.strings(tokens, {"a", "a"}); }), Errc::malformed);
  refused(with(byte_level, [&](auto& f) { f.strings(tokens, {"\xff"}); }), Errc::malformed);
  refused(with(byte_level, [&](auto& f) { f.integers(types, {1, 1}); }), Errc::malformed);
  refused(with(byte_level, [&](auto& f) { f.string(types, "x"); }), Errc::malformed);
  refused(with(byte_level, [&](auto& f) { f.remove("tokenizer.ggml.merges"); }), Errc::missing);
  for (const char* merge : {"", "a", "a ", " ", "a no-token", "no-token a", "~ ~"}) {
    refused(with(byte_level, [&](auto& f) { f.strings("tokenizer.ggml.merges", {merge}); }),
            Errc::malformed);
  }
  refused(with(byte_level, [&](auto& f) { f.string("tokenizer.ggml.add_bos_token", "yes"); }),
          Errc::malformed);
  refused(with(byte_level, [&](auto& f) { f.string("tokenizer.ggml.bos_token_id", "1"); }),
          Errc::malformed);
  refused(with(pieces, [&](auto& f) { f.remove("tokenizer.ggml.scores"); }), Errc::missing);
  refused(with(pieces, [&](auto& f) { f.numbers("tokenizer.ggml.scores", {1}); }), Errc::malformed);
  refused(with(pieces,
               [&](auto& f) {
                 f.numbers(
                     "tokenizer.ggml.scores",
                     std::vector<float>(f.size(tokens), std::numeric_limits<float>::quiet_NaN()));
               }),
          Errc::not_finite);
}

}  // namespace
