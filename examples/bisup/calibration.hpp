// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// On what does `bisup quantize` calibrate? The options that say so, and the samples they give.

#include <CLI/CLI.hpp>

#include <bisup/calibrate/preflight.hpp>
#include <bisup/calibrate/samples.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/io/checkpoint.hpp>
#include <bisup/io/tokenizer_files.hpp>
#include <bisup/text/calibration_text.hpp>
#include <nlohmann/json.hpp>
#include <string>

namespace command {

struct CalibrationOptions {
  std::string text;
  int self_generate = 0;  // sequences; beside a text so many of the samples
  bisup::SampleOptions samples;
};
void add_calibration_options(CLI::App& sub, CalibrationOptions& options);

// How many sequences the model writes: those that are held out come on top beside a text.
[[nodiscard]] int self_generated_sequences(const CalibrationOptions& options);
// Of the text that --calib names; empty if it names none.
[[nodiscard]] bisup::Result<bisup::text::CalibrationText> read_calibration_text(
    const CalibrationOptions& options, const bisup::io::TokenizerFiles& tokenizer);
// How much of it, and of what the model writes; a short text has shorter held-out crops.
[[nodiscard]] bisup::CalibrationTokens calibration_tokens(const CalibrationOptions& options,
                                                          const bisup::text::CalibrationText& text,
                                                          const bisup::llama::Config& config);

// The same without what the model would write beside the text.
[[nodiscard]] CalibrationOptions of_text_alone(CalibrationOptions options);

struct CalibrationData {
  bisup::Samples samples;
  nlohmann::json provenance;  // what an artefact remembers of them
};
[[nodiscard]] bisup::Result<CalibrationData> read_calibration(const CalibrationOptions& options,
                                                              bisup::text::CalibrationText text,
                                                              const bisup::io::Checkpoint& source,
                                                              bisup::ThreadPool& pool);

}  // namespace command
