// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include "openai.hpp"

#include <fmt/core.h>

#include <array>
#include <bisup/io/json.hpp>
#include <bisup/io/json_fields.hpp>
#include <ctime>
#include <utility>

namespace command::openai {

using bisup::Errc;
using bisup::Error;
using bisup::Result;
using bisup::text::Finish;
using bisup::text::Reply;

namespace {

// What a request may spell out without asking for anything that this server does not do.
struct Neutral {
  const char* key;
  const char* value;
};
constexpr std::array neutral = {
    Neutral{"n", "1"},
    Neutral{"best_of", "1"},
    Neutral{"echo", "false"},
    Neutral{"suffix", "\"\""},
    Neutral{"logprobs", "false"},
    Neutral{"top_logprobs", "0"},
    Neutral{"presence_penalty", "0"},
    Neutral{"frequency_penalty", "0"},
    Neutral{"logit_bias", "{}"},
    Neutral{"tools", "[]"},
    Neutral{"functions", "[]"},
    Neutral{"modalities", R"(["text"])"},
    Neutral{"response_format", R"({"type":"text"})"},
};

// A message's words: a string, or a list of parts that are text.
std::string content_of(bisup::io::JsonFields& fields) {
  const auto* content = fields.find("content");
  if (content == nullptr) return fields.fail(Errc::missing, "a message has no 'content'"), "";
  if (!content->is_array()) return fields.text("content", "");
  std::string words;
  for (const auto& part : *content) {
    const bool is_text = part.is_object() && part.value("type", bisup::io::Json()) == "text" &&
                         part.contains("text") && part["text"].is_string();
    if (!is_text) {
      fields.fail(Errc::unsupported, "a message has parts that are not text");
      break;
    }
    words += part["text"].get_ref<const std::string&>();
  }
  return words;
}

void read_messages(bisup::io::JsonFields& fields, Request& request) {
  const auto* messages = fields.find("messages");
  if (messages == nullptr || !messages->is_array() || messages->empty()) {
    return fields.fail(messages == nullptr ? Errc::missing : Errc::malformed,
                       "'messages' is to be a list of at least one message");
  }
  for (const auto& message : *messages) {
    if (!message.is_object()) return fields.fail(Errc::malformed, "a message is not an object");
    auto inside = fields.inside(message);
    std::string role = inside.text("role", "");
    if (role == "developer") role = "system";  // its newer name
    request.messages.push_back({std::move(role), content_of(inside)});
    if (inside.error()) return fields.fail(inside.error()->code, inside.error()->message);
  }
}

void read_stops(bisup::io::JsonFields& fields, std::vector<std::string>& stops) {
  const auto* stop = fields.find("stop");
  if (stop == nullptr) return;
  if (stop->is_string()) return stops.push_back(stop->get<std::string>());
  if (!stop->is_array() || stop->size() > 16) {
    return fields.wrong("stop", "is neither a string nor a list of at most 16");
  }
  for (const auto& one : *stop) {
    if (!one.is_string()) return fields.wrong("stop", "holds something that is no string");
    stops.push_back(one.get<std::string>());
  }
}

void read_sampling(bisup::io::JsonFields& fields, bisup::llama::SamplingOptions& sampling) {
  const auto number = [&](const char* key, float& into, double low, double high) {
    const double value = fields.number(key, into);
    if (value >= low && value <= high) {
      into = static_cast<float>(value);
    } else {
      fields.fail(Errc::out_of_range, fmt::format("'{}' is not from {} to {}", key, low, high));
    }
  };
  number("temperature", sampling.temperature, 0, 100);
  number("top_p", sampling.top_p, 1e-6, 1);
  number("min_p", sampling.min_p, 0, 1);
  number("repetition_penalty", sampling.repetition_penalty, 0.01, 100);
  sampling.top_k = fields.integer("top_k", sampling.top_k);
  if (sampling.top_k < 0) fields.fail(Errc::out_of_range, "'top_k' is negative");
  if (const auto* seed = fields.find("seed")) {
    if (!seed->is_number_integer()) return fields.wrong("seed", "is not an integer");
    sampling.seed = seed->is_number_unsigned()
                        ? seed->get<std::uint64_t>()
                        : static_cast<std::uint64_t>(seed->get<std::int64_t>());
  }
}

void read_lengths(bisup::io::JsonFields& fields, bisup::text::GenerateOptions& generate) {
  for (const char* key : {"max_tokens", "max_completion_tokens"}) {
    generate.tokens = fields.integer(key, generate.tokens);
    if (generate.tokens < 1) {
      return fields.fail(Errc::out_of_range, fmt::format("'{}' is less than 1", key));
    }
  }
}

const char* finish_reason(Finish finish) {
  return finish == Finish::length ? "length" : "stop";
}

}  // namespace

Result<Request> read_request(std::string_view body, Route route,
                             const bisup::text::GenerateOptions& defaults) {
  const auto json = bisup::io::parse_json(body, "", "the request");
  if (!json) return json.error();
  if (!json->is_object()) return Error{Errc::malformed, "the request is not an object"};
  bisup::io::JsonFields fields(*json, "");
  for (const auto& [key, value] : neutral) {
    const auto* asked = fields.find(key);
    if (asked == nullptr || *asked == bisup::io::Json::parse(value)) continue;
    return Error{Errc::unsupported, fmt::format("'{}' is not supported here", key)};
  }
  Request request;
  request.generate = defaults;
  if (route == Route::chat) {
    read_messages(fields, request);
  } else if (const auto* prompt = fields.find("prompt"); prompt != nullptr && prompt->is_string()) {
    request.prompt = prompt->get<std::string>();
  } else {
    fields.fail(prompt == nullptr ? Errc::missing : Errc::unsupported,
                "'prompt' is to be a string");
  }
  read_stops(fields, request.generate.stops);
  read_sampling(fields, request.generate.sampling);
  read_lengths(fields, request.generate);
  request.stream = fields.boolean("stream", false);
  if (const auto* options = fields.find("stream_options"); options != nullptr) {
    if (!options->is_object()) fields.wrong("stream_options", "is not an object");
    auto inside = fields.inside(*options);
    request.stream_usage = options->is_object() && inside.boolean("include_usage", false);
    if (inside.error()) return *inside.error();
  }
  if (fields.error()) return *fields.error();
  return request;
}

Writer::Writer(Route route, std::string model, std::uint64_t number, PromptTokens prompt)
    : route_(route),
      model_(std::move(model)),
      created_(std::time(nullptr)),
      id_(fmt::format("{}-{:x}-{}", route == Route::chat ? "chatcmpl" : "cmpl", created_, number)),
      prompt_(prompt) {}

Json Writer::object(const char* kind, Json choices) const {
  return {{"id", id_},
          {"object", kind},
          {"created", created_},
          {"model", model_},
          {"choices", std::move(choices)}};
}

Json Writer::count(const Reply& reply) const {
  const std::size_t said = reply.generation.ids.size();
  const std::size_t cached = prompt_.stored + static_cast<std::size_t>(reply.known);
  return {{"prompt_tokens", prompt_.all},
          {"completion_tokens", said},
          {"total_tokens", prompt_.all + said},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

Json Writer::whole(const std::string& text, const Reply& reply) const {
  Json choice = {{"index", 0}};
  if (route_ == Route::chat) {
    choice["message"] = {{"role", "assistant"}, {"content", text}};
  } else {
    choice["text"] = text;
  }
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = finish_reason(reply.generation.finish);
  Json made =
      object(route_ == Route::chat ? "chat.completion" : "text_completion", Json::array({choice}));
  made["usage"] = count(reply);
  return made;
}

Json Writer::chunk(Json said, const Json& finish) const {
  Json choice = {{"index", 0}};
  choice[route_ == Route::chat ? "delta" : "text"] = std::move(said);
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = finish;
  return object(route_ == Route::chat ? "chat.completion.chunk" : "text_completion",
                Json::array({choice}));
}

Json Writer::first() const {
  return chunk(Json::object({{"role", "assistant"}, {"content", ""}}), nullptr);
}

Json Writer::piece(const std::string& text) const {
  return chunk(route_ == Route::chat ? Json::object({{"content", text}}) : Json(text), nullptr);
}

Json Writer::last(const Reply& reply) const {
  return chunk(route_ == Route::chat ? Json::object() : Json(""),
               finish_reason(reply.generation.finish));
}

Json Writer::usage(const Reply& reply) const {
  Json made =
      object(route_ == Route::chat ? "chat.completion.chunk" : "text_completion", Json::array());
  made["usage"] = count(reply);
  return made;
}

std::string event(const Json& json) {
  return "data: " + json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n\n";
}

int status(const Error& error) {
  switch (error.code) {
    case Errc::interrupted: return 503;
    case Errc::out_of_memory:
    case Errc::not_finite: return 500;
    default: return 400;
  }
}

Json error(int status, const std::string& message, const char* code) {
  Json inner = {{"message", message},
                {"type", status >= 500 ? "server_error" : "invalid_request_error"},
                {"param", nullptr},
                {"code", nullptr}};
  if (code != nullptr) inner["code"] = code;
  return {{"error", inner}};
}

Json error(const Error& problem) {
  return error(status(problem), problem.describe(),
               problem.code == Errc::cache_full ? "context_length_exceeded" : nullptr);
}

}  // namespace command::openai
