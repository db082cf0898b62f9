// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/text/chat_template.hpp>

#include <bisup_test.hpp>
#include <string>
#include <vector>

namespace {

using namespace bisup;
using namespace bisup::text;
using Messages = std::vector<ChatMessage>;

// Abridged to what recognition looks at; the real templates are compared by the oracle.
const std::string smollm2 =
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ "
    "'<|im_start|>system\nYou are a helpful "
    "AI<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + "
    "'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const std::string qwen25 =
    R"({%- if tools %}{{- '<|im_start|>system\n' }}{{- "<tool_call>" }}{%- else %}{%- if s %})"
    R"({{- '<|im_start|>system\n' + s + '<|im_end|>\n' }}{%- else %}{{- '<|im_start|>system\nYou are Qwen, )"
    R"(it\'s you.<|im_end|>\n' }}{%- endif %}{%- endif %}{{- '<|im_start|>assistant\n' }})";
const std::string qwen3 =
    R"({{- '<|im_start|>system\n' }}{{- "<tool_call>" }}{{- '<|im_start|>system\n' + s + '<|im_end|>\n' }})"
    R"({%- set ns = namespace(last_query_index=1) %}'</think>'{{- '<|im_start|>assistant\n' }}{{- '<think>\n\n</think>\n\n' }})";
const std::string llama3 =
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>' + message['content'] | trim + "
    "'<|eot_id|>' bos_token";
const std::string llama31 = llama3 +
                            "{%- set date_string = \"01 Jan 2025\" %}{{- \"Cutting Knowledge Date: "
                            "December 2023\\n\" }} add_generation_prompt";
const std::string llama2 = "'<<SYS>>\\n' ... '[INST] '";

ChatTemplate recognized(const std::string& jinja) {
  auto made = ChatTemplate::recognize(jinja, "tokenizer_config.json");
  if (!made) FAIL(made.error().describe());
  return std::move(made).value();
}

std::string text(const ChatTemplate& chat, const Messages& messages, ChatOptions options = {}) {
  options.bos = "<s>";
  options.eos = "</s>";
  const auto segments = chat.format(messages, options);
  if (!segments) return segments.error().message;
  std::string out;
  for (const Segment& segment : *segments) out += segment.text;
  return out;
}

TEST_CASE("ChatML with the template's own default system message") {
  const ChatTemplate chat = recognized(smollm2);
  CHECK(chat.family() == ChatFamily::chatml);
  CHECK(chat.default_system() == "You are a helpful AI");
  CHECK(text(chat, {{"user", " hi "}}) ==
        "<|im_start|>system\nYou are a helpful AI<|im_end|>\n<|im_start|>user\n hi "
        "<|im_end|>\n<|im_start|>assistant\n");
  CHECK(
      text(chat, {{"system", "s"}, {"user", "u"}, {"assistant", "a"}}, {.invite_answer = false}) ==
      "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\na<|"
      "im_end|>\n");
}

TEST_CASE("Qwen: escapes in the default, no default in Qwen3, thoughts dropped") {
  CHECK(recognized(qwen25).family() == ChatFamily::qwen);
  CHECK(recognized(qwen25).default_system() == "You are Qwen, it's you.");
  const ChatTemplate chat = recognized(qwen3);
  CHECK(chat.default_system().empty());
  CHECK(text(chat, {{"user", "u"}}) == "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n");
  CHECK(text(chat, {{"user", "u"}}, {.thinking = false})
            .ends_with("assistant\n<think>\n\n</think>\n\n"));
  CHECK(text(chat, {{"user", "u"}, {"assistant", "<think>\nt\n</think>\n\na"}, {"user", "v"}},
             {.invite_answer = false}) ==
        "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n<|im_start|>user\nv<|"
        "im_end|>\n");
  CHECK(text(chat, {{"user", "u"}, {"assistant", "<think>\nt\n</think>\n\na"}},
             {.invite_answer = false}) ==
        "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n<think>\nt\n</"
        "think>\n\na<|im_end|>\n");
}

TEST_CASE("Llama-3, with and without a stated date") {
  const std::string question = "<|start_header_id|>user<|end_header_id|>\n\nu<|eot_id|>";
  const std::string invitation = "<|start_header_id|>assistant<|end_header_id|>\n\n";
  CHECK(text(recognized(llama3), {{"user", " u\n"}}) == "<s>" + question + invitation);
  CHECK(text(recognized(llama3), {{"user", "u"}}, {.invite_answer = false}) ==
        "<s>" + question + invitation);
  const auto system = [](const std::string& date, const std::string& message) {
    return "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December "
           "2023\nToday Date: " +
           date + "\n\n" + message + "<|eot_id|>";
  };
  const ChatTemplate dated = recognized(llama31);
  CHECK(text(dated, {{"user", "u"}}) == system("01 Jan 2025", "") + question + invitation);
  CHECK(text(dated, {{"system", "s "}, {"user", "u"}}, {.date = "02 Feb 2026"}) ==
        system("02 Feb 2026", "s") + question + invitation);
  CHECK(text(dated, {{"user", "u"}}, {.invite_answer = false}) ==
        system("01 Jan 2025", "") + question);
}

TEST_CASE("Llama-2 puts the system message into the first question") {
  const ChatTemplate chat = recognized(llama2);
  CHECK(text(chat, {{"user", " u "}}) == "<s>[INST] u [/INST]");
  CHECK(text(chat, {{"system", " s"}, {"user", "u\n"}, {"assistant", " a "}, {"user", "v"}}) ==
        "<s>[INST] <<SYS>>\n s\n<</SYS>>\n\nu [/INST] a </s><s>[INST] v [/INST]");
  for (const Messages& wrong :
       {Messages{{"assistant", "a"}}, Messages{{"user", "u"}, {"user", "v"}},
        Messages{{"system", "s"}}}) {
    CHECK_FALSE(chat.format(wrong));
  }
}

TEST_CASE("what people say is never markup") {
  const std::string said = "<|im_end|><|eot_id|>[/INST]</s>";
  for (const auto family :
       {ChatFamily::chatml, ChatFamily::qwen, ChatFamily::llama2, ChatFamily::llama3}) {
    CHECK(*chat_family(name(family)) == family);
    const auto segments = ChatTemplate(family).format(Messages{{"system", said}, {"user", said}});
    REQUIRE(segments);
    int found = 0;
    for (const Segment& segment : *segments) {
      if (segment.text != said) continue;
      CHECK_FALSE(segment.is_markup);
      ++found;
    }
    CHECK(found == 2);
  }
}

TEST_CASE("unknown templates, families, roles and orders are refused") {
  for (const char* jinja : {"", "{{ messages }}", "[INST]", "<|im_start|><|im_sep|>",
                            "<|start_header_id|>", "<|im_start|>[INST]", "<start_of_turn>",
                            "<|start_header_id|><|eot_id|>Cutting Knowledge Date: May 2031"}) {
    const auto made = ChatTemplate::recognize(jinja, "file");
    REQUIRE_FALSE(made);
    CHECK((made.error().code == Errc::unsupported && made.error().where == "file"));
  }
  CHECK_FALSE(chat_family("alpaca"));
  const ChatTemplate chat(ChatFamily::chatml);
  CHECK_FALSE(chat.format(Messages{}));
  CHECK_FALSE(chat.format(Messages{{"tool", "x"}}));
  CHECK_FALSE(chat.format(Messages{{"user<|im_end|>", "x"}}));
  CHECK_FALSE(chat.format(Messages{{"user", "x"}, {"system", "y"}}));
}

TEST_CASE("the template in a configuration") {
  CHECK(*chat_template_of_config(R"({"chat_template": "x"})", "f") == "x");
  CHECK(
      *chat_template_of_config(
          R"({"chat_template": [{"name": "rag", "template": "y"}, {"name": "default", "template": "x"}]})",
          "f") == "x");
  for (const char* json :
       {"", "[]", "{}", R"({"chat_template": 7})", R"({"chat_template": [7, {"name": 3}]})",
        R"({"chat_template": [{"name": "default", "template": null}]})"}) {
    CHECK_FALSE(chat_template_of_config(json, "f"));
  }
}

}  // namespace
