// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include "prompt_options.hpp"

#include <bisup/cache/rounded_prompt.hpp>
#include <bisup/calibrate/prompt_recorder.hpp>
#include <bisup/core/checksum.hpp>
#include <bisup/io/file.hpp>
#include <bisup/llama/stored_prompt.hpp>
#include <bisup/text/unicode.hpp>
#include <span>
#include <string_view>
#include <utility>

#include "command.hpp"

namespace command {

using bisup::Errc;
using bisup::Error;
using bisup::Result;

namespace {

constexpr std::string_view words = "text:";

// What errors are about.
std::string where(const PromptOptions& options) {
  return options.prompt.starts_with("@") ? options.prompt.substr(1) : "--cache-prompt";
}

Result<std::string> text_of(const PromptOptions& options) {
  auto text = options.prompt.starts_with("@")
                  ? bisup::io::read_text_file(options.prompt.substr(1))
                  : Result<std::string>(options.prompt.substr(words.size()));
  if (!text) return text;
  if (text->empty()) return Error{Errc::too_short, "is a prompt of no words", where(options)};
  if (!bisup::text::is_valid_utf8(*text))
    return Error{Errc::malformed, "is a prompt that is not UTF-8", where(options)};
  return text;
}

}  // namespace

void add_prompt_options(CLI::App& sub, PromptOptions& options, Automatic automatic) {
  const bool can_find = automatic == Automatic::yes;
  sub.add_option("--cache-prompt", options.prompt,
                 can_find ? "tokens that the model knows by heart: none, bos, auto (those that "
                            "draw outliers), text:WORDS, @FILE"
                          : "tokens that every window follows: none, bos, text:WORDS, @FILE "
                            "(default: the model's own)")
      ->check([can_find](const std::string& text) {
        const bool known = text == "none" || text == "bos" || (can_find && text == "auto") ||
                           text.starts_with(words) || (text.starts_with("@") && text.size() > 1);
        return known ? std::string()
                     : "must be none, bos, " + std::string(can_find ? "auto, " : "") +
                           "text:WORDS or @FILE, not '" + text + "'";
      })
      ->option_text("PROMPT");
  sub.add_option("--cache-prompt-bits", options.bits,
                 "round the prompt's keys and values too, to see what it is worth that they are "
                 "exact")
      ->check(CLI::IsMember({2, 3, 4, 8, 16}))
      ->option_text("BITS");
}

std::optional<int> bos_of(const bisup::text::Tokenizer& tokenizer) {
  return tokenizer.adds_bos() ? std::optional(tokenizer.bos()) : std::nullopt;
}

std::optional<int> start_token(const bisup::text::Tokenizer& tokenizer,
                               const bisup::llama::Config& config) {
  if (tokenizer.bos() != bisup::text::no_token) return tokenizer.bos();
  if (config.bos_id) return config.bos_id;
  if (!tokenizer.eos().empty()) return tokenizer.eos().front();
  if (!config.eos_ids.empty()) return config.eos_ids.front();
  return std::nullopt;
}

Result<std::vector<int>> prompt_ids(const PromptOptions& options,
                                    const bisup::io::TokenizerFiles& files,
                                    const bisup::llama::Config& config) {
  if (options.prompt.empty() || options.prompt == "none" || options.automatic())
    return std::vector<int>();
  const auto tokenizer = open_tokenizer(files);
  if (!tokenizer) return tokenizer.error();
  Result<std::vector<int>> ids = std::vector<int>();
  if (options.prompt == "bos") {
    const auto start = start_token(*tokenizer, config);
    if (!start && options.by_method) return ids;
    if (!start) return Error{Errc::missing, "has no token that begins a text", files.where};
    ids = std::vector{*start};
  } else {
    const auto text = text_of(options);
    if (!text) return text.error();
    ids = tokenizer->encode(*text);
  }
  if (!ids) return about(ids.error(), where(options));
  if (ids->empty()) return Error{Errc::too_short, "is a prompt of no tokens", where(options)};
  if (auto fits = bisup::check_prompt_length(ids->size(), config); !fits)
    return about(fits.error(), where(options));
  if (auto known = bisup::llama::check_ids(*ids, config); !known)
    return about(known.error(), where(options));
  return ids;
}

Result<void> read_prompt(const PromptOptions& options, bisup::io::ModelFile& file,
                         bisup::ThreadPool& pool) {
  if (options.prompt.empty()) return {};
  bisup::llama::Model& model = file.model;
  const auto ids = prompt_ids(options, file.tokenizer, model.config);
  if (!ids) return ids.error();
  model.prompt = {};
  if (ids->empty()) return {};
  auto prompt = bisup::llama::store_prompt(model, *ids, bisup::DType::f16, pool);
  if (!prompt) return about(prompt.error(), where(options));
  model.prompt = std::move(prompt).value();
  return {};
}

Result<void> round_prompt(const PromptOptions& options, const bisup::KvPolicy& policy,
                          bisup::llama::Model& model) {
  if (options.bits == 16) return {};
  if (model.prompt.empty())
    return Error{Errc::bad_scheme, "--cache-prompt-bits rounds a prompt, and there is none"};
  model.prompt = bisup::rounded_prompt(model.prompt, policy, options.bits);
  return {};
}

nlohmann::json prompt_provenance(const PromptOptions& options, const bisup::PromptCache& prompt) {
  const std::string from = options.prompt.starts_with("@")     ? "file"
                           : options.prompt.starts_with(words) ? "text"
                                                               : options.prompt;
  return {{"from", from},
          {"tokens", prompt.tokens()},
          {"crc32c", bisup::crc32c(std::as_bytes(prompt.ids()))},
          {"bits", options.bits}};
}

}  // namespace command
