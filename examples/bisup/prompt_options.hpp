// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which tokens does a model know by heart? The options --cache-prompt and --cache-prompt-bits.

#include <CLI/CLI.hpp>

#include <bisup/cache/kv_policy.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/io/model_file.hpp>
#include <bisup/llama/config.hpp>
#include <bisup/text/tokenizer.hpp>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace command {

struct PromptOptions {
  std::string prompt = {};  // none, bos, auto, text:..., @FILE; empty: as the model says
  int bits = 16;
  bool by_method = false;  // bos because the method has it so, where the model has such a token

  [[nodiscard]] bool automatic() const { return prompt == "auto"; }
};
// Whether `auto` is among the choices: it needs calibration data.
enum class Automatic : bool { no, yes };
void add_prompt_options(CLI::App& sub, PromptOptions& options, Automatic automatic);

// What the tokenizer puts before every text, if it does.
[[nodiscard]] std::optional<int> bos_of(const bisup::text::Tokenizer& tokenizer);
// What stands first in a text: BOS, or the end of another text for models that have none.
[[nodiscard]] std::optional<int> start_token(const bisup::text::Tokenizer& tokenizer,
                                             const bisup::llama::Config& config);

// The tokens that the option names; none for `none`, `auto` and without the option. Errors name the
// prompt's file, or the option.
[[nodiscard]] bisup::Result<std::vector<int>> prompt_ids(const PromptOptions& options,
                                                         const bisup::io::TokenizerFiles& files,
                                                         const bisup::llama::Config& config);

// The model reads the prompt that the option names, instead of the one that it has.
[[nodiscard]] bisup::Result<void> read_prompt(const PromptOptions& options,
                                              bisup::io::ModelFile& file, bisup::ThreadPool& pool);
// Rounds the model's prompt to the bits of the option, as `policy` rounds what comes behind it.
[[nodiscard]] bisup::Result<void> round_prompt(const PromptOptions& options,
                                               const bisup::KvPolicy& policy,
                                               bisup::llama::Model& model);

// What an artefact remembers of its prompt beside the tokens themselves.
[[nodiscard]] nlohmann::json prompt_provenance(const PromptOptions& options,
                                               const bisup::PromptCache& prompt);

}  // namespace command
