// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Will `bisup quantize` work, how long will it take, and is there room? Asked before anything long;
// --dry-run prints the answers and stops.

#include <bisup/calibrate/preflight.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/io/model_file.hpp>
#include <bisup/ops/matrix_product.hpp>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>

namespace command {

struct Preflight {
  bisup::CalibrationTokens tokens;
  bisup::CalibrationCost cost;
  std::size_t artefact_bytes = 0;  // about: texts and descriptions are estimated
  std::size_t work_bytes = 0;      // most at once in the working folder
  bool spills = false;
  bisup::Products tuning = bisup::Products::floats;  // what tuning multiplies
};

struct PreflightOptions {
  bisup::Scheme scheme;
  bisup::Recipe recipe;
  bisup::CalibrationTokens tokens;
  bisup::DType stream = bisup::DType::f32;
  std::string output, work;  // empty: none
  bool spills = false;
};

// Errors: those of check_calibration; cannot_write, if the output cannot be written or there is no
// room for it and the working folder.
[[nodiscard]] bisup::Result<Preflight> preflight(const bisup::io::ModelSource& source,
                                                 const PreflightOptions& options);

// self_generated: tokens that the model is to write. Measures this machine for a moment.
[[nodiscard]] nlohmann::ordered_json describe(const Preflight& preflight, long self_generated,
                                              const bisup::llama::Config& config,
                                              bisup::ThreadPool& pool);
// The same for people.
[[nodiscard]] std::string explain(const nlohmann::ordered_json& preflight);

}  // namespace command
