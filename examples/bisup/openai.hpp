// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a client of OpenAI's API ask, and what does it read? The requests of /v1/completions and
// /v1/chat/completions as options of ours, our answers as their objects and events. What a request
// asks for and this server does not do is refused, never passed over.

#include <bisup/core/result.hpp>
#include <bisup/text/chat_template.hpp>
#include <bisup/text/continuous_batch.hpp>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "command.hpp"

namespace command::openai {

enum class Route : std::uint8_t { completion, chat };

struct Request {
  std::vector<bisup::text::ChatMessage> messages;  // of a chat
  std::string prompt;                              // of a completion
  bisup::text::GenerateOptions generate;
  bool stream = false, stream_usage = false;
};
// defaults: what a request does not say; its seed if it says none. Errors: malformed, missing,
// unsupported, out_of_range.
[[nodiscard]] bisup::Result<Request> read_request(std::string_view body, Route route,
                                                  const bisup::text::GenerateOptions& defaults);

struct PromptTokens {
  std::size_t all = 0, stored = 0;  // stored: with the model
};

// One answer's objects.
class Writer {
 public:
  // number: of the answer, from which its id is made.
  Writer(Route route, std::string model, std::uint64_t number, PromptTokens prompt);

  [[nodiscard]] Json whole(const std::string& text, const bisup::text::Reply& reply) const;
  // Of a stream: its beginning, a piece of text, its end, what was counted.
  [[nodiscard]] Json first() const;
  [[nodiscard]] Json piece(const std::string& text) const;
  [[nodiscard]] Json last(const bisup::text::Reply& reply) const;
  [[nodiscard]] Json usage(const bisup::text::Reply& reply) const;

 private:
  [[nodiscard]] Json object(const char* kind, Json choices) const;
  [[nodiscard]] Json chunk(Json said, const Json& finish) const;
  [[nodiscard]] Json count(const bisup::text::Reply& reply) const;

  Route route_;
  std::string model_;
  std::int64_t created_;
  std::string id_;
  PromptTokens prompt_;
};

// "data: {...}\n\n"
[[nodiscard]] std::string event(const Json& json);
inline constexpr std::string_view end_of_events = "data: [DONE]\n\n";

[[nodiscard]] int status(const bisup::Error& error);
[[nodiscard]] Json error(int status, const std::string& message, const char* code = nullptr);
[[nodiscard]] Json error(const bisup::Error& error);

}  // namespace command::openai
