// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <bisup/evaluate/divergence.hpp>
#include <bisup/io/reference_states_file.hpp>
#include <bisup/llama/stored_prompt.hpp>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "command.hpp"
#include "prompt_options.hpp"
#include "propagation.hpp"
#include "terminal.hpp"
#include "windows.hpp"

namespace command {

namespace {

struct CompareCommand {
  Common common;
  KvOptions kv;
  PromptOptions prompt;
  std::string reference, reference_states, text;
  bool bare_reference = false;
  bisup::WindowOptions windows;
  bool propagation = false;

  // What the file holds. One that is not there yet is begun, so that a place nothing can be written
  // to is found before the windows are computed.
  [[nodiscard]] bisup::Result<bisup::ReferenceStates> known_states(
      const bisup::llama::Model& of) const {
    bisup::ReferenceStates none;
    if (reference_states.empty()) return none;
    std::error_code unreadable;
    if (std::filesystem::exists(reference_states, unreadable))
      return bisup::io::load_reference_states(reference_states, of, of.kv);
    if (auto begun = bisup::io::save_reference_states(reference_states, none, of, of.kv); !begun)
      return begun.error();
    return none;
  }

  bisup::Result<void> run() const {
    const Clock clock;
    bisup::ThreadPool pool(common.threads);
    auto file = open_model(common.model, "", pool);
    if (!file) return file.error();
    if (auto read = read_prompt(prompt, *file, pool); !read) return read;
    auto theirs = open_model(reference, "", pool);
    if (!theirs) return theirs.error();
    if (bare_reference) {
      theirs->model.prompt = {};
    } else if (auto shared = bisup::llama::share_prompt(file->model, theirs->model, pool);
               !shared) {
      return about(shared.error(), reference);
    }
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
    auto known = known_states(theirs->model);
    if (!known) return known.error();
    const std::size_t known_before = known->size();
    Meter meter("windows");
    const auto result =
        bisup::divergence(model, *policy, theirs->model, theirs->model.kv, *ids, cut, pool,
                          std::ref(meter), reference_states.empty() ? nullptr : &*known);
    if (!result) return about(result.error(), blamed(result.error(), text, common.model));
    // Where the states cannot be kept, what was measured is printed all the same.
    bisup::Result<void> kept;
    if (known->size() > known_before) {
      kept = bisup::io::save_reference_states(reference_states, *known, theirs->model,
                                              theirs->model.kv);
    }
    std::optional<bisup::ErrorPropagation> propagated;
    if (propagation) {
      Meter again("propagation");
      auto found =
          bisup::error_propagation(model, *policy, theirs->model, *ids, cut, pool, std::ref(again));
      if (!found) return about(found.error(), blamed(found.error(), text, common.model));
      propagated = std::move(found).value();
    }
    if (common.json) {
      print({{"kl_mean", result->kl_mean},
             {"kl_stderr", result->kl_stderr},
             {"kl_p99", result->kl_p99},
             {"top1_agreement", result->top1_agreement},
             {"perplexity", result->model.perplexity()},
             {"nll", result->model.nll},
             {"nll_stderr", result->model.nll_stderr},
             {"window_nll", result->model.window_nll},
             {"reference_perplexity", result->reference.perplexity()},
             {"reference_nll", result->reference.nll},
             {"reference_nll_stderr", result->reference.nll_stderr},
             {"reference_window_nll", result->reference.window_nll},
             {"windows", result->model.windows},
             {"tokens", result->model.tokens},
             {"context", result->model.context},
             {"score_from", windows.score_from},
             {"model", common.model},
             {"scheme", model.scheme.name()},
             {"reference", reference},
             {"reference_scheme", theirs->model.scheme.name()},
             {"kv", kv_name(*policy)},
             {"kv_sinks", policy->sinks},
             {"kv_recent", policy->recent},
             {"prompt_tokens", model.prompt.tokens()},
             {"reference_prompt_tokens", theirs->model.prompt.tokens()},
             {"layers", propagated ? describe(*propagated) : nlohmann::json::array()},
             {"seconds", clock.seconds()}});
      return kept;
    }
    fmt::print(
        "{} against {}: KL {:.5f} +- {:.5f}, 99th percentile {:.4f}, same top token {:.2f} %\n",
        model.scheme.name(), theirs->model.scheme.name(), result->kl_mean, result->kl_stderr,
        result->kl_p99, 100 * result->top1_agreement);
    fmt::print("perplexity {:.4f} against {:.4f}, {} windows of {} tokens, {}\n",
               result->model.perplexity(), result->reference.perplexity(), result->model.windows,
               result->model.context, duration(clock.seconds()));
    if (propagated) fmt::print("{}", explain(*propagated));
    return kept;
  }
};

}  // namespace

void add_compare(CLI::App& app, Action& action) {
  const auto options = std::make_shared<CompareCommand>();
  CLI::App* sub = add_subcommand(
      app, "compare", "Measures how far a model's predictions are from another's",
      "bisup compare small.safetensors --reference model.gguf --text book.txt", options->common);
  sub->add_option("--reference", options->reference, "the model to compare with")->required();
  add_window_options(*sub, options->text, options->windows);
  add_kv_options(*sub, options->kv);
  add_prompt_options(*sub, options->prompt, Automatic::no);
  sub->add_flag("--bare-reference", options->bare_reference,
                "the reference reads no prompt, though MODEL has one");
  sub->add_option("--reference-states", options->reference_states,
                  "what the reference computes is kept in this file, and not computed again by the "
                  "next comparison that names it");
  sub->add_flag("--propagation", options->propagation,
                "also how far each layer is off, and whose keys and values did it");
  sub->callback([options, &action] { action = [options] { return options->run(); }; });
}

}  // namespace command
