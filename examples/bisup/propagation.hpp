// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is the travel of errors told? For JSON and for people, source tokens taken together in
// ranges that grow as attention's reach does.

#include <bisup/evaluate/error_propagation.hpp>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace command {

// Source tokens first ... last of a window, its stored prompt included.
struct SourceRange {
  int first = 0, last = 0;
};
// The prompt, if there is one; then 1, 3, 12, 48, ... tokens.
[[nodiscard]] std::vector<SourceRange> source_ranges(const bisup::ErrorPropagation& propagation);

// [{"layer": 0, "stream_error": ..., "cache_error": ..., "sources": [{"first": 0, "last": 0,
// "mass": ..., "error": ...}, ...]}, ...]; mass is the mean of the range, error its sum.
[[nodiscard]] nlohmann::json describe(const bisup::ErrorPropagation& propagation);
[[nodiscard]] std::string explain(const bisup::ErrorPropagation& propagation);

}  // namespace command
