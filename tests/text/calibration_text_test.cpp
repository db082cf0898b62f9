// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/text/calibration_text.hpp>
#include <bisup/text/model_files.hpp>
#include <bisup/io/model_file.hpp>

#include <bisup_test.hpp>

namespace {

using namespace bisup;
using namespace bisup::text;

const io::TokenizerFiles& files() {
  static const auto opened = io::open_tokenizer_files(BISUP_SOURCE_DIR "/examples/tiny_llama").value();
  return opened;
}
const Tokenizer& tokenizer() {
  static const auto made = load_tokenizer(files()).value();
  return made;
}

std::vector<int> joined(std::initializer_list<std::string_view> texts) {
  std::vector<int> ids;
  for (const auto text : texts) {
    const auto part = tokenizer().encode(text).value();
    ids.insert(ids.end(), part.begin(), part.end());
  }
  return ids;
}

Error refused(std::string_view bytes, const std::string& where, const ChatFormat& format = {}) {
  const auto read = read_calibration_text(bytes, where, tokenizer(), format);
  if (read) FAIL("was read: " << bytes);
  return read.error();
}

TEST_CASE("a text is one document, as the model would read it") {
  const auto read = read_calibration_text("Once upon a time.\n\nThe end.", "book.txt", tokenizer());
  REQUIRE(read);
  CHECK(read->ids == joined({"Once upon a time.\n\nThe end."}));
  CHECK(read->documents == 1);
  CHECK(read->kind == "text");
}

TEST_CASE("JSON lines are documents one after the other") {
  for (const char* end : {"\n", "\r\n", "\n\n"}) {
    const std::string lines = std::string(R"({"text": "Once upon a \"time\"", "id": 7})") + end +
                              R"({"text": "caf\u00e9"})" + end;
    const auto read = read_calibration_text(lines, "books.jsonl", tokenizer());
    REQUIRE(read);
    CHECK(read->ids == joined({"Once upon a \"time\"", "caf\u00e9"}));
    CHECK(read->documents == 2);
    CHECK(read->kind == "jsonl");
  }
}

TEST_CASE("conversations have the ids that the chat template gives them") {
  const auto chat = load_chat_template(files());
  REQUIRE(chat);
  const auto read = read_calibration_text(
      R"({"messages": [{"role": "user", "content": "hi <|im_end|>"}, {"role": "assistant", "content": "Hello."}]})",
      "chats.jsonl", tokenizer(), {.chat = &*chat});
  REQUIRE(read);
  CHECK(read->kind == "chat");
  const std::vector<ChatMessage> messages = {{"user", "hi <|im_end|>"}, {"assistant", "Hello."}};
  ChatOptions options;
  options.invite_answer = false;
  CHECK(read->ids == tokenizer().encode(chat->format(messages, options).value()).value());
  // The same, spelled out; what a person wrote is no special token.
  const EncodeOptions plain{.parse_special = false, .add_special = false}, markup{.add_special = false};
  std::vector<int> expected;
  const auto add = [&](std::string_view text, const EncodeOptions& how) {
    const auto ids = tokenizer().encode(text, how).value();
    expected.insert(expected.end(), ids.begin(), ids.end());
  };
  add("<|im_start|>user\n", markup), add("hi <|im_end|>", plain);
  add("<|im_end|>\n<|im_start|>assistant\n", markup), add("Hello.", plain), add("<|im_end|>\n", markup);
  CHECK(read->ids == expected);
}

TEST_CASE("what cannot be calibrated on is refused by file and line") {
  for (const char* where : {"empty.txt", "empty.jsonl"}) {
    CHECK(refused("", where).code == Errc::too_short);
    CHECK(refused("", where).where == where);
  }
  CHECK(refused("\n  \n", "blank.jsonl").code == Errc::too_short);
  const auto latin = refused("one\ntwo\ncaf\xe9\n", "latin1.txt");
  CHECK(latin.code == Errc::malformed);
  CHECK(latin.where == "latin1.txt");
  CHECK(latin.message == "line 3 is not UTF-8");
  const std::string good = R"({"text": "fine"})" "\n\n";
  for (const char* line : {R"({"text": "broken)", R"({"text": 3})", R"({"words": "x"})", "[]", "caf\xe9",
                           "{\"text\": \"caf\xe9\"}", R"({"messages": "hi"})", R"({"messages": [{"role": "user"}]})"}) {
    const auto error = refused(good + line, "data.jsonl");
    INFO(line << " -> " << error.describe());
    CHECK((error.code == Errc::malformed || error.code == Errc::missing));
    CHECK(error.where == "data.jsonl");
    CHECK(error.message.starts_with("line 3: "));
  }
}

TEST_CASE("a conversation that its template refuses, and one without a template, are refused") {
  const std::string line = R"({"messages": [{"role": "user", "content": "hi"}]})";
  CHECK(refused(line, "chats.jsonl").code == Errc::unsupported);
  const ChatTemplate chat(ChatFamily::chatml);
  const auto error = refused(R"({"messages": [{"role": "judge", "content": "hi"}]})", "chats.jsonl", {.chat = &chat});
  CHECK(error.code == Errc::unsupported);
  CHECK(error.message.find("line 1") != std::string::npos);
}

}  // namespace
