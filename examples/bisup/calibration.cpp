// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include "calibration.hpp"

#include <fmt/core.h>

#include <bisup/calibrate/self_generate.hpp>
#include <bisup/core/checksum.hpp>
#include <bisup/llama/model.hpp>
#include <bisup/text/calibration_text.hpp>
#include <bisup/text/model_files.hpp>
#include <functional>
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
                 "calibrate on N sequences that the model itself writes")
      ->check(CLI::Range(1, 1 << 20))
      ->excludes("--calib");
  sub.add_option("--calib-samples", options.samples.samples, "crops of the text to calibrate on")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  sub.add_option("--calib-length", options.samples.length, "tokens of one crop")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  sub.add_option("--seed", options.samples.seed, "of crops, rotations and self-generated text")
      ->capture_default_str();
}

namespace {

Result<bisup::text::CalibrationText> self_generated(const CalibrationOptions& options,
                                                    const bisup::io::Checkpoint& source,
                                                    bisup::ThreadPool& pool) {
  const auto model = bisup::llama::read_model(source);
  if (!model) return model.error();
  Meter meter("writing calibration text");
  auto ids = bisup::self_generate(*model,
                                  {.sequences = options.self_generate,
                                   .length = options.samples.length,
                                   .seed = options.samples.seed,
                                   .progress = std::ref(meter)},
                                  pool);
  if (!ids) return ids.error();
  return bisup::text::CalibrationText{std::move(ids).value(), options.self_generate, "generated"};
}

Result<bisup::text::CalibrationText> from_file(const CalibrationOptions& options,
                                               const bisup::io::TokenizerFiles& files) {
  const auto tokenizer = open_tokenizer(files);
  if (!tokenizer) return tokenizer.error();
  const auto text = read_text(options.text);
  if (!text) return text.error();
  const auto chat = bisup::text::ChatTemplate::recognize(files.chat_template, files.where);
  bisup::text::ChatFormat format;
  if (chat) format.chat = &*chat;
  format.options.bos = tokenizer->token(tokenizer->bos());
  if (!tokenizer->eos().empty()) format.options.eos = tokenizer->token(tokenizer->eos().front());
  return bisup::text::read_calibration_text(*text, text_name(options.text), *tokenizer, format);
}

}  // namespace

Result<CalibrationData> read_calibration(const CalibrationOptions& options,
                                         const bisup::io::Checkpoint& source,
                                         const bisup::io::TokenizerFiles& tokenizer,
                                         bisup::ThreadPool& pool) {
  auto text = options.self_generate > 0 ? self_generated(options, source, pool)
                                        : from_file(options, tokenizer);
  if (!text) return text.error();
  const auto& config = source.config();
  auto samples = bisup::cut_samples(text->ids, config.vocab_size, options.samples);
  if (!samples) return about(samples.error(), text_name(options.text));
  if (samples->tokens() < config.intermediate_size) {
    fmt::print(
        stderr,
        "bisup: warning: {} calibration tokens for inputs of {} features; second moments of so "
        "few leave directions unseen\n",
        samples->tokens(), config.intermediate_size);
  }
  return CalibrationData{std::move(samples).value(),
                         {{"kind", text->kind},
                          {"documents", text->documents},
                          {"text_tokens", text->ids.size()},
                          {"text_crc32c", bisup::crc32c(std::as_bytes(std::span(text->ids)))},
                          {"samples", options.samples.samples},
                          {"length", options.samples.length},
                          {"held_out", options.samples.held_out},
                          {"seed", options.samples.seed}}};
}

}  // namespace command
