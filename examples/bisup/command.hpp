// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What do all subcommands share? The options --json and --threads, how a model and its tokenizer
// are opened, how results and errors leave. Each add_ function declares one subcommand.

#include <CLI/CLI.hpp>

#include <bisup/cache/kv_policy.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/scheme.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/io/model_file.hpp>
#include <bisup/llama/sampler.hpp>
#include <bisup/text/tokenizer.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace command {

using Json = nlohmann::ordered_json;
// What the chosen subcommand does; main() runs it after the whole command line was understood.
using Action = std::function<bisup::Result<void>()>;

void add_quantize(CLI::App& app, Action& action);
void add_perplexity(CLI::App& app, Action& action);
void add_compare(CLI::App& app, Action& action);
void add_generate(CLI::App& app, Action& action);
void add_chat(CLI::App& app, Action& action);
void add_serve(CLI::App& app, Action& action);
void add_tokenize(CLI::App& app, Action& action);
void add_inspect(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);

struct Common {
  std::string model;
  bool json = false;
  int threads = bisup::ThreadPool::available();
};
// A subcommand with MODEL, --json, --threads and an example in its --help.
CLI::App* add_subcommand(CLI::App& app, const char* name, const char* does, const char* example,
                         Common& common);

// How exactly the past is remembered, where that differs from what the model says.
struct KvOptions {
  std::optional<int> bits = {}, key_bits = {}, value_bits = {}, group = {}, sinks = {}, recent = {};
  bool rotate = false, fit = false;
  std::string table = {}, exact = {};
  // generate, chat and serve: 4 sinks and 64 recent tokens unless told otherwise.
  bool talks = false;
};
void add_kv_options(CLI::App& sub, KvOptions& options);
// Errors: bad_scheme for options that contradict each other or the scheme, those of the table's
// file, and what no cache of the model can have.
[[nodiscard]] bisup::Result<bisup::KvPolicy> kv_policy(const bisup::llama::Model& model,
                                                       const KvOptions& options);
// "float", "KV4", "K4V2 rotated fitted"; and the fields that results print.
[[nodiscard]] std::string kv_name(const bisup::KvPolicy& policy);
[[nodiscard]] Json kv_json(const bisup::KvPolicy& policy);

void add_scheme_option(CLI::App& sub, std::string& scheme, const char* does);
void add_sampling_options(CLI::App& sub, bisup::llama::SamplingOptions& options,
                          std::vector<std::string>& stops);

// A float model becomes one that computes as `scheme` would, unless that is empty; its stored
// prompt stays. `path`: for errors.
[[nodiscard]] bisup::Result<void> simulate(const std::string& path, const std::string& scheme,
                                           bisup::io::ModelFile& file, bisup::ThreadPool& pool);
// The model, simulated by `scheme` unless that is empty.
[[nodiscard]] bisup::Result<bisup::io::ModelFile> open_model(const std::string& path,
                                                             const std::string& scheme,
                                                             bisup::ThreadPool& pool);
[[nodiscard]] bisup::Result<bisup::text::Tokenizer> open_tokenizer(
    const bisup::io::TokenizerFiles& files);

// A file's bytes; of standard input if `path` is empty or "-".
[[nodiscard]] bisup::Result<std::string> read_text(const std::string& path);
// The text's ids as the model reads them, for perplexity and compare.
[[nodiscard]] bisup::Result<std::vector<int>> read_ids(const std::string& path,
                                                       const bisup::text::Tokenizer& tokenizer);
[[nodiscard]] std::string text_name(const std::string& path);

// The same error about a file, unless it names one itself.
[[nodiscard]] bisup::Error about(bisup::Error error, const std::string& where);

// One JSON object on stdout; numbers that are not finite become null.
void print(const Json& json);

}  // namespace command
