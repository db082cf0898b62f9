// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do generate, chat and serve talk to a model? A Conversation opens model, tokenizer and
// template once and answers token lists; what people write is never read as special tokens.

#include <bisup/llama/session.hpp>
#include <bisup/text/chat_template.hpp>
#include <bisup/text/continuous_batch.hpp>
#include <bisup/text/generate.hpp>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "command.hpp"

namespace command {

struct ConversationOptions {
  Common common;
  KvOptions kv;
  std::string scheme, chat_family, load_prompt;
  int context = 4096;
  bisup::text::GenerateOptions generate;
};
// Everything above but MODEL, what `common` declares, and whether the context rolls.
void add_conversation_options(CLI::App& sub, ConversationOptions& options);
void add_roll_option(CLI::App& sub, ConversationOptions& options);

struct Speed {
  int prompt_tokens = 0, tokens = 0;
  double prompt_seconds = 0, seconds = 0;  // to the first token; from the first to the last
  [[nodiscard]] double prompt_rate() const { return prompt_tokens / prompt_seconds; }
  // Not a number where there is no token after the first.
  [[nodiscard]] double rate() const {
    return tokens < 2 ? std::numeric_limits<double>::quiet_NaN() : (tokens - 1) / seconds;
  }
  // "12 tokens at 34.5 a second"
  [[nodiscard]] std::string read() const;
  [[nodiscard]] std::string written() const;
};

struct Answer {
  std::string text;
  bisup::text::Generation generation;
  Speed speed;
};

class Conversation {
 public:
  // chat: the model must have a template that is known, or options.chat_family names one.
  static bisup::Result<std::unique_ptr<Conversation>> open(const ConversationOptions& options,
                                                           bool chat);

  // Errors: those of text::load_chat_template.
  bisup::Result<void> find_template();
  [[nodiscard]] bisup::Result<std::vector<int>> ids_of(
      std::span<const bisup::text::ChatMessage> messages) const;
  [[nodiscard]] const bisup::text::Tokenizer& tokenizer() const { return tokenizer_; }
  [[nodiscard]] const bisup::llama::Model& model() const { return file_.model; }
  [[nodiscard]] const bisup::KvPolicy& policy() const { return policy_; }
  // The fields that results begin with: the model, its scheme and its cache.
  [[nodiscard]] Json json() const;
  // Tokens that can be remembered behind the stored prompt.
  [[nodiscard]] int context() const;
  // What was asked for, ended where the model ends a turn.
  [[nodiscard]] const bisup::text::GenerateOptions& generate_options() const {
    return options_.generate;
  }
  // A request without what the model's stored prompt has said.
  [[nodiscard]] std::span<const int> after_prompt(std::span<const int> request) const;

  // Keeps the keys and values of these tokens, behind those of the model's prompt, in a file.
  bisup::Result<void> save_prompt(const std::string& path, const std::vector<int>& ids);
  // Answers the whole token list; what the cache knows of its beginning is not computed again.
  // Pieces of text go to `show` as they are certain.
  bisup::Result<Answer> answer(const std::vector<int>& request, const bisup::text::Emit& show);
  // For many requests at once; of the context that was asked for.
  [[nodiscard]] bisup::Result<bisup::text::ContinuousBatch> batch(
      bisup::text::ContinuousBatchOptions options);

 private:
  Conversation(const ConversationOptions& options, bisup::io::ModelFile file,
               bisup::text::Tokenizer tokenizer)
      : options_(options),
        pool_(options.common.threads),
        file_(std::move(file)),
        tokenizer_(std::move(tokenizer)) {}
  ConversationOptions options_;
  bisup::ThreadPool pool_;
  bisup::io::ModelFile file_;
  bisup::text::Tokenizer tokenizer_;
  bisup::KvPolicy policy_;
  bisup::text::ChatTemplate template_{bisup::text::ChatFamily::chatml};
  std::vector<bisup::llama::Session> session_;  // one, made when the first question comes
  std::vector<int> known_;                      // the tokens in it
};

}  // namespace command
