// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bisup/core/version.hpp>
#include <bisup/io/atomic_file.hpp>
#include <bisup/kernel/target.hpp>
#include <bisup/llama/model_size.hpp>
#include <bisup/llama/stored_prompt.hpp>
#include <cmath>
#include <filesystem>
#include <functional>
#include <iterator>
#include <span>
#include <string_view>

#include "charts.hpp"
#include "command.hpp"
#include "page_style.hpp"
#include "prompt_options.hpp"
#include "statistics.hpp"
#include "terminal.hpp"
#include "windows.hpp"

namespace command {

namespace {

using bisup::BlockReport;
using bisup::InputReport;
using bisup::LinearReport;
using charts::escaped;
using charts::shown;

constexpr int heat_columns = 96;

// A number that a test and a script can read in full: <data value> under its JSON pointer.
std::string datum(const std::string& field, double value, const std::string& text) {
  if (!std::isfinite(value)) return "-";
  return fmt::format("<data data-field=\"{}\" value=\"{}\">{}</data>", escaped(field), value, text);
}
std::string datum(const std::string& field, double value) {
  return datum(field, value, shown(value));
}

double mean(std::span<const double> values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

// Geometric: what a typical ratio is.
double typical(std::span<const double> ratios) {
  double sum = 0;
  for (const double r : ratios) sum += std::log(std::max(r, 1e-12));
  return ratios.empty() ? 1 : std::exp(sum / static_cast<double>(ratios.size()));
}

// By how much the strongest channel of a group stands out, max / median, typically: what the others
// of its group pay for. `group` 0: all channels are one.
double peak_ratio(std::span<const float> largest, int group) {
  const std::size_t length = group == 0 ? largest.size() : static_cast<std::size_t>(group);
  std::vector<double> ratios;
  for (std::size_t first = 0; first < largest.size(); first += length) {
    const auto part = largest.subspan(first, std::min(length, largest.size() - first));
    std::vector<float> sorted(part.begin(), part.end());
    std::sort(sorted.begin(), sorted.end());
    const double median = static_cast<double>(sorted[sorted.size() / 2]);
    if (median > 0) ratios.push_back(static_cast<double>(sorted.back()) / median);
  }
  return typical(ratios);
}

constexpr std::string_view readers_of[] = {"q, k and v", "o", "gate and up", "down"};

class Page {
 public:
  Page(const Report& report, const bisup::llama::Model& model, bisup::ThreadPool& pool)
      : report_(report), blocks_(report.blocks), model_(model), pool_(pool) {}

  std::string write(const std::optional<ReportEvaluation>& evaluation) {
    head(evaluation);
    if (evaluation) quality(*evaluation), directions(*evaluation);
    if (!blocks_.empty()) {
      block_errors();
      linear_errors();
      outliers();
      clips();
    }
    bits();
    time();
    settings();
    if (!blocks_.empty()) all_numbers();
    add("</main>\n</body>\n</html>\n");
    return std::move(html_);
  }

 private:
  void add(std::string_view text) { html_ += text; }
  template <class... Arguments>
  void put(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
    fmt::format_to(std::back_inserter(html_), format, std::forward<Arguments>(arguments)...);
  }
  void section(std::string_view id, std::string_view title, const std::string& says) {
    put("<section id=\"{}\">\n<h2>{}</h2>\n<p>{}</p>\n", id, title, says);
  }

  void head(const std::optional<ReportEvaluation>& evaluation) {
    const std::string name = std::filesystem::path(report_.model).filename().string();
    const std::string model = escaped(name.empty() ? report_.model : name);
    const auto size = bisup::llama::model_size(model_);
    put("<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n"
        "<meta charset=\"utf-8\"/>\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
        "<title>{} - {} {}</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n",
        model, escaped(report_.method), model_.scheme.name(), page_style);
    put("<header>\n<p class=\"kicker\">bisup quantize</p>\n<h1>{}</h1>\n<p class=\"what\">"
        "<b>{}</b> at <b>{}</b></p>\n</header>\n<div class=\"cards\">\n",
        model, escaped(report_.method), model_.scheme.name());
    if (evaluation) {
      const auto& d = evaluation->model.divergence;
      card(datum("compare/perplexity", d.model.perplexity(),
                 fmt::format("{:.2f}", d.model.perplexity())),
           fmt::format("perplexity, float {:.2f}", d.reference.perplexity()));
      card(datum("compare/kl_mean", d.kl_mean), "KL to float, nats a token");
    }
    card(datum("quantize/bits_per_weight", size.bits_per_weight(),
               fmt::format("{:.3f}", size.bits_per_weight())),
         "bits per weight, all counted");
    card(datum("quantize/bytes", static_cast<double>(report_.bytes),
               command::size(static_cast<double>(report_.bytes))),
         "file");
    card(duration(report_.seconds), "time");
    card(datum("peak_memory_bytes", static_cast<double>(report_.peak_memory_bytes),
               command::size(static_cast<double>(report_.peak_memory_bytes))),
         "peak memory");
    add("</div>\n");
  }
  void card(const std::string& number, const std::string& what) {
    put("<div class=\"card\"><strong>{}</strong><span>{}</span></div>\n", number, escaped(what));
  }

  void quality(const ReportEvaluation& evaluation) {
    const bisup::Divergence& d = evaluation.model.divergence;
    section("quality", "Perplexity",
            fmt::format("{}: {} windows of {} tokens, {} positions. &#177; is one standard error "
                        "over windows; the gap is paired.",
                        escaped(std::filesystem::path(evaluation.text).filename().string()),
                        d.model.windows, d.model.context, d.model.tokens));
    add("<div class=\"wide\"><table>\n<thead><tr><th></th><th>perplexity</th><th>NLL</th>"
        "<th>gap to float</th><th>KL</th><th>KL, 99th percentile</th><th>same top token</th></tr>"
        "</thead>\n<tbody>\n");
    put("<tr><th>float</th><td>{}</td><td>{}</td><td>0</td><td>0</td><td>0</td><td>100 %</td></tr>"
        "\n",
        datum("compare/reference_perplexity", d.reference.perplexity(),
              fmt::format("{:.3f}", d.reference.perplexity())),
        with_error(
            datum("compare/reference_nll", d.reference.nll, fmt::format("{:.4f}", d.reference.nll)),
            d.reference.nll_stderr));
    if (evaluation.base) quality_row(*evaluation.base, "base/");
    quality_row(evaluation.model, "compare/");
    add("</tbody></table></div>\n</section>\n");
  }
  void quality_row(const Measured& measured, const std::string& at) {
    const bisup::Divergence& d = measured.divergence;
    std::vector<double> gaps;
    for (std::size_t w = 0; w < d.model.window_nll.size(); ++w)
      gaps.push_back(d.model.window_nll[w] - d.reference.window_nll[w]);
    const auto gap = bisup::mean_of_windows(gaps);
    put("<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
        escaped(measured.name),
        datum(at + "perplexity", d.model.perplexity(), fmt::format("{:.3f}", d.model.perplexity())),
        with_error(datum(at + "nll", d.model.nll, fmt::format("{:.4f}", d.model.nll)),
                   d.model.nll_stderr),
        with_error(fmt::format("{:+.4f}", gap.mean), gap.standard_error),
        with_error(datum(at + "kl_mean", d.kl_mean, fmt::format("{:.4f}", d.kl_mean)), d.kl_stderr),
        datum(at + "kl_p99", d.kl_p99),
        datum(at + "top1_agreement", d.top1_agreement,
              fmt::format("{:.2f} %", 100 * d.top1_agreement)));
  }
  static std::string with_error(const std::string& number, double error) {
    return std::isfinite(error) ? fmt::format("{} <i>&#177; {:.4f}</i>", number, error) : number;
  }

  // Both of BiSup's directions, layer by layer.
  void directions(const ReportEvaluation& evaluation) {
    const auto& p = evaluation.model.propagation;
    section("directions", "How error travels",
            fmt::format(
                "Over {} windows of {} tokens of the same text. Vertically: the residual stream "
                "behind each block against the float model's. Horizontally: attention's output "
                "against what it would be with an exact cache.",
                p.windows, p.context));
    add("<div class=\"pair\">\n");
    chart_of(evaluation, "vertical", "error of the residual stream",
             [](const bisup::LayerPropagation& layer) { return layer.stream_error; });
    const auto horizontal = [](const bisup::LayerPropagation& layer) { return layer.cache_error; };
    if (std::any_of(p.layers.begin(), p.layers.end(),
                    [&](const auto& l) { return horizontal(l) > 0; })) {
      chart_of(evaluation, "horizontal", "error of attention because of the cache", horizontal);
      add("</div>\n<div class=\"sides\">\n");
      if (evaluation.base) sources_of(*evaluation.base, evaluation);
      sources_of(evaluation.model, evaluation);
    }
    add("</div>\n</section>\n");
  }
  template <class Of>
  void chart_of(const ReportEvaluation& evaluation, std::string_view id, const std::string& title,
                Of&& of) {
    std::vector<charts::Series> series;
    std::string keys;
    const auto draw = [&](const Measured& measured, bool faint) {
      charts::Series line{measured.name, {}, 0, faint};
      for (const auto& layer : measured.propagation.layers) line.values.push_back(of(layer));
      series.push_back(std::move(line));
      keys += key(faint ? "faint" : "s0", escaped(measured.name));
    };
    if (evaluation.base) draw(*evaluation.base, true);
    draw(evaluation.model, false);
    put("<figure id=\"{}\">{}<figcaption>{} {}</figcaption></figure>\n", id,
        charts::lines({.title = title, .series = series, .height = 230}), title, keys);
  }
  // Whose keys and values did it: layers by source tokens, both models in the same colours.
  void sources_of(const Measured& measured, const ReportEvaluation& evaluation) {
    double high = 0;
    for (const Measured* one : {&evaluation.model, evaluation.base ? &*evaluation.base : nullptr}) {
      if (one == nullptr) continue;
      for (const auto& layer : one->propagation.layers) {
        for (const double error : layer.source_error) high = std::max(high, error);
      }
    }
    charts::HeatMap map;
    for (const auto& layer : measured.propagation.layers) {
      const std::vector<float> row(layer.source_error.begin(), layer.source_error.end());
      map.rows.push_back(charts::binned(row, heat_columns));
    }
    map.title = "error of attention by source token, " + measured.name;
    map.columns = "source tokens of a window";
    map.low = high * 1e-4, map.high = high;
    put("<div class=\"side\"><p>{}: whose keys and values do it</p>{}</div>\n",
        escaped(measured.name), charts::heat_map(map));
  }

  // A legend entry of a series' colour.
  static std::string key(const std::string& color, std::string_view name) {
    return fmt::format("<span class=\"key\"><i style=\"background:var(--{})\"></i>{}</span>", color,
                       name);
  }

  void block_errors() {
    section("blocks", "Error of each block",
            "What the quantized block gives for its quantized input, against what the float block "
            "gives for the float one: |difference|&#178; / |float|&#178; of the residual stream "
            "behind it, errors of all blocks before included.");
    std::vector<double> loss, held_out;
    for (const BlockReport& block : blocks_)
      loss.push_back(block.loss), held_out.push_back(block.held_out_loss);
    put("<div class=\"pair\"><figure>{}<figcaption>{}{}</figcaption></figure>\n<ul class=\"notes\">"
        "\n",
        charts::lines({.title = "error of each block",
                       .series = {{"calibration samples", loss, 0}, {"held out", held_out, 1}},
                       .height = 230}),
        key("s0", "calibration samples"), key("s1", "held out"));
    put("<li>Behind the last block: <b>{}</b> on samples, <b>{}</b> held out.</li>\n",
        shown(loss.back()), shown(held_out.back()));
    const auto worst = std::max_element(held_out.begin(), held_out.end()) - held_out.begin();
    put("<li>Largest held-out error: <b>{}</b>, layer {}.</li>\n",
        shown(held_out[static_cast<std::size_t>(worst)]), worst);
    std::vector<double> ratios;
    long dead = 0, kept = 0, linears = 0;
    std::string raised, fell_back;
    for (const BlockReport& block : blocks_) {
      double least = HUGE_VAL;
      for (const LinearReport& l : block.linears) least = std::min(least, l.damping);
      for (const LinearReport& l : block.linears) {
        const std::string where = fmt::format("layer {} {}", block.layer, l.name);
        ++linears, dead += l.dead_columns, kept += l.nearest_rows;
        if (l.nearest_error > 0) ratios.push_back(l.error / l.nearest_error);
        if (l.damping > usual_damping()) raised += (raised.empty() ? "" : ", ") + where;
        if (l.fell_back) fell_back += (fell_back.empty() ? "" : ", ") + where;
      }
    }
    if (linears > 0) {
      put("<li>A linear's error is typically <b>{:.2f}</b> of that of round to nearest.</li>\n",
          typical(ratios));
      put("<li>{} rows kept round to nearest because it was better; {} inputs were never anything "
          "but 0.</li>\n",
          kept, dead);
      if (usual_damping() > 0) {
        put("<li>Damping had to be raised: {}.</li>\n",
            raised.empty() ? "nowhere" : escaped(raised));
      }
    }
    std::vector<double> tuned;
    for (const BlockReport& block : blocks_) {
      if (block.tuning_gain != 1) tuned.push_back(block.tuning_gain);
    }
    if (!tuned.empty()) {
      put("<li>Tuning improved {} of {} blocks; there it left <b>{:.2f}</b> of the held-out error."
          "</li>\n",
          tuned.size(), blocks_.size(), typical(tuned));
    }
    if (!fell_back.empty()) {
      put("<li class=\"warn\">No damping helped, rounded to nearest instead: {}.</li>\n",
          escaped(fell_back));
    }
    add("</ul></div>\n</section>\n");
  }

  // The least damping of all linears: more than that is an escalation.
  [[nodiscard]] double usual_damping() const {
    double least = HUGE_VAL;
    for (const BlockReport& block : blocks_) {
      for (const LinearReport& l : block.linears) least = std::min(least, l.damping);
    }
    return least * 1.001;
  }

  void linear_errors() {
    if (blocks_.front().linears.empty()) return;
    section("linears", "Error of each linear",
            "|(W - W&#770;) x|&#178; / |W x|&#178; over the calibration inputs, against the same "
            "with every weight rounded to nearest.");
    put("<p class=\"keys\">{}{}</p>\n<div class=\"many\">\n", key("s0", escaped(report_.method)),
        key("faint", "round to nearest"));
    std::vector<std::vector<charts::Series>> all;
    std::vector<charts::Series> together;
    for (const auto& named : bisup::llama::named_linears) {
      charts::Series ours{report_.method, {}, 0}, nearest{"round to nearest", {}, 0, true};
      for (const BlockReport& block : blocks_) {
        for (const LinearReport& l : block.linears) {
          if (l.name != named.name) continue;
          ours.values.push_back(l.error), nearest.values.push_back(l.nearest_error);
        }
      }
      together.push_back(ours), together.push_back(nearest);
      all.push_back({std::move(nearest), std::move(ours)});
    }
    const charts::Range range = charts::range_of(together);
    for (std::size_t i = 0; i < all.size(); ++i) {
      std::vector<double> ratios;
      for (std::size_t l = 0; l < all[i][0].values.size(); ++l) {
        if (all[i][0].values[l] > 0) ratios.push_back(all[i][1].values[l] / all[i][0].values[l]);
      }
      const std::string name = bisup::llama::named_linears[i].name;
      put("<figure>{}<figcaption><b>{}</b> {:.2f} of nearest</figcaption></figure>\n",
          charts::lines({.title = "error of " + name,
                         .series = all[i],
                         .low = range.low,
                         .high = range.high,
                         .height = 190}),
          name, typical(ratios));
    }
    add("</div>\n</section>\n");
  }

  void outliers() {
    section("outliers", "Activation outliers",
            "The largest magnitude of each channel over the calibration samples, layers from top "
            "to bottom, neighbouring channels together. Bright lines are channels that force a "
            "coarse step on all others of their group. Before: as the model computes the input. "
            "After: as its linears meet it, before it is rounded.");
    for (std::size_t site = 0; site < 4; ++site) outliers_of(site);
    add("</section>\n");
  }

  void outliers_of(std::size_t site) {
    const std::string name = blocks_.front().inputs[site].name;
    std::array<charts::HeatMap, 2> maps;
    std::array<std::vector<double>, 2> ratios;
    std::vector<double> cells;
    bool same = true;
    std::size_t channels = 0;
    const int group = model_.scheme.token_scales ? 0 : model_.scheme.group;
    for (const BlockReport& block : blocks_) {
      const InputReport& input = block.inputs[site];
      same = same && input.largest_before == input.largest_after;
      channels = input.largest_before.size();
      const std::vector<float>* sides[] = {&input.largest_before, &input.largest_after};
      for (std::size_t side = 0; side < 2; ++side) {
        auto row = charts::binned(*sides[side], heat_columns);
        cells.insert(cells.end(), row.begin(), row.end());
        const auto most = std::max_element(sides[side]->begin(), sides[side]->end());
        // Keepers have scales of their own.
        const std::size_t apart = side == 1 ? static_cast<std::size_t>(input.keepers) : 0;
        const std::span<const float> all(*sides[side]);
        const double ratio = peak_ratio(all.first(all.size() - std::min(apart, all.size())), group);
        ratios[side].push_back(ratio);
        maps[side].rows.push_back(std::move(row));
        maps[side].notes.push_back(most == sides[side]->end()
                                       ? fmt::format("layer {}", block.layer)
                                       : fmt::format("layer {}: {} at channel {}; in a group the "
                                                     "strongest has {} times the median",
                                                     block.layer, shown(static_cast<double>(*most)),
                                                     most - sides[side]->begin(), shown(ratio)));
      }
    }
    // From the second percentile, so that a few dead channels do not take all the colours.
    std::sort(cells.begin(), cells.end());
    const double high = std::max(cells.empty() ? 1.0 : cells.back(), 1e-6);
    const double low =
        std::clamp(cells.empty() ? high : cells[cells.size() / 50], high * 1e-4, high / 4);
    const int keepers = blocks_.front().inputs[site].keepers;
    put("<figure class=\"heat\" id=\"heat-{}\">\n<h3>{} <small>read by {}, {} channels{}</small>"
        "</h3>\n<div class=\"sides\">\n",
        name, name, readers_of[site], channels,
        keepers > 0 ? fmt::format(", the last {} kept in 8 bits", keepers) : "");
    for (std::size_t side = 0; side < (same ? 1 : 2); ++side) {
      maps[side].title = fmt::format("{}, {} the transform", name, side == 0 ? "before" : "after");
      maps[side].columns = side == 1 ? "channels after the transform" : "channels";
      maps[side].low = low, maps[side].high = high;
      put("<div class=\"side\"><p>{} <span>in a group the strongest has {} &#215; the "
          "median</span></p>"
          "{}</div>\n",
          same        ? "not transformed"
          : side == 0 ? "before"
                      : "after",
          shown(typical(ratios[side])), charts::heat_map(maps[side]));
    }
    put("</div>\n<div class=\"scale\">{}</div>\n</figure>\n",
        charts::heat_scale(low, high, true, "scale-" + name));
  }

  void clips() {
    section("clips", "Clips",
            "Which share of a group's range the codes cover, layer by layer from left to right: of "
            "the four inputs, and of keys and values. 1 is the whole range.");
    charts::HeatMap map;
    map.title = "clips", map.columns = "layers";
    map.low = 0.4, map.high = 1, map.logarithmic = false, map.row_height = 24;
    const auto row = [&](const std::string& name, auto&& clip_of) {
      std::vector<double> values;
      std::string note = name + ":";
      for (const BlockReport& block : blocks_) {
        values.push_back(static_cast<double>(clip_of(block)));
        note += fmt::format(" {:.2f}", values.back());
      }
      map.names.push_back(fmt::format("{} {:.2f}", name, mean(values)));
      map.rows.push_back(std::move(values)), map.notes.push_back(std::move(note));
    };
    for (std::size_t i = 0; i < 4; ++i) {
      row(blocks_.front().inputs[i].name,
          [i](const BlockReport& block) { return block.inputs[i].clip; });
    }
    row("keys", [](const BlockReport& block) { return block.key_clip; });
    row("values", [](const BlockReport& block) { return block.value_clip; });
    put("<div class=\"pair\"><figure>{}{}</figure>\n<ul class=\"notes\">\n", charts::heat_map(map),
        charts::heat_scale(0.4, 1, false, "scale-clips"));
    for (std::size_t i = 0; i < 4; ++i) {
      std::vector<double> gains;
      for (const BlockReport& block : blocks_) gains.push_back(block.inputs[i].clip_gain);
      put("<li><b>{}</b>: clipping leaves {:.2f} of the damage that rounding without it does.</li>"
          "\n",
          blocks_.front().inputs[i].name, typical(gains));
    }
    add("</ul></div>\n</section>\n");
  }

  void bits() {
    const auto layers = layer_statistics(model_, pool_);
    section("bits", "Bits and scales",
            "Of all layers together: scales, zero points, keepers and padding are counted. "
            "<i>At ends</i> is the share of codes at either end of their range, where clipped "
            "weights are.");
    add("<div class=\"wide\"><table>\n<thead><tr><th>tensor</th><th>format</th><th>bits per weight"
        "</th><th>bytes</th><th>smallest scale</th><th>median scale</th><th>largest scale</th>"
        "<th>at ends</th></tr></thead>\n<tbody>\n");
    for (std::size_t i = 0; i < std::size(bisup::llama::named_linears); ++i) {
      LinearStatistics sum;
      sum.name = layers.front().linears[i].name, sum.format = layers.front().linears[i].format;
      sum.smallest_scale = HUGE_VALF;
      std::vector<double> width, ends, medians;
      for (const LayerStatistics& layer : layers) {
        const LinearStatistics& l = layer.linears[i];
        sum.bytes += l.bytes;
        sum.smallest_scale = std::min(sum.smallest_scale, l.smallest_scale);
        sum.largest_scale = std::max(sum.largest_scale, l.largest_scale);
        width.push_back(l.bits_per_weight), ends.push_back(l.end_codes);
        medians.push_back(static_cast<double>(l.median_scale));
      }
      sum.bits_per_weight = mean(width), sum.end_codes = mean(ends);
      sum.median_scale = static_cast<float>(mean(medians));
      tensor_row(sum);
    }
    tensor_row(
        linear_statistics("model.embed_tokens", bisup::llama::AnyLinear(model_.embedding), pool_));
    if (!bisup::llama::shares_embedding(model_))
      tensor_row(linear_statistics("lm_head", model_.head, pool_));
    add("</tbody></table></div>\n<details><summary>Every tensor</summary><div "
        "class=\"wide\"><table>"
        "\n<thead><tr><th>tensor</th><th>format</th><th>bits per weight</th><th>bytes</th>"
        "<th>smallest scale</th><th>median scale</th><th>largest scale</th><th>at ends</th></tr>"
        "</thead>\n<tbody>\n");
    for (const LayerStatistics& layer : layers) {
      for (LinearStatistics l : layer.linears) {
        l.name = bisup::llama::layer_name(layer.layer, l.name.c_str());
        tensor_row(l);
      }
    }
    add("</tbody></table></div></details>\n</section>\n");
  }
  void tensor_row(const LinearStatistics& l) {
    const bool packed = l.largest_scale > 0;
    const auto scale = [&](float s) { return packed ? shown(static_cast<double>(s)) : "-"; };
    put("<tr><th>{}</th><td>{}</td><td>{:.3f}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>"
        "<td>{}</td></tr>\n",
        escaped(l.name), l.format, l.bits_per_weight, l.bytes, scale(l.smallest_scale),
        scale(l.median_scale), scale(l.largest_scale),
        packed ? fmt::format("{:.2f} %", 100 * l.end_codes) : "-");
  }

  void time() {
    std::vector<charts::Part> parts;
    for (const bisup::TimeReport& time : report_.times) parts.push_back({time.name, time.seconds});
    std::vector<charts::Part> within;
    charts::Series seconds{"seconds", {}, 2};
    bool told = true;  // of blocks from a working folder it may not be known
    for (const BlockReport& block : blocks_) {
      if (block.seconds > 0) seconds.values.push_back(block.seconds);
      told = told && !block.times.empty();
      for (const bisup::TimeReport& time : block.times) {
        const auto same = [&](const charts::Part& part) { return part.name == time.name; };
        auto part = std::find_if(within.begin(), within.end(), same);
        if (part == within.end()) part = within.insert(part, {time.name, 0});
        part->value += time.seconds;
      }
    }
    section("time", "Time", fmt::format("{} in all.", duration(report_.seconds)));
    time_bar("the command", parts);
    if (told) time_bar("its blocks", within);
    if (seconds.values.size() == blocks_.size() && !blocks_.empty()) {
      put("<div class=\"pair\"><figure>{}<figcaption>seconds of each block</figcaption></figure>"
          "</div>\n",
          charts::lines({.title = "seconds of each block",
                         .series = {seconds},
                         .height = 150,
                         .logarithmic = false}));
    }
    add("</section>\n");
  }
  void time_bar(const std::string& title, const std::vector<charts::Part>& parts) {
    if (parts.empty()) return;
    put("<figure>{}<figcaption>{}:", charts::stacked_bar(title, parts), title);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      put(" <span class=\"key\"><i class=\"p{}\"></i>{} {}</span>", i % 6, escaped(parts[i].name),
          duration(parts[i].value));
    }
    add("</figcaption></figure>\n");
  }

  void settings() {
    section("settings", "Settings", "What was asked for, so that it can be asked for again.");
    put("<pre>{}</pre>\n<dl>\n", escaped(report_.explanation));
    entry("model", report_.model);
    entry("method", report_.method);
    entry("scheme", model_.scheme.name());
    entry("output", report_.output);
    if (report_.calibration.is_object()) {
      for (const auto& [name, value] : report_.calibration.items())
        entry("calibration " + name, value.is_string() ? value.get<std::string>() : value.dump());
    }
    entry("kernels", std::string(bisup::name(bisup::active_target())));
    entry("threads", std::to_string(pool_.threads()));
    entry("bisup", BISUP_VERSION_STRING);
    add("</dl>\n</section>\n");
  }
  void entry(const std::string& name, const std::string& value) {
    put("<dt>{}</dt><dd>{}</dd>\n", escaped(name), escaped(value));
  }

  void all_numbers() {
    section("numbers", "All numbers", "As <code>--json</code> gives them, in full in the source.");
    add("<details><summary>Every layer</summary><div class=\"wide\"><table>\n<thead><tr>"
        "<th>layer</th><th>loss</th><th>held out</th>");
    for (const auto& named : bisup::llama::named_inputs) put("<th>clip {}</th>", named.name);
    add("<th>clip keys</th><th>clip values</th>");
    for (const LinearReport& l : blocks_.front().linears)
      put("<th>{}</th><th>nearest</th><th>damping</th>", escaped(l.name));
    add("</tr></thead>\n<tbody>\n");
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      const BlockReport& block = blocks_[i];
      const std::string at = fmt::format("quantize/layers/{}/", i);
      put("<tr><th>{}</th><td>{}</td><td>{}</td>", block.layer, datum(at + "loss", block.loss),
          datum(at + "held_out_loss", block.held_out_loss));
      for (const InputReport& input : block.inputs)
        put("<td>{}</td>", datum(at + "clips/" + input.name, static_cast<double>(input.clip)));
      put("<td>{}</td><td>{}</td>", datum(at + "key_clip", static_cast<double>(block.key_clip)),
          datum(at + "value_clip", static_cast<double>(block.value_clip)));
      for (const LinearReport& l : block.linears) {
        put("<td>{}</td><td>{}</td><td>{}</td>", datum(at + "errors/" + l.name, l.error),
            shown(l.nearest_error), datum(at + "damping/" + l.name, l.damping));
      }
      add("</tr>\n");
    }
    add("</tbody></table></div></details>\n</section>\n");
  }

  const Report& report_;
  const std::vector<BlockReport>& blocks_;
  const bisup::llama::Model& model_;
  bisup::ThreadPool& pool_;
  std::string html_;
};

// The reference reads the model's prompt, or none.
bisup::Result<Measured> measure_one(std::string name, const bisup::llama::Model& model,
                                    bisup::llama::Model& reference, std::span<const int> ids,
                                    std::optional<int> bos, bisup::ThreadPool& pool) {
  constexpr int windows = 16, propagation_windows = 2, propagation_context = 1024;
  if (auto shared = bisup::llama::share_prompt(model, reference, pool); !shared)
    return shared.error();
  Meter meter("measuring " + name), again("following " + name);
  auto divergence = bisup::divergence(model, model.kv, reference, reference.kv, ids,
                                      {.windows = windows, .bos = bos}, pool, std::ref(meter));
  if (!divergence) return divergence.error();
  auto propagation =
      bisup::error_propagation(model, model.kv, reference, ids,
                               {.context = std::min(propagation_context, divergence->model.context),
                                .windows = propagation_windows,
                                .bos = bos},
                               pool, std::ref(again));
  if (!propagation) return propagation.error();
  return Measured{std::move(name), std::move(divergence).value(), std::move(propagation).value()};
}

bisup::Result<ReportEvaluation> measure_for_report(const ReportOptions& options,
                                                   const Report& report,
                                                   const bisup::llama::Model& model,
                                                   bisup::ThreadPool& pool) {
  auto file = open_model(report.model, "", pool);
  if (!file) return file.error();
  const auto tokenizer = open_tokenizer(file->tokenizer);
  if (!tokenizer) return tokenizer.error();
  const auto ids = read_ids(options.text, *tokenizer);
  if (!ids) return ids.error();
  auto ours = measure_one(report.method + " " + model.scheme.name(), model, file->model, *ids,
                          bos_of(*tokenizer), pool);
  if (!ours) return about(ours.error(), blamed(ours.error(), options.text, report.model));
  ReportEvaluation evaluation{options.text, std::move(ours).value()};
  if (options.base.empty()) return evaluation;
  const auto base = open_model(options.base, "", pool);
  if (!base) return base.error();
  const auto name = std::filesystem::path(options.base).stem().string();
  auto theirs = measure_one(name, base->model, file->model, *ids, bos_of(*tokenizer), pool);
  if (!theirs) return about(theirs.error(), blamed(theirs.error(), options.text, options.base));
  evaluation.base = std::move(theirs).value();
  return evaluation;
}

}  // namespace

void add_report_options(CLI::App& sub, ReportOptions& options) {
  auto* report = sub.add_option("--report", options.output, "also write a page about it, .html");
  sub.add_option("--report-text", options.text, "measure both models on this text for the page")
      ->needs(report);
  sub.add_option("--report-base", options.base, "another artefact, to compare with on the page")
      ->needs("--report-text");
}

bisup::Result<void> expect_report(const ReportOptions& options) {
  if (options.output.empty()) return {};
  // Removes what it made.
  if (auto file = bisup::io::AtomicFile::create(options.output); !file) return file.error();
  std::error_code failed;
  for (const std::string& path : {options.text, options.base}) {
    if (!path.empty() && path != "-" && !std::filesystem::exists(path, failed))
      return bisup::Error{bisup::Errc::cannot_open, "there is no such file", path};
  }
  return {};
}

std::string report_page(const Report& report, const bisup::llama::Model& model,
                        const std::optional<ReportEvaluation>& evaluation,
                        bisup::ThreadPool& pool) {
  return Page(report, model, pool).write(evaluation);
}

bisup::Result<void> write_report(const ReportOptions& options, Report report,
                                 const bisup::llama::Model& model, bisup::ThreadPool& pool) {
  std::optional<ReportEvaluation> evaluation;
  if (!options.text.empty()) {
    const Clock clock;
    auto measured = measure_for_report(options, report, model, pool);
    if (!measured) return measured.error();
    evaluation = std::move(measured).value();
    report.times.push_back({"measuring", clock.seconds()});
    report.seconds += clock.seconds();
  }
  auto file = bisup::io::AtomicFile::create(options.output);
  if (!file) return file.error();
  if (auto written = file->append(report_page(report, model, evaluation, pool)); !written)
    return written;
  return file->commit();
}

}  // namespace command
