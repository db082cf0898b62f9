// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include "conversation.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <bisup/io/prompt_file.hpp>
#include <bisup/llama/stored_prompt.hpp>
#include <bisup/text/model_files.hpp>
#include <cmath>
#include <utility>

#include "prompt_options.hpp"

#include "terminal.hpp"

namespace command {

namespace text = bisup::text;
using bisup::Errc;
using bisup::Error;
using bisup::Result;

namespace {

std::string tokens_at(int tokens, double rate) {
  const std::string count = fmt::format("{} token{}", tokens, tokens == 1 ? "" : "s");
  return std::isnan(rate) ? count : fmt::format("{} at {:.1f} a second", count, rate);
}

}  // namespace

std::string Speed::read() const {
  return tokens_at(prompt_tokens, prompt_rate());
}
std::string Speed::written() const {
  return tokens_at(tokens, rate());
}

void add_conversation_options(CLI::App& sub, ConversationOptions& options) {
  sub.add_option("-n,--tokens", options.generate.tokens, "tokens of an answer, at most")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  sub.add_option("--context", options.context,
                 "tokens that can be remembered (at most the model's)")
      ->check(CLI::Range(2, 1 << 26))
      ->capture_default_str();
  add_sampling_options(sub, options.generate.sampling, options.generate.stops);
  add_scheme_option(sub, options.scheme, "simulate this scheme on a float model");
  options.kv.talks = true;
  add_kv_options(sub, options.kv);
  sub.add_option("--load-prompt", options.load_prompt,
                 "begin behind what --save-prompt kept in this file")
      ->option_text("FILE");
  sub.add_option("--template", options.chat_family,
                 "the chat template's family, whatever the model says")
      ->check(CLI::IsMember({"chatml", "qwen", "llama2", "llama3"}));
}

void add_roll_option(CLI::App& sub, ConversationOptions& options) {
  sub.add_flag("--roll", options.generate.rolls,
               "when the context is full, go on with its first tokens and the newest half");
}

Result<std::unique_ptr<Conversation>> Conversation::open(const ConversationOptions& options,
                                                         bool chat) {
  bisup::ThreadPool pool(options.common.threads);
  auto file = open_model(options.common.model, options.scheme, pool);
  if (!file) return file.error();
  if (!options.load_prompt.empty()) {
    auto prompt = bisup::io::load_prompt(options.load_prompt, file->model);
    if (!prompt) return prompt.error();
    file->model.prompt = std::move(prompt).value();
  }
  auto tokenizer = open_tokenizer(file->tokenizer);
  if (!tokenizer) return tokenizer.error();
  std::unique_ptr<Conversation> made(
      new Conversation(options, std::move(file).value(), std::move(tokenizer).value()));
  auto policy = kv_policy(made->model(), options.kv);
  if (!policy) return about(policy.error(), options.common.model);
  made->policy_ = std::move(policy).value();
  auto& eos = made->options_.generate.eos;
  eos = made->model().config.eos_ids;
  eos.insert(eos.end(), made->tokenizer_.eos().begin(), made->tokenizer_.eos().end());
  if (chat) {
    if (auto found = made->find_template(); !found) return found.error();
  }
  return made;
}

Result<void> Conversation::find_template() {
  if (!options_.chat_family.empty()) {
    const auto family = text::chat_family(options_.chat_family);
    if (!family) return family.error();
    template_ = text::ChatTemplate(*family);
  } else {
    auto found = text::load_chat_template(file_.tokenizer);
    if (!found) return about(found.error(), options_.common.model);
    template_ = std::move(found).value();
  }
  // Some files name only the end of a document as their end; a turn ends as its template says.
  for (const char* end_of_turn : {"<|im_end|>", "<|eot_id|>"}) {
    const int id = tokenizer_.find(end_of_turn);
    if (id != text::no_token && tokenizer_.is_special(id)) options_.generate.eos.push_back(id);
  }
  return {};
}

Result<std::vector<int>> Conversation::ids_of(std::span<const text::ChatMessage> messages) const {
  text::ChatOptions options;
  if (tokenizer_.bos() != text::no_token) options.bos = tokenizer_.token(tokenizer_.bos());
  if (!tokenizer_.eos().empty()) options.eos = tokenizer_.token(tokenizer_.eos().front());
  if (options.eos.empty() && !model().config.eos_ids.empty()) {
    options.eos = tokenizer_.token(model().config.eos_ids.front());
  }
  const auto segments = template_.format(messages, options);
  if (!segments) return about(segments.error(), options_.common.model);
  return tokenizer_.encode(*segments);
}

Json Conversation::json() const {
  return {{"model", options_.common.model},
          {"scheme", model().scheme.name()},
          {"kv", kv_name(policy_)},
          {"kv_sinks", policy_.sinks},
          {"kv_recent", policy_.recent}};
}

int Conversation::context() const {
  return std::min(options_.context, model().config.max_positions);
}

std::span<const int> Conversation::after_prompt(std::span<const int> request) const {
  return bisup::after_prompt(request, model().prompt, bos_of(tokenizer_));
}

Result<text::ContinuousBatch> Conversation::batch(text::ContinuousBatchOptions options) {
  options.capacity = context();
  auto made = text::ContinuousBatch::make(model(), tokenizer_, policy_, options, pool_);
  if (!made) return about(made.error(), options_.common.model);
  return made;
}

Result<void> Conversation::save_prompt(const std::string& path, const std::vector<int>& ids) {
  const auto rest = bisup::after_prompt(ids, model().prompt);
  const auto prompt = bisup::llama::store_prompt(model(), rest, bisup::DType::f16, pool_);
  if (!prompt) return about(prompt.error(), options_.common.model);
  return bisup::io::save_prompt(path, model(), *prompt);
}

Result<Answer> Conversation::answer(const std::vector<int>& request, const text::Emit& show) {
  const int stored = model().prompt.tokens();
  if (session_.empty()) {
    auto made = bisup::llama::Session::make(model(), context() + stored, policy_, pool_);
    if (!made) return about(made.error(), options_.common.model);
    session_.push_back(std::move(made).value());
  }
  auto& session = session_.front();
  const auto ids = after_prompt(request);
  // At least the last token is computed again: its logits are needed.
  const auto differs = std::mismatch(known_.begin(), known_.end(), ids.begin(), ids.end() - 1);
  const auto kept = static_cast<std::size_t>(differs.first - known_.begin());
  session.truncate(stored + static_cast<int>(kept));
  known_.resize(kept);
  const auto prompt = ids.subspan(kept);

  Answer result;
  const Clock clock;
  double first_token = 0;
  auto generation =
      text::generate(session, prompt, tokenizer_, options_.generate, [&](std::string_view piece) {
        if (first_token == 0) first_token = clock.seconds();
        result.text += piece;
        return show(piece) && !interrupted();
      });
  if (!generation) return about(generation.error(), options_.common.model);
  result.generation = std::move(generation).value();
  const int tokens = static_cast<int>(result.generation.ids.size());
  if (first_token == 0) first_token = clock.seconds();
  result.speed = {static_cast<int>(prompt.size()), tokens, first_token,
                  clock.seconds() - first_token};
  known_.assign(session.ids().begin(), session.ids().end());
  return result;
}

}  // namespace command
