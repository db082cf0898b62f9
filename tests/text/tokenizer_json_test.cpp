// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/text/tokenizer_json.hpp>

#include <bisup/core/random.hpp>
#include <bisup_test.hpp>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tiny_tokenizer.hpp"

namespace {

using namespace bisup;
using namespace bisup::text;
using tiny::Json;
using Ids = std::vector<int>;

Result<Tokenizer> read(const Json& json) {
  return Tokenizer::from_json_text(json.dump(), "tokenizer.json");
}

Tokenizer made(const Json& json) {
  auto tokenizer = read(json);
  if (!tokenizer) FAIL(tokenizer.error().describe());
  return std::move(tokenizer).value();
}

std::string joined_tokens(const Tokenizer& tokenizer, std::string_view text) {
  std::string out;
  const auto ids = tokenizer.encode(text, {.parse_special = true, .add_special = false});
  for (const int id : ids.value()) {
    out += (out.empty() ? "" : "|") + std::string(tokenizer.token(id));
  }
  return out;
}

TEST_CASE("merges are written as strings or as pairs") {
  Json json = tiny::byte_level();
  const Ids expected = *made(json).encode("the cat and the hat");
  CHECK(expected.size() < 12);
  for (Json& merge : json["model"]["merges"]) {
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  CHECK(*made(json).encode("the cat and the hat") == expected);
}

TEST_CASE("ignore_merges takes a word that is a token at once") {
  Json json = tiny::byte_level();
  json["model"]["vocab"]["zzz"] = 5000;
  CHECK(joined_tokens(made(json), "zzz") == "z|z|z");
  json["model"]["ignore_merges"] = true;
  CHECK(joined_tokens(made(json), "zzz") == "zzz");
}

TEST_CASE("ByteLevel cuts and puts a space in front by default") {
  Json json = tiny::byte_level();
  json["model"]["merges"] = Json::array();
  json["pre_tokenizer"] = {{"type", "ByteLevel"}};
  CHECK(joined_tokens(made(json), "a") == "\u0120|a");
  CHECK(joined_tokens(made(json), " a") == "\u0120|a");
  json["pre_tokenizer"]["add_prefix_space"] = false;
  CHECK(joined_tokens(made(json), "a") == "a");
}

TEST_CASE("a template puts tokens on both sides") {
  Json json = tiny::byte_level();
  const int bos = json["added_tokens"][0]["id"];
  auto& single = json["post_processor"]["single"];
  single.push_back(single[0]);
  const auto ids = *made(json).encode("a");
  CHECK((ids.size() == 3 && ids.front() == bos && ids.back() == bos));
  json["post_processor"] = {{"type", "Sequence"},
                            {"processors", {{{"type", "ByteLevel"}}, json["post_processor"]}}};
  CHECK(*made(json).encode("a") == ids);
}

TEST_CASE("without a decoder tokens are joined by spaces, Metaspace drops the first mark") {
  Json json = tiny::sentence_piece();
  json["decoder"] = nullptr;
  const auto ids = *made(json).encode("end");
  CHECK(made(json).decode(ids).find(' ') != std::string::npos);
  json["decoder"] = {
      {"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "always"}};
  const Tokenizer metaspace = made(json);
  const int mark = metaspace.find("\u2581"), t = metaspace.find("t");
  CHECK(metaspace.decode(Ids{mark, t, mark, t}) == "t t");
}

TEST_CASE("broken files are refused, each with a sentence that names the file") {
  const Json good = tiny::byte_level(), other = tiny::sentence_piece();
  std::vector<std::pair<std::string, std::string>> broken;
  const auto raw = [&](const std::string& name, std::string text) {
    broken.emplace_back(name, std::move(text));
  };
  const auto with = [&](const std::string& name, const Json& base,
                        const std::function<void(Json&)>& spoil) {
    Json json = base;
    spoil(json);
    raw(name, json.dump());
  };
  const auto set = [&](const std::string& path, const Json& value) {
    with(path + " = " + value.dump(), good,
         [&](Json& json) { json[Json::json_pointer(path)] = value; });
  };
  raw("nothing", "");
  raw("no JSON", "<html>");
  raw("cut", good.dump().substr(0, good.dump().size() / 2));
  raw("bytes", "\xff\xfe{}");
  raw("deep", std::string(100000, '['));
  raw("deep objects", [] {
    std::string text;
    for (int i = 0; i < 100000; ++i) text += "{\"a\":";
    return text;
  }());
  raw("a list", "[]");
  raw("a number", "7");
  raw("null", "null");
  raw("empty", "{}");
  raw("a key twice", R"({"model":{"type":"BPE","vocab":{"a":0,"a":1},"merges":[]}})");
  raw("lone surrogate", R"({"model":{"type":"BPE","vocab":{"\ud800":0},"merges":[]}})");
  for (const Json& value : {Json(), Json(7), Json("BPE"), Json::array()}) set("/model", value);
  for (const char* type : {"WordPiece", "Unigram", "WordLevel", ""}) set("/model/type", type);
  set("/model/type", 3);
  for (const Json& value : {Json(), Json::array(), Json("x"), Json::object()})
    set("/model/vocab", value);
  for (const Json& id :
       {Json(-1), Json(1.5), Json("1"), Json(), Json(1 << 25), Json(1e300), Json(3)}) {
    set("/model/vocab/new", id);
  }
  set("/model/merges", Json());
  set("/model/merges", 7);
  for (const Json& merge : {Json("a"), Json("a b c"), Json(""), Json(" a"), Json("a "), Json(7),
                            Json::array({"a"}), Json::array({"a", 1}), Json::array({"a", ""}),
                            Json("no-token a"), Json("a no-token"), Json("~ ~")}) {
    set("/model/merges/0", merge);
  }
  set("/model/dropout", 0.1);
  set("/model/dropout", "x");
  set("/model/unk_token", "nobody");
  set("/model/unk_token", 5);
  set("/model/byte_fallback", "yes");
  set("/model/ignore_merges", 1);
  set("/model/continuing_subword_prefix", "##");
  set("/model/end_of_word_suffix", "</w>");
  set("/added_tokens", "x");
  set("/added_tokens/0", 7);
  set("/added_tokens/0/id", -4);
  set("/added_tokens/0/id", 3);
  set("/added_tokens/0/id", (1 << 24));
  set("/added_tokens/0/content", Json());
  set("/added_tokens/0/special", "true");
  set("/added_tokens/1/content", "<|bos|>");
  set("/normalizer", "NFC");
  set("/normalizer", Json{{"type", "Precompiled"}});
  set("/normalizer", Json{{"type", "BertNormalizer"}});
  set("/normalizer", Json::object());
  set("/normalizer", Json{{"type", "Sequence"}});
  set("/normalizer", Json{{"type", "Sequence"}, {"normalizers", {7}}});
  set("/normalizer", Json{{"type", "Replace"}, {"pattern", "x"}, {"content", ""}});
  set("/normalizer", Json{{"type", "Replace"}, {"pattern", {{"Regex", "("}}}, {"content", ""}});
  set("/normalizer", Json{{"type", "Prepend"}});
  set("/pre_tokenizer", Json{{"type", "BertPreTokenizer"}});
  set("/pre_tokenizer", Json{{"type", "UnicodeScripts"}});
  set("/pre_tokenizer", Json{{"type", "Metaspace"}, {"replacement", ""}});
  set("/pre_tokenizer", Json{{"type", "Metaspace"}, {"prepend_scheme", "sometimes"}});
  set("/pre_tokenizer/pretokenizers/0/pattern", Json{{"Regex", "[a"}});
  set("/pre_tokenizer/pretokenizers/0/pattern", Json{{"Regex", "\\p{Klingon}"}});
  set("/pre_tokenizer/pretokenizers/0/pattern", Json{{"Glob", "*"}});
  set("/pre_tokenizer/pretokenizers/0/behavior", "Sideways");
  set("/pre_tokenizer/pretokenizers/0/invert", 1);
  set("/pre_tokenizer/pretokenizers/2", Json{{"type", "Digits"}});
  set("/post_processor", Json{{"type", "BertProcessing"}});
  set("/post_processor/single", Json::array());
  set("/post_processor/single/0", Json{{"Sequence", {{"id", "A"}}}});
  set("/post_processor/single/0", Json{{"Sequence", {{"id", "B"}}}});
  set("/post_processor/special_tokens", Json::object());
  set("/post_processor/special_tokens/<|bos|>/ids", Json::array({999999}));
  set("/decoder", Json{{"type", "WordPiece"}});
  set("/decoder", Json{{"type", "CTC"}});
  with("behind Fuse", other, [](Json& json) {
    json["decoder"]["decoders"].push_back({{"type", "ByteFallback"}});
  });
  with("Strip stop", other, [](Json& json) { json["decoder"]["decoders"][3]["stop"] = 1; });
  with("Strip empty", other, [](Json& json) { json["decoder"]["decoders"][3]["content"] = ""; });
  with("Strip start", other, [](Json& json) { json["decoder"]["decoders"][3]["start"] = -1; });
  REQUIRE(broken.size() > 80);
  for (const auto& [name, text] : broken) {
    INFO(name);
    const auto tokenizer = Tokenizer::from_json_text(text, "folder/tokenizer.json");
    CHECK_FALSE(tokenizer);
    if (tokenizer) continue;
    CHECK(tokenizer.error().where == "folder/tokenizer.json");
    CHECK(tokenizer.error().message.size() > 8);
  }
  CHECK(read(good));
  CHECK(read(other));
}

TEST_CASE("a file with any byte changed is read or refused, never more") {
  const std::string good = tiny::byte_level().dump();
  Random random(14);
  for (int i = 0; i < 300; ++i) {
    std::string text = good;
    for (int k = 0; k < 3; ++k)
      text[random.below(static_cast<std::uint32_t>(text.size()))] ^=
          static_cast<char>(1 << random.below(8));
    const auto tokenizer = Tokenizer::from_json_text(text, "tokenizer.json");
    if (tokenizer) static_cast<void>(tokenizer->encode("the cat <|end|> 12"));
  }
}

TEST_CASE("a missing file is an error that names it") {
  const auto tokenizer = Tokenizer::from_json("no/such/tokenizer.json");
  REQUIRE_FALSE(tokenizer);
  CHECK(tokenizer.error().where == "no/such/tokenizer.json");
}

TEST_CASE("a pattern that gives up on a text is an error of encode") {
  const Tokenizer tokenizer = made(tiny::byte_level("(a|aa)+$|b"));
  const auto ids = tokenizer.encode(std::string(80, 'a') + "c");
  REQUIRE_FALSE(ids);
  CHECK(ids.error().where == "tokenizer.json");
}

}  // namespace
