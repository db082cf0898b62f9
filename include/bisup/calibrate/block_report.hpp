// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is told about a calibrated block? Errors, clips and outliers, for people and for the log; an
// artefact holds none of it.

#include <array>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace bisup {

struct LinearReport {
  std::string name;          // "self_attn.q_proj"
  double error = 0;          // |(W - W^) x|^2 / |W x|^2 over the calibration inputs
  double nearest_error = 0;  // the same if every weight had been rounded to nearest
  double damping = 0;        // that was needed, of the mean diagonal; 0 without GPTQ
  int dead_columns = 0;      // inputs that never were anything but 0
  int nearest_rows = 0;      // rows that kept round to nearest because it was better
  bool fell_back = false;    // no damping made the moments positive definite: rounded to nearest
};

struct InputReport {
  std::string name;  // "attention", "output", "mlp", "down"
  float clip = 1;
  double clip_gain = 1;  // damage of the rounded input at this clip / without a clip
  int keepers = 0;
  std::vector<float> largest_before, largest_after;  // [in]: max |x|, before and after slot T
};

struct TimeReport {
  std::string name;  // "statistics", "clips", "rounding", "tuning", "streams"
  double seconds = 0;
};

// Where the time goes: each lap is what passed since the one before.
class LapClock {
 public:
  [[nodiscard]] TimeReport lap(std::string name) {
    const auto now = std::chrono::steady_clock::now();
    const std::chrono::duration<double> passed = now - std::exchange(last_, now);
    return {std::move(name), passed.count()};
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

struct BlockReport {
  int layer = 0;
  double loss = 0, held_out_loss = 0;  // |F_q(X_q) - F(X)|^2 / |F(X)|^2
  float key_clip = 1, value_clip = 1;
  double smoothing_gain =
      1;                    // held-out loss smoothed and rounded / rounded as it was; 1: it is not
  double merging_gain = 1;  // the same of a block with branches merged into its weights
  double tuning_gain = 1;   // held-out loss of the tuned block / of its start
  std::array<InputReport, 4> inputs;
  std::vector<LinearReport> linears;
  double seconds = 0;             // of the whole block
  std::vector<TimeReport> times;  // what they went into, in order; may be empty
};

}  // namespace bisup
