// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include "statistics.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <bisup/llama/session.hpp>
#include <bisup/pack/any_packed_tensor.hpp>
#include <cmath>
#include <cstdint>
#include <utility>

namespace command {

namespace llama = bisup::llama;

std::string format_of(const llama::AnyLinear& linear) {
  if (linear.dense() != nullptr) return bisup::name(linear.dense()->view.type);
  const bisup::Format& format = linear.packed()->format();
  return fmt::format("{}{} {} {}", format.affine() ? "uint" : "int", format.bits,
                     format.group == 0 ? "channel" : fmt::format("g{}", format.group),
                     format.scale == bisup::Scale::f32   ? "f32"
                     : format.scale == bisup::Scale::f16 ? "f16"
                                                         : "bf16");
}

namespace {

// Codes of `w` that no further step can follow: 0 and 2^b - 1 of an affine format, whatever reaches
// the highest magnitude of a symmetric one.
std::int64_t count_end_codes(const bisup::PackedPanels& w, bisup::ThreadPool& pool) {
  using L = bisup::panel16;
  const bisup::Format& format = w.shape.format;
  const int last = (1 << format.bits) - 1;
  const int low = format.affine() ? 0 : -format.lowest() - format.highest(), high = last;
  std::vector<std::int64_t> counts(static_cast<std::size_t>(w.shape.rows));
  bisup::with_bits(format.bits, [&]<int Bits>() {
    pool.parallel_for(w.shape.rows, [&](int r, int) {
      std::int64_t count = 0;
      for (int c = 0; c < w.shape.cols; ++c) {
        const int code = bisup::load_code<Bits, L>(w.codes + w.shape.tile_offset(r, c),
                                                   r % L::tile_rows, c % L::tile_codes);
        count += code <= low || code >= high ? 1 : 0;
      }
      counts[static_cast<std::size_t>(r)] = count;
    });
  });
  std::int64_t sum = 0;
  for (const std::int64_t count : counts) sum += count;
  return sum;
}

// Sums of powers of all elements that were seen at one place.
struct PowerSums {
  double count = 0, sums[4] = {}, largest = 0;

  void add(bisup::MatrixRef<const float> x) {
    for (int t = 0; t < x.rows(); ++t) {
      for (const float f : x.row(t)) {
        const double v = static_cast<double>(f), squared = v * v;
        sums[0] += v, sums[1] += squared, sums[2] += squared * v, sums[3] += squared * squared;
        largest = std::max(largest, std::fabs(v));
      }
    }
    count += static_cast<double>(x.rows()) * x.cols();
  }
  [[nodiscard]] ActivationStatistics statistics() const {
    const double m = sums[0] / count, m2 = sums[1] / count, m3 = sums[2] / count,
                 m4 = sums[3] / count;
    const double variance = m2 - m * m;
    const double fourth = m4 - 4 * m * m3 + 6 * m * m * m2 - 3 * m * m * m * m;
    return {largest, std::sqrt(m2), variance > 0 ? fourth / (variance * variance) : 0};
  }
};

int input_at(llama::Site site) {
  switch (site) {
    case llama::Site::attention_input: return 0;
    case llama::Site::output_input: return 1;
    case llama::Site::mlp_input: return 2;
    case llama::Site::down_input: return 3;
    default: return -1;
  }
}

}  // namespace

LinearStatistics linear_statistics(const std::string& name, const llama::AnyLinear& linear,
                                   bisup::ThreadPool& pool) {
  const double weights = static_cast<double>(linear.in()) * linear.out();
  LinearStatistics s;
  s.name = name, s.format = format_of(linear), s.bytes = linear.bytes();
  s.bits_per_weight = 8.0 * static_cast<double>(s.bytes) / weights;
  if (linear.keepers() != nullptr) s.keepers = linear.keepers()->cols();
  if (linear.branch() != nullptr) s.branch_rank = linear.branch()->rank();
  if (linear.packed() == nullptr) return s;
  const bisup::PackedPanels& w = linear.packed()->panels();
  std::vector<float> scales;
  for (int r = 0; r < w.shape.rows; ++r) {
    for (int g = 0; g < w.shape.groups(); ++g) scales.push_back(w.scale(r, g));
  }
  const auto middle = scales.begin() + static_cast<std::ptrdiff_t>(scales.size() / 2);
  std::nth_element(scales.begin(), middle, scales.end());
  s.median_scale = *middle;
  const auto [smallest, largest] = std::minmax_element(scales.begin(), scales.end());
  s.smallest_scale = *smallest, s.largest_scale = *largest;
  s.end_codes = static_cast<double>(count_end_codes(w, pool)) /
                (static_cast<double>(w.shape.rows) * w.shape.cols);
  return s;
}

std::vector<LayerStatistics> layer_statistics(const llama::Model& model, bisup::ThreadPool& pool) {
  std::vector<LayerStatistics> layers;
  for (const auto& block : model.blocks) {
    LayerStatistics layer;
    layer.layer = static_cast<int>(layers.size());
    for (const auto& named : llama::named_linears)
      layer.linears.push_back(linear_statistics(named.name, block.*named.linear, pool));
    for (std::size_t i = 0; i < layer.inputs.size(); ++i) {
      const llama::InputForm& form = block.inputs.*llama::named_inputs[i].input;
      InputStatistics& input = layer.inputs[i];
      input.name = llama::named_inputs[i].name;
      if (form.format) input.bits = form.format->bits, input.clip = form.format->clip;
      input.keepers = form.keepers;
      input.reordered = !form.order.empty(), input.scaled = !form.multiplier.empty();
      const auto& axis = form.rotation.axis();
      if (form.rotates())
        input.rotation = fmt::format("{}x{}x{}", axis.before, axis.order, axis.after);
    }
    for (int head = 0; head < model.config.kv_heads; ++head)
      layer.heads.push_back(model.kv.entry(layer.layer, head, model.config.kv_heads));
    layers.push_back(std::move(layer));
  }
  return layers;
}

bisup::Result<void> see_activations(const llama::Model& model, std::span<const int> ids,
                                    std::vector<LayerStatistics>& layers, bisup::ThreadPool& pool,
                                    const bisup::Progress& progress) {
  constexpr std::size_t most_tokens = 8192;
  if (ids.empty()) return bisup::Error{bisup::Errc::too_short, "the text has no tokens"};
  ids = ids.first(std::min(ids.size(), most_tokens));
  if (auto known = llama::check_ids(ids, model.config); !known) return known.error();
  const auto context = static_cast<std::size_t>(std::min(2048, model.config.max_positions));
  auto session = llama::Session::make(
      model, model.prompt.tokens() + static_cast<int>(std::min(context, ids.size())), pool);
  if (!session) return session.error();

  std::vector<std::array<PowerSums, 4>> sums(layers.size());
  llama::Activation activation;
  std::size_t layer = 0;
  const auto observe = [&](llama::Site site, bisup::MatrixRef<const float> x) {
    if (site == llama::Site::block_output) ++layer;
    const int input = input_at(site);
    if (input < 0) return;
    llama::InputForm form = model.blocks[layer].inputs.*llama::named_inputs[input].input;
    form.format = std::nullopt;
    activation.prepare(x, form, pool);
    sums[layer][static_cast<std::size_t>(input)].add(activation.exact());
  };
  const auto windows = static_cast<int>((ids.size() + context - 1) / context);
  for (int w = 0; w < windows; ++w) {
    const std::size_t first = static_cast<std::size_t>(w) * context;
    session->truncate(0), layer = 0;
    session->forward(ids.subspan(first, std::min(context, ids.size() - first)), observe);
    if (progress && !progress(w + 1, windows))
      return bisup::Error{bisup::Errc::interrupted, "stopped"};
  }
  for (std::size_t l = 0; l < layers.size(); ++l) {
    for (std::size_t i = 0; i < 4; ++i) layers[l].inputs[i].seen = sums[l][i].statistics();
  }
  return {};
}

}  // namespace command
