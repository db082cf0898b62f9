// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <bisup/calibrate/calibrator.hpp>
#include <bisup/calibrate/outlier_tokens.hpp>
#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/io/artefact_writer.hpp>
#include <bisup/io/block_files.hpp>
#include <bisup/io/block_report_json.hpp>
#include <bisup/io/calibration_plan.hpp>
#include <bisup/io/model_file.hpp>
#include <bisup/io/spilled_memory.hpp>
#include <bisup/llama/model_size.hpp>
#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "calibration.hpp"
#include "command.hpp"
#include "kv_search.hpp"
#include "peak_memory.hpp"
#include "preflight.hpp"
#include "prompt_options.hpp"
#include "recipe_options.hpp"
#include "report.hpp"
#include "terminal.hpp"

namespace command {

namespace {

using bisup::Errc;
using bisup::Error;
using bisup::Result;

struct QuantizeCommand {
  Common common;
  CalibrationOptions calibration;
  KvOptions kv;
  KvSearch kv_search;
  PromptOptions prompt;
  ReportOptions report;
  RecipeOptions recipe;
  std::string scheme, output, streams = "f32", work;
  bool explain = false, dry_run = false, resume = false, spill = false;

  Result<void> run() const {
    if (explain) {
      fmt::print("{}", bisup::explain(command::recipe(recipe)));
      if (prompt.by_method) fmt::print("  prompt       the token that begins a text, exact\n");
      return {};
    }
    const Clock clock;
    bisup::ThreadPool pool(common.threads);
    const auto parsed = bisup::Scheme::parse(scheme);
    if (!parsed) return parsed.error();
    if (auto safe = expect_other_file(); !safe) return safe;
    if (auto possible = expect_report(report); !possible) return possible;
    const bool calibrated = !calibration.text.empty() || calibration.self_generate > 0;
    if (!calibrated && command::recipe(recipe).name != "rtn") {
      return Error{Errc::missing, "the method " + recipe.method +
                                      " needs calibration data: --calib FILE or --self-generate N"};
    }
    if (!calibrated && prompt.automatic()) {
      return Error{Errc::missing,
                   "--cache-prompt auto looks for outliers in calibration data: give --calib FILE "
                   "or --self-generate N"};
    }
    if (calibrated || dry_run) return calibrate(*parsed, calibrated, pool, clock);
    return round(*parsed, pool, clock);
  }

  // The artefact must not replace a file that it is made from: the model, or weights in its folder.
  Result<void> expect_other_file() const {
    namespace fs = std::filesystem;
    std::error_code ignored;
    const fs::path to(output), from(common.model);
    const bool same = fs::equivalent(to, from, ignored);
    const bool inside = fs::exists(to, ignored) && fs::is_directory(from, ignored) &&
                        fs::equivalent(fs::absolute(to, ignored).parent_path(), from, ignored) &&
                        to.filename().string().starts_with("model");
    if (!same && !inside) return {};
    return Error{Errc::cannot_write, "is a file of the model itself; choose another name", output};
  }

  // Methods that tune against the vertical error begin with what helps against the horizontal one.
  void use_prompt(const CLI::App& sub) {
    if (sub.count("--cache-prompt") > 0 || !command::recipe(recipe).tuning.any()) return;
    prompt.prompt = "bos", prompt.by_method = true;
  }

  // What the options need of each other.
  void expect_options() const {
    if (explain) return;
    if (common.model.empty()) throw CLI::RequiredError("MODEL");
    if (scheme.empty()) throw CLI::RequiredError("--scheme");
    if (output.empty() && !dry_run) throw CLI::RequiredError("--output");
    if (!calibration.text.empty() && calibration.self_generate >= calibration.samples.samples)
      throw CLI::ValidationError("--self-generate", "leaves no sample for the text of --calib");
    if (calibration.samples.end_to_end > 0 && !command::recipe(recipe).tuning.tunes_model())
      throw CLI::ValidationError("--end-to-end-tokens", "needs a method that tunes all blocks");
    if (!work.empty() && calibration.text.empty() && calibration.self_generate == 0)
      throw CLI::ValidationError("--work",
                                 "keeps calibrated blocks: give --calib or --self-generate");
  }

  Result<void> round(const bisup::Scheme& parsed, bisup::ThreadPool& pool,
                     const Clock& clock) const {
    auto file = open_model(common.model, "", pool);
    if (!file) return file.error();
    if (file->model.scheme != bisup::Scheme{}) return already(file->model.scheme);
    if (auto read = read_prompt(prompt, *file, pool); !read) return read;
    Meter meter("quantizing");
    auto model = bisup::round_to_nearest(file->model, parsed, pool, std::ref(meter));
    if (!model) return about(model.error(), common.model);
    model->prompt = file->model.prompt;
    if (auto rounded = round_prompt(prompt, model->kv, *model); !rounded) return rounded;
    return save(*model, file->tokenizer,
                {.recipe = recipe.method, .float_weights = file->weights_note}, {}, {},
                {{"rounding", clock.seconds()}}, pool, clock);
  }

  Result<void> calibrate(const bisup::Scheme& parsed, bool calibrated, bisup::ThreadPool& pool,
                         const Clock& clock) const {
    auto source = bisup::io::open_source(common.model);
    if (!source) return source.error();
    bisup::CalibrateOptions options;
    options.seed = calibration.samples.seed;
    options.stream = streams == "bf16" ? bisup::DType::bf16 : bisup::DType::f32;
    if (spill) options.memory = bisup::io::spilled_memory(work);
    const bisup::Recipe chosen = command::recipe(recipe);
    auto ids = prompt_ids(prompt, source->tokenizer, source->checkpoint.config());
    if (!ids) return ids.error();
    bisup::CalibrationTokens tokens;
    auto text = command::read_calibration_text(calibration, source->tokenizer);
    if (!text) return text.error();
    if (calibrated) tokens = calibration_tokens(calibration, *text, source->checkpoint.config());
    tokens.prompt = static_cast<int>(ids->size());
    const auto ready = preflight(*source, {.scheme = parsed,
                                           .recipe = chosen,
                                           .tokens = tokens,
                                           .stream = options.stream,
                                           .output = output,
                                           .work = work,
                                           .spills = spill});
    if (!ready) return about(ready.error(), common.model);
    if (dry_run && calibration.text.empty()) return print_dry_run(*ready, *source, parsed, pool);
    auto data = read_calibration(dry_run ? of_text_alone(calibration) : calibration,
                                 std::move(text).value(), source->checkpoint, pool);
    if (!data) return about(data.error(), common.model);
    if (prompt.automatic()) ids = outlier_prompt(*source, data->samples, pool);
    if (!ids) return about(ids.error(), common.model);
    if (ids->empty() && prompt.bits < 16)
      return Error{Errc::bad_scheme, "--cache-prompt-bits rounds a prompt, and there is none"};
    if (!ids->empty()) {
      const auto tokenizer = open_tokenizer(source->tokenizer);
      if (!tokenizer) return tokenizer.error();
      data->samples = bisup::after_prompt(std::move(data->samples), *ids, bos_of(*tokenizer));
    }
    options.prompt = *ids, options.prompt_bits = prompt.bits;
    if (dry_run) return print_dry_run(*ready, *source, parsed, pool);
    const double read = clock.seconds();
    Meter meter("blocks");
    options.progress = [&](const bisup::BlockReport& block, int layers) {
      return meter(block.layer + 1, layers);
    };
    Meter together("end to end");
    options.end_to_end_progress = std::ref(together);
    const auto done = with_store(*source, parsed, chosen, *data, options, pool);
    if (!done) return about(done.error(), common.model);
    if (!common.json && !done->end_to_end.held_out.empty()) {
      fmt::print(stderr,
                 "end to end: KL on held-out crops {:.4f} -> {:.4f} after {} steps at {:.0f} % of "
                 "the rates\n",
                 done->end_to_end.before, done->end_to_end.best, done->end_to_end.best_step,
                 100 * done->end_to_end.rates);
    }
    return save(done->model, source->tokenizer,
                {.recipe = recipe.method,
                 .float_weights = source->weights_note,
                 .details = {{"calibration", data->provenance}}},
                done->blocks, done->end_to_end,
                {{"reading", read}, {"calibrating", clock.seconds() - read}}, pool, clock);
  }

  // The tokens that draw outliers, by the float model's own activations.
  Result<std::vector<int>> outlier_prompt(const bisup::io::ModelSource& source,
                                          const bisup::Samples& samples,
                                          bisup::ThreadPool& pool) const {
    const auto tokenizer = open_tokenizer(source.tokenizer);
    if (!tokenizer) return tokenizer.error();
    const auto model = bisup::llama::read_model(source.checkpoint);
    if (!model) return model.error();
    const bisup::OutlierRule rule;
    const auto magnitudes = bisup::token_magnitudes(*model, samples, rule, pool);
    if (!magnitudes) return magnitudes.error();
    auto found = bisup::outlier_tokens(
        *magnitudes, start_token(*tokenizer, source.checkpoint.config()), rule.ratio);
    if (!common.json) {
      fmt::print(stderr, "{:.2f} outliers in a sample of {} tokens, a prompt of {}\n",
                 found.of_a_sample, std::min(rule.length, calibration.samples.length),
                 found.prompt.size());
    }
    return std::move(found.prompt);
  }

  Result<bisup::Calibration> with_store(const bisup::io::ModelSource& source,
                                        const bisup::Scheme& parsed, const bisup::Recipe& chosen,
                                        const CalibrationData& data,
                                        const bisup::CalibrateOptions& options,
                                        bisup::ThreadPool& pool) const {
    const auto run = [&](auto& store) {
      return bisup::calibrate(source.checkpoint, parsed, chosen, data.samples, options, store,
                              pool);
    };
    if (work.empty()) {
      bisup::NoStore nothing;
      return run(nothing);
    }
    const auto plan = bisup::io::calibration_plan(bisup::io::describe(source.checkpoint), parsed,
                                                  chosen, data.samples, options);
    auto files = bisup::io::BlockFiles::open(work, source.checkpoint.config(), plan, resume);
    if (!files) return files.error();
    return run(*files);
  }

  Result<void> print_dry_run(const Preflight& ready, const bisup::io::ModelSource& source,
                             const bisup::Scheme& parsed, bisup::ThreadPool& pool) const {
    const long self_generated =
        static_cast<long>(self_generated_sequences(calibration)) * calibration.samples.length;
    Json result = {{"model", common.model},
                   {"scheme", parsed.name()},
                   {"method", recipe.method},
                   {"output", output.empty() ? Json() : Json(output)}};
    result.update(describe(ready, self_generated, source.checkpoint.config(), pool));
    if (common.json) {
      print(result);
    } else {
      fmt::print("{}", command::explain(result));
    }
    return {};
  }

  [[nodiscard]] Error already(const bisup::Scheme& by) const {
    return {Errc::unsupported,
            "is quantized by " + by.name() + " already; begin with the float model", common.model};
  }

  Result<void> save(const bisup::llama::Model& made, const bisup::io::TokenizerFiles& tokenizer,
                    const bisup::io::Provenance& provenance,
                    const std::vector<bisup::BlockReport>& blocks,
                    const bisup::tune::PhaseReport& together, std::vector<bisup::TimeReport> times,
                    bisup::ThreadPool& pool, const Clock& clock) const {
    bisup::llama::Model model = made;
    auto policy = kv_policy(made, kv);
    if (policy && kv_search.bits > 0)
      policy = searched_policy(made, *policy, tokenizer, kv_search, pool);
    if (!policy) return about(policy.error(), common.model);
    model.kv = std::move(policy).value();
    const double ready = clock.seconds();
    if (interrupted()) return Error{Errc::interrupted, "stopped"};
    bisup::io::Provenance remembered = provenance;
    if (!model.prompt.empty())
      remembered.details["prompt"] = prompt_provenance(prompt, model.prompt);
    if (auto saved = bisup::io::save_artefact(output, model, tokenizer, remembered); !saved)
      return about(saved.error(), output);
    const auto size = bisup::llama::model_size(model);
    const auto bytes = std::filesystem::file_size(output);
    const auto memory = peak_memory();
    if (!report.output.empty()) {
      times.push_back({"writing", clock.seconds() - ready});
      const auto data = provenance.details.find("calibration");
      auto written = write_report(
          report,
          {.model = common.model,
           .method = recipe.method,
           .output = output,
           .explanation = bisup::explain(command::recipe(recipe)),
           .calibration = data == provenance.details.end() ? nlohmann::json(nullptr) : *data,
           .blocks = blocks,
           .times = std::move(times),
           .bytes = bytes,
           .peak_memory_bytes = memory,
           .seconds = clock.seconds()},
          model, pool);
      if (!written) return about(written.error(), report.output);
    }
    if (common.json) {
      auto layers = nlohmann::json::array();
      for (const auto& block : blocks) layers.push_back(bisup::io::summary(block));
      const bool tuned = !together.held_out.empty();
      print({{"model", common.model},
             {"scheme", model.scheme.name()},
             {"method", recipe.method},
             {"output", output},
             {"bytes", bytes},
             {"bits_per_weight", size.bits_per_weight()},
             {"kv", kv_name(model.kv)},
             {"kv_sinks", model.kv.sinks},
             {"kv_recent", model.kv.recent},
             {"prompt_tokens", model.prompt.tokens()},
             {"parameters", size.parameters},
             {"peak_memory_bytes", memory},
             {"layers", layers},
             {"end_to_end_before", tuned ? Json(together.before) : Json()},
             {"end_to_end_best", tuned ? Json(together.best) : Json()},
             {"end_to_end_step", tuned ? Json(together.best_step) : Json()},
             {"end_to_end_rates", tuned ? Json(together.rates) : Json()},
             {"end_to_end_held_out", together.held_out},
             {"end_to_end_training", together.training_means()},
             {"seconds", clock.seconds()}});
      return {};
    }
    fmt::print("{}: {}, {:.3f} bits per weight, {} in {}\n", output, model.scheme.name(),
               size.bits_per_weight(), command::size(static_cast<double>(bytes)),
               duration(clock.seconds()));
    return {};
  }
};

}  // namespace

void add_quantize(CLI::App& app, Action& action) {
  const auto options = std::make_shared<QuantizeCommand>();
  CLI::App* sub = add_subcommand(app, "quantize", "Makes a quantized model of a float one",
                                 "bisup quantize model.gguf --method quarot --scheme W4A4KV4-g64 "
                                 "--calib book.txt -o small.safetensors",
                                 options->common);
  add_scheme_option(*sub, options->scheme,
                    "bits of weights, activations, keys and values: W4A4KV4-g64");
  sub->get_option("MODEL")->required(false);  // see expect_options()
  add_recipe_options(*sub, options->recipe);
  add_calibration_options(*sub, options->calibration);
  sub->add_option("--streams", options->streams, "activations between blocks: f32 or bf16")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  add_report_options(*sub, options->report);
  sub->add_option("--work", options->work,
                  "a folder that keeps finished blocks and a log, for --resume");
  sub->add_flag("--resume", options->resume, "go on with what is in the folder of --work")
      ->needs("--work");
  sub->add_flag("--spill", options->spill, "keep activations on the disk of --work")
      ->needs("--work");
  sub->add_flag("--dry-run", options->dry_run, "check everything, print memory and time, and stop");
  add_kv_options(*sub, options->kv);
  add_prompt_options(*sub, options->prompt, Automatic::yes);
  add_kv_search_options(*sub, options->kv_search);
  sub->add_flag("--explain", options->explain, "print what the method does and stop");
  sub->add_option("-o,--output", options->output, "the file to write, .safetensors");
  sub->callback([options, sub, &action] {
    use_preset(options->recipe, *sub, options->calibration);
    options->use_prompt(*sub);
    options->expect_options();
    action = [options] { return options->run(); };
  });
}

}  // namespace command
