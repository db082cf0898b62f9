// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is a conversation written for a model? ChatTemplate recognises the family of a Jinja template
// by its text, takes from it what differs inside the family (the default system message, for one),
// and writes Segments for Tokenizer::encode. A template it does not know is refused, never guessed.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bisup/core/result.hpp>
#include <bisup/io/json.hpp>
#include <bisup/text/tokenizer.hpp>

namespace bisup::text {

enum class ChatFamily : std::uint8_t { chatml, qwen, llama2, llama3 };

[[nodiscard]] constexpr std::string_view name(ChatFamily family) noexcept {
  constexpr std::array<std::string_view, 4> names = {"chatml", "qwen", "llama2", "llama3"};
  return names[static_cast<std::size_t>(family)];
}

[[nodiscard]] inline Result<ChatFamily> chat_family(std::string_view named) {
  for (const auto family :
       {ChatFamily::chatml, ChatFamily::qwen, ChatFamily::llama2, ChatFamily::llama3}) {
    if (name(family) == named) return family;
  }
  return Error{Errc::unsupported, "no chat template family " + io::in_quotes(named) +
                                      " (chatml, qwen, llama2, llama3)"};
}

struct ChatMessage {
  std::string role;  // system, user or assistant
  std::string content;
};

struct ChatOptions {
  std::string bos = {},
              eos = {};       // how the tokenizer spells them; written only by templates that do
  bool invite_answer = true;  // end where the assistant is to speak
  bool thinking = true;       // false: Qwen3 is told not to think first
  std::string date = {};  // "26 Jul 2024", for templates that state one; empty: the template's own
};

class ChatTemplate {
 public:
  // The plain form of a family, for models whose template is missing or not known.
  explicit ChatTemplate(ChatFamily family) : family_(family) {}

  // Precondition of use: the text is the model's `chat_template`, Jinja source.
  [[nodiscard]] static Result<ChatTemplate> recognize(std::string_view jinja,
                                                      const std::string& where);

  [[nodiscard]] ChatFamily family() const noexcept { return family_; }
  // Written where a conversation does not begin with a system message; empty if nothing is.
  [[nodiscard]] const std::string& default_system() const noexcept { return default_system_; }

  // Refuses what the template would: an unknown role, a system message behind others (Llama-2:
  // roles that do not alternate), an empty conversation.
  [[nodiscard]] Result<std::vector<Segment>> format(std::span<const ChatMessage> messages,
                                                    const ChatOptions& options = {}) const;

 private:
  // Collects markup and content; neighbours of one kind become one segment.
  class Writer {
   public:
    Writer& markup(std::string_view text) { return add(text, true); }
    Writer& content(std::string_view text) { return add(text, false); }
    [[nodiscard]] std::vector<Segment> take() { return std::move(segments_); }

   private:
    Writer& add(std::string_view text, bool is_markup) {
      if (text.empty()) return *this;
      if (segments_.empty() || segments_.back().is_markup != is_markup) {
        segments_.push_back({"", is_markup});
      }
      segments_.back().text += text;
      return *this;
    }
    std::vector<Segment> segments_;
  };

  static std::string_view trim(std::string_view text) {
    const auto space = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
    while (!text.empty() && space(text.front())) text.remove_prefix(1);
    while (!text.empty() && space(text.back())) text.remove_suffix(1);
    return text;
  }
  static std::string_view strip_newlines(std::string_view text, bool left, bool right) {
    while (left && text.starts_with('\n')) text.remove_prefix(1);
    while (right && text.ends_with('\n')) text.remove_suffix(1);
    return text;
  }
  [[nodiscard]] std::string_view spoken(std::string_view content) const {
    return trims_ ? trim(content) : content;
  }

  void write_chatml(Writer& out, std::span<const ChatMessage> messages,
                    const ChatOptions& options) const;
  void write_qwen3_answer(Writer& out, std::string_view content, bool is_past, bool is_last) const;
  void write_llama2(Writer& out, std::span<const ChatMessage> messages,
                    const ChatOptions& options) const;
  void write_llama3(Writer& out, std::span<const ChatMessage> messages,
                    const ChatOptions& options) const;

  ChatFamily family_;
  std::string default_system_;
  bool trims_ = false;  // contents lose the white space around them
  bool writes_bos_ = false;
  bool drops_thoughts_ = false;   // Qwen3: what was thought before earlier answers is not repeated
  bool invites_thought_ = false;  // the answer begins with <think>
  bool always_invites_ = false;   // the oldest Llama-3 template ends in an invitation, asked or not
  std::string date_;              // Llama-3.1 and later: stated in every system message
  bool states_date_ = false;
};

namespace detail {

// "\n" and friends of a Jinja string literal as the characters they stand for.
inline std::string unescape_jinja(std::string_view literal) {
  std::string out;
  for (std::size_t i = 0; i < literal.size(); ++i) {
    if (literal[i] != '\\' || i + 1 == literal.size()) {
      out += literal[i];
      continue;
    }
    const char c = literal[++i];
    if (c != 'n' && c != 't' && c != '\\' && c != '\'' && c != '"') out += '\\';
    out += c == 'n' ? '\n' : c == 't' ? '\t' : c;
  }
  return out;
}

// The text between `before` and `behind` inside one string literal of the template; nothing if the
// literal ends before `behind`. A newline in `before` may be spelled either way.
inline std::optional<std::string> literal_between(std::string_view jinja, std::string_view before,
                                                  std::string_view behind) {
  for (std::size_t at = 0; (at = jinja.find(before, at)) != jinja.npos;) {
    const char* const marker = jinja.data() + at;
    at += before.size();
    std::string_view rest = jinja.substr(at);
    if (rest.starts_with("\\n")) {
      rest.remove_prefix(2);
    } else if (rest.starts_with('\n')) {
      rest.remove_prefix(1);
    }
    const std::size_t end = rest.find(behind);
    if (end == rest.npos) return std::nullopt;
    // The literal's quote is the nearest one in front of the marker.
    const std::string_view head(jinja.data(), static_cast<std::size_t>(marker - jinja.data()));
    const std::size_t open = head.find_last_of("'\"");
    if (open == head.npos) continue;
    const std::string_view found = rest.substr(0, end);
    bool closed = false;
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (found[i] == '\\') {
        ++i;
      } else if (found[i] == head[open]) {
        closed = true;
      }
    }
    if (!closed) return unescape_jinja(found);
  }
  return std::nullopt;
}

}  // namespace detail

inline Result<ChatTemplate> ChatTemplate::recognize(std::string_view jinja,
                                                    const std::string& where) {
  const auto has = [jinja](std::string_view part) { return jinja.find(part) != jinja.npos; };
  const auto refuse = [&where](std::string_view why) {
    return Error{Errc::unsupported,
                 "the chat template is none of ChatML, Qwen, Llama-2, Llama-3 (" +
                     std::string(why) + "); name a family to use it all the same",
                 where};
  };
  if (has("<|im_start|>")) {
    if (has("<|im_sep|>")) return refuse("it has <|im_sep|>");
    if (has("<|start_header_id|>") || has("[INST]")) return refuse("it mixes markups");
    const bool qwen = has("Qwen") || has("<tool_call>") || has("reasoning_content");
    ChatTemplate made(qwen ? ChatFamily::qwen : ChatFamily::chatml);
    made.default_system_ =
        detail::literal_between(jinja, "<|im_start|>system", "<|im_end|>").value_or("");
    made.trims_ = has("| trim") || has("|trim");
    made.writes_bos_ = has("bos_token");
    made.drops_thoughts_ = has("</think>") && has("last_query_index");
    if (const std::size_t invitation = jinja.rfind("<|im_start|>assistant");
        invitation != jinja.npos) {
      const std::string_view rest = jinja.substr(invitation + 21);
      made.invites_thought_ = rest.starts_with("\\n<think>") || rest.starts_with("\n<think>");
    }
    return made;
  }
  if (has("<|start_header_id|>")) {
    if (!has("<|eot_id|>")) return refuse("it has headers without <|eot_id|>");
    ChatTemplate made(ChatFamily::llama3);
    made.trims_ = has("| trim") || has("|trim");
    made.writes_bos_ = has("bos_token");
    made.always_invites_ = !has("add_generation_prompt");
    made.states_date_ = has("Cutting Knowledge Date");
    if (made.states_date_) {
      if (!has("Cutting Knowledge Date: December 2023"))
        return refuse("it states an unknown cutoff");
      made.date_ = detail::literal_between(jinja, "date_string = \"", "\"").value_or("26 Jul 2024");
    }
    return made;
  }
  if (has("[INST]") && has("<<SYS>>")) return ChatTemplate(ChatFamily::llama2);
  return refuse(has("[INST]") ? "it has [INST] without <<SYS>>"
                              : "it has no markup that is known here");
}

inline Result<std::vector<Segment>> ChatTemplate::format(std::span<const ChatMessage> messages,
                                                         const ChatOptions& options) const {
  if (messages.empty()) return Error{Errc::missing, "a conversation without messages"};
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant") {
      return Error{Errc::unsupported, "a message of the role " + io::in_quotes(role)};
    }
    if (role == "system" && i > 0) {
      return Error{Errc::unsupported, "a system message that does not come first"};
    }
  }
  const bool has_system = messages.front().role == "system";
  if (family_ == ChatFamily::llama2) {
    for (std::size_t i = has_system ? 1 : 0, turn = 0; i < messages.size(); ++i, ++turn) {
      if ((messages[i].role == "user") != (turn % 2 == 0)) {
        return Error{Errc::unsupported, "roles that do not alternate, user first"};
      }
    }
    if (has_system && messages.size() == 1) {
      return Error{Errc::unsupported, "a system message without a question"};
    }
  }
  Writer out;
  switch (family_) {
    case ChatFamily::chatml:
    case ChatFamily::qwen: write_chatml(out, messages, options); break;
    case ChatFamily::llama2: write_llama2(out, messages, options); break;
    case ChatFamily::llama3: write_llama3(out, messages, options); break;
  }
  return out.take();
}

inline void ChatTemplate::write_chatml(Writer& out, std::span<const ChatMessage> messages,
                                       const ChatOptions& options) const {
  if (writes_bos_) out.markup(options.bos);
  if (messages.front().role != "system" && !default_system_.empty()) {
    out.markup("<|im_start|>system\n" + default_system_ + "<|im_end|>\n");
  }
  std::size_t last_question = messages.size() - 1;
  for (std::size_t i = messages.size(); i-- > 0;) {
    const std::string& content = messages[i].content;
    const bool tool =
        content.starts_with("<tool_response>") && content.ends_with("</tool_response>");
    if (messages[i].role == "user" && !tool) {
      last_question = i;
      break;
    }
  }
  for (std::size_t i = 0; i < messages.size(); ++i) {
    out.markup("<|im_start|>" + messages[i].role + "\n");
    if (drops_thoughts_ && messages[i].role == "assistant") {
      write_qwen3_answer(out, messages[i].content, i <= last_question, i + 1 == messages.size());
    } else {
      out.content(spoken(messages[i].content));
    }
    out.markup("<|im_end|>\n");
  }
  if (!options.invite_answer) return;
  out.markup("<|im_start|>assistant\n");
  if (invites_thought_) {
    out.markup("<think>\n");
  } else if (drops_thoughts_ && !options.thinking) {
    out.markup("<think>\n\n</think>\n\n");
  }
}

// Thoughts come back as markup, wherever the assistant's message spelled them.
inline void ChatTemplate::write_qwen3_answer(Writer& out, std::string_view content, bool is_past,
                                             bool is_last) const {
  static constexpr std::string_view open = "<think>", close = "</think>";
  std::string_view thought;
  if (const std::size_t first = content.find(close); first != content.npos) {
    thought = strip_newlines(content.substr(0, first), false, true);
    if (const std::size_t begin = thought.rfind(open); begin != thought.npos) {
      thought.remove_prefix(begin + open.size());
    }
    thought = strip_newlines(thought, true, false);
    content = strip_newlines(content.substr(content.rfind(close) + close.size()), true, false);
  }
  if (is_past || (!is_last && thought.empty())) {
    out.content(content);
    return;
  }
  out.markup("<think>\n").content(strip_newlines(thought, true, true)).markup("\n</think>\n\n");
  out.content(strip_newlines(content, true, false));
}

inline void ChatTemplate::write_llama2(Writer& out, std::span<const ChatMessage> messages,
                                       const ChatOptions& options) const {
  const bool has_system = messages.front().role == "system";
  for (std::size_t i = has_system ? 1 : 0; i < messages.size(); ++i) {
    const std::string_view content = messages[i].content;
    if (messages[i].role == "assistant") {
      out.markup(" ").content(trim(content)).markup(" " + options.eos);
      continue;
    }
    out.markup(options.bos + "[INST] ");
    if (has_system && i == 1) {
      // The whole is trimmed, so what the system message begins with stays and the question's end
      // goes.
      out.markup("<<SYS>>\n").content(messages[0].content).markup("\n<</SYS>>\n\n");
      std::string_view question = content;
      while (!question.empty() && trim(question.substr(question.size() - 1)).empty())
        question.remove_suffix(1);
      out.content(question);
    } else {
      out.content(trim(content));
    }
    out.markup(" [/INST]");
  }
}

inline void ChatTemplate::write_llama3(Writer& out, std::span<const ChatMessage> messages,
                                       const ChatOptions& options) const {
  const auto header = [&out](std::string_view role) {
    out.markup("<|start_header_id|>").markup(role).markup("<|end_header_id|>\n\n");
  };
  if (writes_bos_) out.markup(options.bos);
  std::size_t first = 0;
  if (states_date_) {
    header("system");
    out.markup("Cutting Knowledge Date: December 2023\nToday Date: ");
    out.markup(options.date.empty() ? date_ : options.date).markup("\n\n");
    if (messages.front().role == "system") out.content(trim(messages[first++].content));
    out.markup("<|eot_id|>");
  }
  for (std::size_t i = first; i < messages.size(); ++i) {
    header(messages[i].role);
    out.content(spoken(messages[i].content)).markup("<|eot_id|>");
  }
  if (options.invite_answer || always_invites_) header("assistant");
}

// The template in a tokenizer_config.json: a string, or a list of named ones of which the default
// is taken. Errc::missing if there is none.
[[nodiscard]] inline Result<std::string> chat_template_of_config(std::string_view json,
                                                                 const std::string& where) {
  const auto config = io::parse_json(json, where, "the tokenizer's configuration");
  if (!config) return config.error();
  const auto missing = [&where] { return Error{Errc::missing, "has no chat_template", where}; };
  if (!config->is_object() || !config->contains("chat_template")) return missing();
  const io::Json& found = (*config)["chat_template"];
  if (found.is_string()) return found.get_ref<const std::string&>();
  if (!found.is_array()) return missing();
  for (const io::Json& one : found) {
    if (one.is_object() && one.value("name", io::Json()) == "default" && one.contains("template") &&
        one["template"].is_string()) {
      return one["template"].get_ref<const std::string&>();
    }
  }
  return missing();
}

}  // namespace bisup::text
