// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include "calibration.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/calibrate/self_generate.hpp>
#include <bisup/core/checksum.hpp>
#include <bisup/core/scheme.hpp>
#include <bisup/llama/model.hpp>
#include <bisup/text/calibration_text.hpp>
#include <bisup/text/model_files.hpp>
#include <functional>
#include <numeric>
#include <span>

#include "command.hpp"
#include "terminal.hpp"

namespace command {

using bisup::Errc;
using bisup::Error;
using bisup::Result;

void add_calibration_options(CLI::App& sub, CalibrationOptions& options) {
  sub.add_option("--calib", options.text,
                 "calibration data: a text, or .jsonl with a \"text\" or \"messages\" a line");
  sub.add_option("--self-generate", options.self_generate,
                 "calibrate on N sequences that the model itself writes; with --calib, so many of "
                 "the samples")
      ->check(CLI::Range(0, 1 << 20));
  sub.add_option("--calib-samples", options.samples.samples,
                 "samples to calibrate on: crops of the text")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  sub.add_option("--end-to-end-tokens", options.samples.end_to_end,
                 "tokens more for tuning all blocks together (bisup_*), as far as the text has "
                 "them between the samples")
      ->check(CLI::Range(0, 1 << 30));
  sub.add_option("--end-to-end-length", options.samples.end_to_end_length,
                 "tokens of one crop of these, at most: the context that is to be tuned for")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  sub.add_option("--calib-length", options.samples.length, "tokens of one crop")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  sub.add_option("--seed", options.samples.seed, "of crops, rotations and self-generated text")
      ->capture_default_str();
}

namespace {

Result<bisup::text::CalibrationText> generated_text(const CalibrationOptions& options,
                                                    const bisup::io::Checkpoint& source,
                                                    bisup::ThreadPool& pool) {
  auto model = bisup::llama::read_model(source);
  if (!model) return model.error();
  // What it writes in 8 bits is as much its own, and takes less time.
  model = bisup::round_to_nearest(*model, *bisup::Scheme::parse("W8A8-head8"), pool);
  if (!model) return model.error();
  Meter meter("writing calibration text");
  const int sequences = self_generated_sequences(options);
  auto ids = bisup::self_generate(*model,
                                  {.sequences = sequences,
                                   .length = options.samples.length,
                                   .seed = options.samples.seed,
                                   .progress = std::ref(meter)},
                                  pool);
  if (!ids) return ids.error();
  return bisup::text::CalibrationText{std::move(ids).value(), sequences, "generated"};
}

// Beside a text the model writes whole samples: some to learn from, and some that are held out.
struct SelfGenerated {
  int samples = 0, held_out = 0;
};
SelfGenerated beside_text(const CalibrationOptions& options) {
  const int own = options.text.empty() ? 0 : options.self_generate;
  return {own, own == 0 ? 0 : bisup::held_out_samples(own)};
}

// The rest of the samples, which are cut from the text; none is longer than the model can read.
bisup::SampleOptions of_text(const CalibrationOptions& options,
                             const bisup::llama::Config& config) {
  bisup::SampleOptions cut = options.samples;
  cut.samples -= beside_text(options).samples;
  cut.end_to_end_length = std::min(cut.end_to_end_length, config.max_positions);
  return cut;
}

}  // namespace

Result<bisup::text::CalibrationText> read_calibration_text(const CalibrationOptions& options,
                                                           const bisup::io::TokenizerFiles& files) {
  if (options.text.empty()) return bisup::text::CalibrationText{};
  const auto tokenizer = open_tokenizer(files);
  if (!tokenizer) return tokenizer.error();
  const auto text = read_text(options.text);
  if (!text) return text.error();
  const auto chat = bisup::text::load_chat_template(files);
  bisup::text::ChatFormat format;
  if (chat) format.chat = &*chat;
  format.options.bos = tokenizer->token(tokenizer->bos());
  if (!tokenizer->eos().empty()) format.options.eos = tokenizer->token(tokenizer->eos().front());
  return bisup::text::read_calibration_text(*text, text_name(options.text), *tokenizer, format);
}

int self_generated_sequences(const CalibrationOptions& options) {
  return options.self_generate + beside_text(options).held_out;
}

bisup::CalibrationTokens calibration_tokens(const CalibrationOptions& options,
                                            const bisup::text::CalibrationText& text,
                                            const bisup::llama::Config& config) {
  const int samples = options.samples.samples;
  const int length = options.samples.length;
  const std::size_t tokens =
      options.text.empty()
          ? static_cast<std::size_t>(options.self_generate) * static_cast<std::size_t>(length)
          : text.ids.size();
  const SelfGenerated own = beside_text(options);
  const auto more = bisup::end_to_end_lengths(tokens, of_text(options, config));
  return {.samples = samples,
          .held_out = bisup::held_out_samples(samples - own.samples) + own.held_out,
          .length = length,
          .end_to_end = std::accumulate(more.begin(), more.end(), 0),
          .longest_end_to_end = more.empty() ? 0 : *std::ranges::max_element(more)};
}

CalibrationOptions of_text_alone(CalibrationOptions options) {
  options.samples.samples -= beside_text(options).samples;
  options.self_generate = 0;
  return options;
}

Result<CalibrationData> read_calibration(const CalibrationOptions& options,
                                         bisup::text::CalibrationText text,
                                         const bisup::io::Checkpoint& source,
                                         bisup::ThreadPool& pool) {
  const auto& config = source.config();
  const SelfGenerated own = beside_text(options);
  const bisup::SampleOptions cut = of_text(options, config);
  if (options.text.empty()) {
    auto written = generated_text(options, source, pool);
    if (!written) return written.error();
    text = std::move(written).value();
  }
  auto samples = bisup::cut_samples(text.ids, config.vocab_size, cut);
  if (!samples) return about(samples.error(), text_name(options.text));
  nlohmann::json provenance = {{"kind", text.kind},
                               {"documents", text.documents},
                               {"text_tokens", text.ids.size()},
                               {"text_crc32c", bisup::crc32c(std::as_bytes(std::span(text.ids)))},
                               {"samples", options.samples.samples},
                               {"end_to_end_samples", samples->end_to_end.size()},
                               {"end_to_end_tokens", samples->end_to_end_tokens()},
                               {"end_to_end_length", cut.end_to_end_length},
                               {"length", cut.length},
                               {"held_out", cut.held_out},
                               {"seed", cut.seed}};
  if (own.samples > 0) {
    const auto written = generated_text(options, source, pool);
    if (!written) return written.error();
    samples = bisup::mixed(std::move(samples).value(),
                           bisup::whole_samples(written->ids, cut.length, own.held_out), cut.seed);
    provenance["self_generated"] = own.samples;
    provenance["self_generated_crc32c"] = bisup::crc32c(std::as_bytes(std::span(written->ids)));
  }
  if (samples->tokens() < config.intermediate_size) {
    fmt::print(
        stderr,
        "bisup: warning: {} calibration tokens for inputs of {} features; second moments of so "
        "few leave directions unseen\n",
        samples->tokens(), config.intermediate_size);
  }
  return CalibrationData{std::move(samples).value(), std::move(provenance)};
}

}  // namespace command
