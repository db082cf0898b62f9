// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <bisup/calibrate/simulation.hpp>
#include <bisup/evaluate/perplexity.hpp>
#include <memory>

#include "command.hpp"
#include "prompt_options.hpp"
#include "terminal.hpp"
#include "windows.hpp"

namespace command {

void add_window_options(CLI::App& sub, std::string& text, bisup::WindowOptions& windows) {
  sub.add_option("--text", text, "the text; - or nothing: standard input");
  sub.add_option("--context", windows.context,
                 "tokens of a window (default: 2048 or all the model can)")
      ->check(CLI::Range(2, 1 << 26));
  sub.add_option("--windows", windows.windows, "use the first N windows (default: all)")
      ->check(CLI::Range(1, 1 << 30));
  sub.add_option("--score-from", windows.score_from,
                 "score only positions of a window from this one on (default: 0, all)")
      ->check(CLI::Range(0, 1 << 26));
}

namespace {

struct PerplexityCommand {
  Common common;
  KvOptions kv;
  PromptOptions prompt;
  std::string text, scheme;
  bool simulate = false;
  bisup::WindowOptions windows;

  bisup::Result<void> run() const {
    const Clock clock;
    bisup::ThreadPool pool(common.threads);
    auto file = open_model(common.model, "", pool);
    if (!file) return file.error();
    if (auto read = read_prompt(prompt, *file, pool); !read) return read;
    if (auto done = command::simulate(common.model, scheme, *file, pool); !done) return done;
    if (simulate) file->model = bisup::simulation_of(file->model, pool);
    const auto tokenizer = open_tokenizer(file->tokenizer);
    if (!tokenizer) return tokenizer.error();
    const auto ids = read_ids(text, *tokenizer);
    if (!ids) return ids.error();
    auto& model = file->model;
    const auto policy = kv_policy(model, kv);
    if (!policy) return about(policy.error(), common.model);
    if (auto rounded = round_prompt(prompt, *policy, model); !rounded) return rounded;
    bisup::WindowOptions cut = windows;
    cut.bos = bos_of(*tokenizer);
    Meter meter("windows");
    const auto result = bisup::perplexity(model, *ids, cut, *policy, pool, std::ref(meter));
    if (!result) return about(result.error(), blamed(result.error(), text, common.model));
    if (common.json) {
      print({{"perplexity", result->perplexity()},
             {"nll", result->nll},
             {"nll_stderr", result->nll_stderr},
             {"window_nll", result->window_nll},
             {"windows", result->windows},
             {"tokens", result->tokens},
             {"context", result->context},
             {"score_from", windows.score_from},
             {"model", common.model},
             {"scheme", model.scheme.name()},
             {"float_weights", file->weights_note},
             {"kv", kv_name(*policy)},
             {"kv_sinks", policy->sinks},
             {"kv_recent", policy->recent},
             {"prompt_tokens", model.prompt.tokens()},
             {"seconds", clock.seconds()}});
      return {};
    }
    // d exp(nll) = exp(nll) d nll
    fmt::print("{}: perplexity {:.4f} +- {:.4f} (nll {:.5f}), {} windows of {} tokens, {}\n",
               model.scheme.name(), result->perplexity(), result->perplexity() * result->nll_stderr,
               result->nll, result->windows, result->context, duration(clock.seconds()));
    return {};
  }
};

}  // namespace

void add_perplexity(CLI::App& app, Action& action) {
  const auto options = std::make_shared<PerplexityCommand>();
  CLI::App* sub = add_subcommand(
      app, "perplexity", "Measures how a model predicts a text",
      "bisup perplexity model.gguf --text book.txt --context 1024 --windows 20", options->common);
  add_window_options(*sub, options->text, options->windows);
  add_scheme_option(*sub, options->scheme, "simulate this scheme on a float model");
  sub->add_flag("--simulate", options->simulate,
                "compute an artefact in floats that are rounded as its integers are");
  add_kv_options(*sub, options->kv);
  add_prompt_options(*sub, options->prompt, Automatic::no);
  sub->callback([options, &action] { action = [options] { return options->run(); }; });
}

}  // namespace command
