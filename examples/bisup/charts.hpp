// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do numbers of layers and channels become pictures? Functions from data to one inline <svg>,
// 440 units wide so that its text can be read on a phone. Colours of lines and text are variables
// of the page (--s0 ... --s3, --line); those of the heat map are its own and the same by day and
// night.

#include <span>
#include <string>
#include <vector>

namespace command::charts {

// As many digits as a reader needs: "0.0123", "1.2e-05", "431".
[[nodiscard]] std::string shown(double value);
// & < > " as entities: for text and for attributes.
[[nodiscard]] std::string escaped(const std::string& text);

struct Series {
  std::string name;
  std::vector<double> values;  // one a layer
  int color = 0;               // of --s0 ... --s3
  bool faint = false;          // what the others are compared with
};
// Values over layers, on a logarithmic axis from `low` to `high` that begins below the least of
// them.
struct LineChart {
  std::string title;  // for screen readers
  std::vector<Series> series;
  double low = 0, high = 0;  // both 0: as the values need
  int height = 200;
};
[[nodiscard]] std::string lines(const LineChart& chart);
// The least and the largest positive value of all series.
struct Range {
  double low = 0, high = 0;
};
[[nodiscard]] Range range_of(const std::vector<Series>& series);

// One row a layer or a name, cells coloured from `low` to `high`.
struct HeatMap {
  std::string title;
  std::vector<std::vector<double>> rows;  // as long as each other
  std::vector<std::string> names;         // of the rows; empty: every fifth layer's number
  std::vector<std::string> notes;         // of the rows: what pointing at one says
  std::string columns;                    // what the columns are
  double low = 0, high = 1;
  bool logarithmic = true;
  int row_height = 0;  // 0: so that the map is about 240 units high
};
[[nodiscard]] std::string heat_map(const HeatMap& map);
// The colours from `low` to `high` with their numbers. `id` is that of the page's element.
[[nodiscard]] std::string heat_scale(double low, double high, bool logarithmic,
                                     const std::string& id);

// The largest of each of at most `most` bins of neighbouring values.
[[nodiscard]] std::vector<double> binned(std::span<const float> values, int most);

// Lengths beside each other, their sum the whole width.
struct Part {
  std::string name;
  double value = 0;
};
[[nodiscard]] std::string stacked_bar(const std::string& title, const std::vector<Part>& parts);

}  // namespace command::charts
