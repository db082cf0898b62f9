// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How did quantizing go? `bisup quantize --report` writes one HTML page that needs nothing beside
// itself: errors, outliers, clips, bits, time and settings, drawn by charts.hpp. It is well-formed
// XML too, and every number of a table is there in full, <data value="...">, under the name that
// --json gives it.

#include <CLI/CLI.hpp>

#include <bisup/calibrate/block_report.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/evaluate/divergence.hpp>
#include <bisup/evaluate/error_propagation.hpp>
#include <bisup/llama/model.hpp>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace command {

struct ReportOptions {
  std::string output, text, base;  // empty: no report; no measuring; nothing to compare with
};
void add_report_options(CLI::App& sub, ReportOptions& options);
// Before anything long: can the page be written, and is there a text to measure on?
[[nodiscard]] bisup::Result<void> expect_report(const ReportOptions& options);

struct Report {
  std::string model, method, output;       // as given
  std::string explanation;                 // explain() of the recipe
  nlohmann::json calibration;              // what the artefact remembers of its data; null: none
  std::vector<bisup::BlockReport> blocks;  // empty: nothing was calibrated
  std::vector<bisup::TimeReport> times;    // of the command, in order
  std::size_t bytes = 0, peak_memory_bytes = 0;
  double seconds = 0;
};

// What --report-text measures, of the model and of what --report-base compares it with.
struct Measured {
  std::string name;
  bisup::Divergence divergence;
  bisup::ErrorPropagation propagation;
};
struct ReportEvaluation {
  std::string text;
  Measured model;
  std::optional<Measured> base = {};
};

[[nodiscard]] std::string report_page(const Report& report, const bisup::llama::Model& model,
                                      const std::optional<ReportEvaluation>& evaluation,
                                      bisup::ThreadPool& pool);

// Measures if a text was given, and writes the page. Errors: those of opening the float model
// again, of measuring, cannot_write.
[[nodiscard]] bisup::Result<void> write_report(const ReportOptions& options, Report report,
                                               const bisup::llama::Model& model,
                                               bisup::ThreadPool& pool);

}  // namespace command
