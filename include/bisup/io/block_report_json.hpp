// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is the report of a calibrated block written down? describe() keeps all of it beside an
// unfinished run, and read_block_report() gives it back; summary() is the line of it that logs and
// results show.

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <bisup/calibrate/block_report.hpp>
#include <bisup/core/result.hpp>
#include <bisup/io/json.hpp>
#include <bisup/io/json_fields.hpp>

namespace bisup::io {

[[nodiscard]] inline Json describe(const BlockReport& report) {
  Json inputs = Json::array(), linears = Json::array();
  for (const InputReport& input : report.inputs) {
    inputs.push_back({{"name", input.name},
                      {"clip", input.clip},
                      {"clip_gain", input.clip_gain},
                      {"keepers", input.keepers},
                      {"largest_before", input.largest_before},
                      {"largest_after", input.largest_after}});
  }
  for (const LinearReport& linear : report.linears) {
    linears.push_back({{"name", linear.name},
                       {"error", linear.error},
                       {"nearest_error", linear.nearest_error},
                       {"damping", linear.damping},
                       {"dead_columns", linear.dead_columns},
                       {"nearest_rows", linear.nearest_rows},
                       {"fell_back", linear.fell_back}});
  }
  Json times = Json::array();
  for (const TimeReport& time : report.times)
    times.push_back({{"name", time.name}, {"seconds", time.seconds}});
  return {{"layer", report.layer},
          {"loss", report.loss},
          {"held_out_loss", report.held_out_loss},
          {"key_clip", report.key_clip},
          {"value_clip", report.value_clip},
          {"smoothing_gain", report.smoothing_gain},
          {"merging_gain", report.merging_gain},
          {"tuning_gain", report.tuning_gain},
          {"inputs", inputs},
          {"linears", linears},
          {"seconds", report.seconds},
          {"times", times}};
}

// {"layer": 3, "loss": ..., "errors": {"self_attn.q_proj": ...}, "clips": {"attention": ...}, ...}
[[nodiscard]] inline Json summary(const BlockReport& report) {
  Json clips = Json::object(), errors = Json::object(), damping = Json::object();
  Json fell_back = Json::array();
  for (const InputReport& input : report.inputs) clips[input.name] = input.clip;
  for (const LinearReport& linear : report.linears) {
    errors[linear.name] = linear.error, damping[linear.name] = linear.damping;
    if (linear.fell_back) fell_back.push_back(linear.name);
  }
  return {{"layer", report.layer},
          {"loss", report.loss},
          {"held_out_loss", report.held_out_loss},
          {"clips", clips},
          {"key_clip", report.key_clip},
          {"value_clip", report.value_clip},
          {"smoothing_gain", report.smoothing_gain},
          {"merging_gain", report.merging_gain},
          {"tuning_gain", report.tuning_gain},
          {"errors", errors},
          {"damping", damping},
          {"fell_back", fell_back},
          {"seconds", report.seconds}};
}

// A number that JSON could not hold, NaN or an infinity, comes back as NaN. Errors: missing,
// malformed, naming `where`.
[[nodiscard]] inline Result<BlockReport> read_block_report(const Json& d,
                                                           const std::string& where) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  const auto refuse = [&](const std::string& what) {
    return Error{Errc::malformed, "a block's report " + what, where};
  };
  const auto number = [&](JsonFields& fields, const char* key) {
    return static_cast<float>(fields.number(key, nan));
  };
  if (!d.is_object()) return refuse("is no object");
  JsonFields fields(d, where);
  BlockReport report;
  report.layer = fields.integer("layer");
  report.loss = fields.number("loss", nan);
  report.held_out_loss = fields.number("held_out_loss", nan);
  report.key_clip = number(fields, "key_clip"), report.value_clip = number(fields, "value_clip");
  report.smoothing_gain = fields.number("smoothing_gain", nan);
  report.merging_gain = fields.number("merging_gain", nan);
  report.tuning_gain = fields.number("tuning_gain", nan);
  report.seconds = fields.number("seconds", nan);
  const Json* inputs = fields.find("inputs");
  const Json* linears = fields.find("linears");
  const Json* times = fields.find("times");
  if (fields.error()) return *fields.error();
  if (inputs == nullptr || !inputs->is_array() || inputs->size() != report.inputs.size() ||
      linears == nullptr || !linears->is_array() || times == nullptr || !times->is_array()) {
    return refuse("lacks its inputs, linears or times");
  }
  for (std::size_t i = 0; i < report.inputs.size(); ++i) {
    const Json& entry = (*inputs)[i];
    if (!entry.is_object()) return refuse("has an input that is no object");
    JsonFields f = fields.inside(entry);
    InputReport& input = report.inputs[i];
    input.name = f.text("name", ""), input.clip = number(f, "clip");
    input.clip_gain = f.number("clip_gain", nan), input.keepers = f.integer("keepers");
    for (const auto& [key, values] : {std::pair("largest_before", &input.largest_before),
                                      std::pair("largest_after", &input.largest_after)}) {
      const Json* list = f.find(key);
      if (list == nullptr || !list->is_array()) return refuse("has an input without its outliers");
      for (const Json& value : *list)
        values->push_back(value.is_number() ? value.get<float>() : static_cast<float>(nan));
    }
    if (f.error()) return *f.error();
  }
  for (const Json& entry : *linears) {
    if (!entry.is_object()) return refuse("has a linear that is no object");
    JsonFields f = fields.inside(entry);
    report.linears.push_back({.name = f.text("name", ""),
                              .error = f.number("error", nan),
                              .nearest_error = f.number("nearest_error", nan),
                              .damping = f.number("damping", nan),
                              .dead_columns = f.integer("dead_columns"),
                              .nearest_rows = f.integer("nearest_rows"),
                              .fell_back = f.boolean("fell_back", false)});
    if (f.error()) return *f.error();
  }
  for (const Json& entry : *times) {
    if (!entry.is_object()) return refuse("has a time that is no object");
    JsonFields f = fields.inside(entry);
    report.times.push_back({f.text("name", ""), f.number("seconds", nan)});
    if (f.error()) return *f.error();
  }
  return report;
}

}  // namespace bisup::io
