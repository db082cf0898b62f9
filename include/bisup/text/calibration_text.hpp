// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does a file of calibration data say? A plain text, or JSON lines of texts or conversations;
// either way a list of token ids, document after document, as the model would read them.

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <bisup/core/result.hpp>
#include <bisup/io/json.hpp>
#include <bisup/text/chat_template.hpp>
#include <bisup/text/json_reader.hpp>
#include <bisup/text/tokenizer.hpp>
#include <bisup/text/unicode.hpp>

namespace bisup::text {

struct CalibrationText {
  std::vector<int> ids;
  int documents = 0;
  std::string kind;  // "text", "jsonl" or "chat"
};

// How a conversation becomes tokens; none if the model has no template that is known.
struct ChatFormat {
  const ChatTemplate* chat = nullptr;
  ChatOptions options = {};
};

namespace detail {

// {"messages": [{"role": "user", "content": "..."}, ...]}
[[nodiscard]] inline Result<std::vector<int>> encode_conversation(const io::Json& messages,
                                                                  const Tokenizer& tokenizer,
                                                                  const ChatFormat& format,
                                                                  JsonReader& reader) {
  std::vector<ChatMessage> conversation;
  if (!messages.is_array()) reader.fail(Errc::malformed, "'messages' is not a list");
  for (const auto& message : messages) {
    conversation.push_back({reader.string(message, "role", "a message"),
                            reader.string(message, "content", "a message")});
  }
  if (reader.failed()) return reader.error();
  if (format.chat == nullptr) {
    return Error{Errc::unsupported,
                 "holds conversations, but the model has no chat template that is known"};
  }
  ChatOptions options = format.options;
  options.invite_answer = false;  // the answers are part of it
  const auto segments = format.chat->format(conversation, options);
  if (!segments) return segments.error();
  return tokenizer.encode(*segments);
}

}  // namespace detail

// JSON lines if `where` ends in .jsonl: one object a line, {"text": "..."} or {"messages": [...]}.
// Errors name the file and the line: malformed and missing (not UTF-8, a line that is no such
// object), unsupported (conversations without a template); too_short: no document at all.
[[nodiscard]] inline Result<CalibrationText> read_calibration_text(std::string_view bytes,
                                                                   const std::string& where,
                                                                   const Tokenizer& tokenizer,
                                                                   const ChatFormat& format = {}) {
  CalibrationText result;
  if (!where.ends_with(".jsonl")) {
    if (const std::size_t valid = valid_utf8_prefix(bytes); valid < bytes.size()) {
      const auto line = 1 + std::count(bytes.begin(), bytes.begin() + valid, '\n');
      return Error{Errc::malformed, "line " + std::to_string(line) + " is not UTF-8", where};
    }
    auto ids = tokenizer.encode(bytes);
    if (!ids) return Error{ids.error().code, ids.error().message, where};
    result = {std::move(ids).value(), 1, "text"};
  }
  int line_number = 0;
  while (where.ends_with(".jsonl") && !bytes.empty()) {
    const std::size_t end = std::min(bytes.find('\n'), bytes.size());
    const std::string_view line = bytes.substr(0, end);
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
    ++line_number;
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    const std::string here = "line " + std::to_string(line_number);
    const auto refuse = [&](const Error& error) {
      return Error{error.code, here + ": " + error.message, where};
    };
    const auto json = io::parse_json(line, "", "the text");
    if (!json) return refuse(json.error());
    JsonReader reader("");
    const io::Json* messages = JsonReader::find(*json, "messages");
    auto ids = messages != nullptr
                   ? detail::encode_conversation(*messages, tokenizer, format, reader)
                   : tokenizer.encode(reader.string(*json, "text", "the object"));
    if (reader.failed()) return refuse(reader.error());
    if (!ids) return refuse(ids.error());
    result.ids.insert(result.ids.end(), ids->begin(), ids->end());
    result.kind = messages != nullptr ? "chat" : "jsonl";
    ++result.documents;
  }
  if (result.ids.empty()) return Error{Errc::too_short, "holds no text to calibrate on", where};
  return result;
}

}  // namespace bisup::text
