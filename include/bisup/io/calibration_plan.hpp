// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What do the results of a calibration depend on? calibration_plan() names all of it: two runs of
// the same plan give the same bits, whatever stopped them and on however many threads.

#include <charconv>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include <bisup/calibrate/calibrator.hpp>
#include <bisup/calibrate/recipe.hpp>
#include <bisup/calibrate/samples.hpp>
#include <bisup/core/checksum.hpp>
#include <bisup/core/scheme.hpp>
#include <bisup/core/version.hpp>
#include <bisup/io/checkpoint.hpp>
#include <bisup/io/hf_config_text.hpp>
#include <bisup/io/json.hpp>
#include <bisup/kernel/target.hpp>

namespace bisup::io {

namespace detail {

// A float as people write it: 0.9, not the double 0.8999999761581421.
[[nodiscard]] inline double written(float value) {
  char text[64];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  double number = 0;
  std::from_chars(text, end, number);
  return number;
}
[[nodiscard]] inline Json describe(const ClipChoice& choice) {
  return choice.constant ? Json(written(*choice.constant)) : Json("search");
}

}  // namespace detail

// Both by name, so that a new field that is not written down does not compile.
[[nodiscard]] inline Json describe(const Tuning& tuning) {
  const auto& [rank, branch_bits, branch_energy, regression, branch_type, merged_rank, length,
               block_steps, end_to_end_steps, end_to_end_segment, clips, scales, biases, norm_gains,
               smoothing, branch_rate, end_to_end_branch_rate, clip_rate, scale_rate,
               end_to_end_scale_rate, bias_rate, gain_rate, smoothing_rate, full_rate_divergence,
               products] = tuning;
  return {{"rank", rank},
          {"branch_bits", branch_bits},
          {"branch_energy", branch_energy},
          {"regression", regression},
          {"branch_type", name(branch_type)},
          {"merged_rank", merged_rank},
          {"length", length},
          {"block_steps", block_steps},
          {"end_to_end_steps", end_to_end_steps},
          {"end_to_end_segment", end_to_end_segment},
          {"clips", clips},
          {"scales", scales},
          {"biases", biases},
          {"norm_gains", norm_gains},
          {"smoothing", smoothing},
          {"branch_rate", branch_rate},
          {"end_to_end_branch_rate", end_to_end_branch_rate},
          {"clip_rate", clip_rate},
          {"scale_rate", scale_rate},
          {"end_to_end_scale_rate", end_to_end_scale_rate},
          {"bias_rate", bias_rate},
          {"gain_rate", gain_rate},
          {"smoothing_rate", smoothing_rate},
          {"full_rate_divergence", full_rate_divergence},
          {"products", products == Products::words ? "words" : "floats"}};
}

[[nodiscard]] inline Json describe(const Recipe& recipe) {
  const auto& [name, basis, smoothing, engine, quantizer, static_groups, act_order, damping,
               moments, staged, keepers, activation_clip, kv_clip, tuning] = recipe;
  Json rounding;
  if (const auto* nearest = std::get_if<Nearest>(&quantizer)) {
    rounding = {{"high", detail::written(nearest->clip.high)},
                {"low", detail::written(nearest->clip.low)},
                {"grid", static_cast<int>(nearest->grid)}};
  } else {
    const auto& search = std::get<ClipSearch>(quantizer);
    rounding = {{"loss", static_cast<int>(search.loss)},
                {"grid", static_cast<int>(search.grid)},
                {"candidates", search.candidates}};
  }
  return {{"name", name},
          {"basis", static_cast<int>(basis)},
          {"smoothing", detail::written(smoothing)},
          {"engine", static_cast<int>(engine)},
          {"quantizer", rounding},
          {"static_groups", static_groups},
          {"act_order", act_order},
          {"damping", damping},
          {"moments", static_cast<int>(moments)},
          {"staged", staged},
          {"keepers", keepers ? Json(*keepers) : Json()},
          {"activation_clip", detail::describe(activation_clip)},
          {"kv_clip", detail::describe(kv_clip)},
          {"tuning", describe(tuning)}};
}

[[nodiscard]] inline Json describe(const Samples& samples) {
  std::uint32_t sum = 0;
  for (const auto* part : {&samples.crops, &samples.held_out, &samples.end_to_end}) {
    for (const std::vector<int>& crop : *part) {
      const auto length = static_cast<std::uint64_t>(crop.size());
      sum =
          crc32c(std::as_bytes(std::span(crop)), crc32c(std::as_bytes(std::span(&length, 1)), sum));
    }
  }
  return {{"crops", samples.crops.size()},
          {"held_out", samples.held_out.size()},
          {"end_to_end", samples.end_to_end.size()},
          {"count", samples.tokens()},
          {"crc32c", sum}};
}

// Reads all of the model's bytes.
[[nodiscard]] inline Json describe(const Checkpoint& source) {
  Json config = Json::parse(hf_config_text(source.config()));
  return {{"config", std::move(config)},
          {"rope_factors", source.config().rope_factors},
          {"weights_crc32c", source.checksum()}};
}

// The kernels count: the sums of one target are not those of another in the last bit.
[[nodiscard]] inline Json calibration_plan(const Json& model, const Scheme& scheme,
                                           const Recipe& recipe, const Samples& samples,
                                           const CalibrateOptions& options) {
  Json plan = {{"writer", "bisup " BISUP_VERSION_STRING},
               {"target", name(active_target())},
               {"model", model},
               {"scheme", scheme.name()},
               {"recipe", describe(recipe)},
               {"tokens", describe(samples)},  // last: a seed or a length names itself before
               {"streams", name(options.stream)},
               {"seed", options.seed}};
  if (!options.prompt.empty())
    plan["prompt"] = {{"ids", options.prompt}, {"bits", options.prompt_bits}};
  return plan;
}

}  // namespace bisup::io
