// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include "charts.hpp"

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <iterator>

namespace command::charts {

namespace {

constexpr double width = 440, left = 40, right = 8;
constexpr int shades = 32;

template <class... Arguments>
void add(std::string& svg, fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  fmt::format_to(std::back_inserter(svg), format, std::forward<Arguments>(arguments)...);
}

std::string opened(double height, const std::string& title) {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" role=\"img\" "
      "font-family=\"system-ui, sans-serif\" font-size=\"11.5\" fill=\"currentColor\">"
      "<title>{}</title>\n",
      width, height, escaped(title));
}

// From night to fire: dark blue, violet, rose, orange, pale yellow. share: 0 ... 1
std::string shade(double share) {
  static constexpr std::array<std::array<double, 3>, 6> stops = {{{17, 18, 43},
                                                                  {58, 28, 103},
                                                                  {136, 38, 118},
                                                                  {212, 66, 82},
                                                                  {246, 138, 59},
                                                                  {253, 232, 160}}};
  const double at = std::clamp(share, 0.0, 1.0) * static_cast<double>(stops.size() - 1);
  const auto i = std::min(static_cast<std::size_t>(at), stops.size() - 2);
  const double rest = at - static_cast<double>(i);
  std::array<int, 3> rgb{};
  for (std::size_t c = 0; c < 3; ++c) {
    rgb[c] = static_cast<int>(std::lround(stops[i][c] + rest * (stops[i + 1][c] - stops[i][c])));
  }
  return fmt::format("#{:02x}{:02x}{:02x}", rgb[0], rgb[1], rgb[2]);
}

double share_of(double value, double low, double high, bool logarithmic) {
  if (!(value > low)) return 0;
  if (value >= high) return 1;
  return logarithmic ? std::log(value / low) / std::log(high / low) : (value - low) / (high - low);
}

// 1, 2 and 5 times powers of ten between two numbers; powers alone if those are enough.
std::vector<double> ticks(double low, double high) {
  std::vector<double> all, powers;
  for (int e = static_cast<int>(std::floor(std::log10(low))); std::pow(10, e) <= high; ++e) {
    for (const double digit : {1.0, 2.0, 5.0}) {
      const double tick = digit * std::pow(10, e);
      if (tick < low * 0.999 || tick > high * 1.001) continue;
      all.push_back(tick);
      if (digit == 1) powers.push_back(tick);
    }
  }
  return powers.size() >= 3 ? powers : all;
}

// Which of `count` layers have their number written.
int label_step(std::size_t count) {
  return count <= 8 ? 1 : count <= 40 ? 5 : 10;
}

}  // namespace

std::string shown(double value) {
  if (!std::isfinite(value)) return "-";
  const double size = std::fabs(value);
  if (size != 0 && (size < 1e-3 || size >= 1e5)) return fmt::format("{:.2g}", value);
  if (size >= 100) return fmt::format("{:.0f}", value);
  std::string text = fmt::format("{:.3g}", value);
  return text;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t' ? ' ' : c;
    }
  }
  return out;
}

Range range_of(const std::vector<Series>& series) {
  Range range{HUGE_VAL, 0};
  for (const Series& s : series) {
    for (const double v : s.values) {
      if (v > 0 && std::isfinite(v))
        range.low = std::min(range.low, v), range.high = std::max(range.high, v);
    }
  }
  return range.high > 0 ? range : Range{1e-3, 1};
}

std::string lines(const LineChart& chart) {
  const auto found = chart.high > 0 ? Range{chart.low, chart.high} : range_of(chart.series);
  const double low = found.low / 1.15, high = found.high * 1.15;
  const double top = 10, bottom = chart.height - 24;
  const std::size_t layers = chart.series.empty() ? 0 : chart.series.front().values.size();
  const auto x_of = [&](std::size_t layer) {
    const double share =
        layers > 1 ? static_cast<double>(layer) / static_cast<double>(layers - 1) : 0.5;
    return left + 6 + share * (width - left - right - 12);
  };
  const auto y_of = [&](double value) {
    return bottom - share_of(value, low, high, true) * (bottom - top);
  };
  std::string svg = opened(chart.height, chart.title);
  for (const double tick : ticks(low, high)) {
    add(svg, "<path d=\"M{} {:.1f}H{}\" stroke=\"var(--line)\"/>", left, y_of(tick), width - right);
    add(svg, "<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\" opacity=\"0.75\">{}</text>\n",
        left - 6, y_of(tick) + 4, shown(tick));
  }
  for (std::size_t layer = 0; layer < layers;
       layer += static_cast<std::size_t>(label_step(layers))) {
    add(svg, "<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\" opacity=\"0.75\">{}</text>",
        x_of(layer), chart.height - 6, layer);
  }
  for (const Series& series : chart.series) {
    const std::string color =
        series.faint ? "var(--faint)" : fmt::format("var(--s{})", series.color);
    std::string path;
    for (std::size_t layer = 0; layer < layers; ++layer) {
      add(path, "{}{:.1f} {:.1f}", path.empty() ? 'M' : 'L', x_of(layer),
          y_of(series.values[layer]));
    }
    add(svg,
        "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\" "
        "stroke-linejoin=\"round\"{}/>\n",
        path, color, series.faint ? " stroke-dasharray=\"4 3\"" : "");
    for (std::size_t layer = 0; layer < layers; ++layer) {
      add(svg,
          "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" fill=\"{}\"><title>layer {}, {}: {}"
          "</title></circle>",
          x_of(layer), y_of(series.values[layer]), layers > 40 ? 1.5 : 2.5, color, layer,
          escaped(series.name), shown(series.values[layer]));
    }
  }
  return svg + "</svg>\n";
}

std::vector<double> binned(std::span<const float> values, int most) {
  const auto bins = std::min(values.size(), static_cast<std::size_t>(most));
  std::vector<double> out(bins);
  for (std::size_t i = 0; i < values.size(); ++i) {
    double& bin = out[i * bins / values.size()];
    bin = std::max(bin, static_cast<double>(values[i]));
  }
  return out;
}

std::string heat_map(const HeatMap& map) {
  const auto rows = map.rows.size(), cols = map.rows.empty() ? 0 : map.rows.front().size();
  const bool named = !map.names.empty();
  const double begin = named ? 76 : left - 10, breadth = width - begin - 4;
  const double row_height =
      map.row_height > 0
          ? map.row_height
          : std::clamp(240.0 / static_cast<double>(std::max<std::size_t>(rows, 1)), 5.0, 30.0);
  const double height = row_height * static_cast<double>(rows);
  std::string svg = opened(height + 22, map.title);

  // One path a shade: thousands of cells in a few hundred kilobytes.
  std::array<std::string, shades> cells;
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < cols;) {
      const auto shade_of = [&](std::size_t col) {
        const double share = share_of(map.rows[r][col], map.low, map.high, map.logarithmic);
        return static_cast<std::size_t>(std::lround(share * (shades - 1)));
      };
      const std::size_t first = c, level = shade_of(first);
      while (c < cols && shade_of(c) == level) ++c;
      add(cells[level], "M{} {}h{}v1h-{}z", first, r, c - first, c - first);
    }
  }
  add(svg,
      "<g transform=\"translate({} 0) scale({:.6g} {:.6g})\" shape-rendering=\"crispEdges\">\n",
      begin, breadth / static_cast<double>(std::max<std::size_t>(cols, 1)), row_height);
  for (std::size_t s = 0; s < shades; ++s) {
    if (cells[s].empty()) continue;
    add(svg, "<path fill=\"{}\" d=\"{}\"/>\n", shade(static_cast<double>(s) / (shades - 1)),
        cells[s]);
  }
  svg += "</g>\n";
  for (std::size_t r = 0; r < rows; ++r) {
    const double y = row_height * static_cast<double>(r);
    if (named || r % static_cast<std::size_t>(label_step(rows)) == 0) {
      add(svg, "<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\" opacity=\"0.75\">{}</text>",
          begin - 6, y + std::min(row_height / 2 + 4, std::max(row_height, 9.0)),
          named ? escaped(map.names[r]) : std::to_string(r));
    }
    if (r < map.notes.size()) {
      add(svg,
          "<rect x=\"{}\" y=\"{:.2f}\" width=\"{}\" height=\"{:.2f}\" fill=\"transparent\">"
          "<title>{}</title></rect>\n",
          begin, y, breadth, row_height, escaped(map.notes[r]));
    }
  }
  add(svg, "<text x=\"{}\" y=\"{:.1f}\" opacity=\"0.75\">{}</text>", begin, height + 16,
      escaped(map.columns));
  return svg + "</svg>\n";
}

std::string heat_scale(double low, double high, bool logarithmic, const std::string& id) {
  std::string svg = opened(34, "the colours' numbers");
  add(svg, "<defs><linearGradient id=\"{}\">", id);
  for (int s = 0; s <= 10; ++s)
    add(svg, "<stop offset=\"{}\" stop-color=\"{}\"/>", s / 10.0, shade(s / 10.0));
  const double begin = left - 10, breadth = width - begin - 4;
  add(svg,
      "</linearGradient></defs><rect x=\"{}\" y=\"2\" width=\"{}\" height=\"10\" rx=\"2\" "
      "fill=\"url(#{})\"/>",
      begin, breadth, id);
  std::vector<double> numbers;
  if (logarithmic) {
    numbers = ticks(low, high);
  } else {
    for (int i = 0; i <= 4; ++i) numbers.push_back(low + (high - low) * i / 4);
  }
  for (const double number : numbers) {
    const double share = share_of(number, low, high, logarithmic);
    const char* anchor = share < 0.03 ? "start" : share > 0.97 ? "end" : "middle";
    add(svg, "<text x=\"{:.1f}\" y=\"27\" text-anchor=\"{}\" opacity=\"0.75\">{}</text>",
        begin + breadth * share, anchor, shown(number));
  }
  return svg + "</svg>\n";
}

std::string stacked_bar(const std::string& title, const std::vector<Part>& parts) {
  double sum = 0;
  for (const Part& part : parts) sum += part.value;
  std::string svg = opened(26, title);
  double x = 0;
  for (std::size_t i = 0; i < parts.size() && sum > 0; ++i) {
    const double length = width * parts[i].value / sum;
    add(svg,
        "<rect x=\"{:.2f}\" y=\"2\" width=\"{:.2f}\" height=\"22\" class=\"p{}\">"
        "<title>{}: {:.1f} s</title></rect>",
        x, std::max(length - 1, 0.3), i % 6, escaped(parts[i].name), parts[i].value);
    x += length;
  }
  return svg + "</svg>\n";
}

}  // namespace command::charts
