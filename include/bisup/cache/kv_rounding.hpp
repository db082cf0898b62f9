// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a token that leaves the window become codes? One group after the other: a scale from its
// extremes, or the best of some shares of them, then codes into the page.
//
// A fitted scale has the least squared error of its candidates. That shrinks what it rounds: the
// sum of x y falls below that of x^2. Noise averages out over many tokens and a shrinkage does not:
// scores drift together, and so does the mean of values. So the scale that codes are read with is
// lengthened by sum x^2 / sum x y, which leaves no bias.

#include <algorithm>
#include <span>
#include <vector>

#include <bisup/cache/kv_pool.hpp>
#include <bisup/kernel/attention.hpp>
#include <bisup/pack/codes.hpp>
#include <bisup/pack/kv_store.hpp>

namespace bisup {

namespace detail {

[[nodiscard]] inline KvRounding rounding_of(const Format& format, const GroupParameters& p) {
  const int lowest = format.smallest_used() - format.lowest();  // a code
  return {1.0f / p.scale, static_cast<float>((format.affine() ? 0 : lowest) - p.zero),
          static_cast<float>((1 << format.bits) - 1 - p.zero), p.zero};
}

}  // namespace detail

// Shares of a group's range that a fitted scale is chosen from: 1, 0.95, ... 0.4.
inline constexpr int fit_candidates = 13;

// Scale and zero point of one group. They do not say what is stored: see stored_parameters.
[[nodiscard]] inline GroupParameters rounding_parameters(const Format& format,
                                                         std::span<const float> x, Clip clip,
                                                         bool fit) {
  const AttentionKernels& kernels = attention_kernels();
  const int count = static_cast<int>(x.size());
  const Extremes e = kernels.extremes(x.data(), count);
  GroupParameters best = parameters_for(format, e.low, e.high, clip);
  if (!fit) return best;
  float least =
      kernels.rounding_sums(x.data(), count, best.scale, detail::rounding_of(format, best)).error;
  for (int i = 1; i < fit_candidates; ++i) {
    const float share = 1.0f - 0.05f * static_cast<float>(i);
    const GroupParameters p =
        parameters_for(format, e.low, e.high, {clip.high * share, clip.low * share});
    const float error =
        kernels.rounding_sums(x.data(), count, p.scale, detail::rounding_of(format, p)).error;
    if (error < least) least = error, best = p;
  }
  return best;
}

// The scale that codes made with `p` are read with: of a fitted one lengthened, at most twice.
[[nodiscard]] inline float reading_scale(const Format& format, std::span<const float> x,
                                         const GroupParameters& p, bool fit) {
  if (!fit) return p.scale;
  const RoundingSums sums = attention_kernels().rounding_sums(
      x.data(), static_cast<int>(x.size()), p.scale, detail::rounding_of(format, p));
  if (!(sums.product > 0)) return p.scale;
  return stored_scale(format, p.scale * std::clamp(sums.square / sums.product, 1.0f, 2.0f));
}

// Writes rounded tokens into stored pages.
class KvPanelWriter {
 public:
  KvPanelWriter(KvSide side, const KvPlane& plane, bool fit, std::byte* page)
      : plane_(plane),
        panel_(plane.panel),
        format_(plane.panel.format.format()),
        is_key_(side == KvSide::keys),
        fit_(fit),
        codes_(reinterpret_cast<std::uint8_t*>(page + plane.codes_at)),
        scales_(reinterpret_cast<Half*>(page + plane.scales_at)),
        zeros_(reinterpret_cast<std::uint8_t*>(page + plane.zeros_at)) {}

  // One token, [dim] of which head_dim count.
  void token(std::span<const float> row, int lane, std::span<std::uint8_t> codes) const {
    for (int g = 0; g < panel_.groups(); ++g) {
      const int begin = g * panel_.group(), end = std::min(begin + panel_.group(), panel_.dim());
      const auto x = row.subspan(static_cast<std::size_t>(begin),
                                 static_cast<std::size_t>(std::min(end, panel_.head_dim) - begin));
      const GroupParameters p = rounding_parameters(format_, x, plane_.clip, fit_);
      attention_kernels().round_group(x.data(), static_cast<int>(x.size()),
                                      detail::rounding_of(format_, p), codes.data() + begin);
      std::fill(codes.begin() + begin + static_cast<std::ptrdiff_t>(x.size()), codes.begin() + end,
                static_cast<std::uint8_t>(p.zero));
      keep(g * kv_panel + lane, reading_scale(format_, x, p, fit_), p.zero);
    }
    store(codes, lane);
  }

  // Tokens first ... last - 1 of a panel by channels; rows: [16, dim]. Those before `first` are
  // sinks: not rounded. A panel that was rounded before a truncation keeps its scales.
  void channels(MatrixRef<const float> rows, int first, int last, bool keeps_scales,
                MatrixRef<std::uint8_t> codes) const {
    std::array<float, kv_panel> x{};
    std::array<std::uint8_t, kv_panel> column{};
    for (int d = 0; d < panel_.dim(); ++d) {
      for (int t = first; t < last; ++t)
        x[static_cast<std::size_t>(t)] = d < panel_.head_dim ? rows(t, d) : 0.0f;
      const std::span<const float> channel(x.data() + first,
                                           static_cast<std::size_t>(last - first));
      GroupParameters p;
      if (keeps_scales) {
        p = {to_float(scales_[d]), format_.affine() ? zeros_[d] : -format_.lowest()};
      } else {
        p = rounding_parameters(format_, channel, plane_.clip, fit_);
        keep(d, p.scale, p.zero);
      }
      attention_kernels().round_group(channel.data(), last - first, detail::rounding_of(format_, p),
                                      column.data());
      for (int t = first; t < last; ++t) codes(t, d) = column[static_cast<std::size_t>(t - first)];
    }
    for (int t = first; t < last; ++t) store(codes.row(t), t);
  }

 private:
  void keep(int at, float scale, int zero) const {
    scales_[at] = to_half(scale);
    if (format_.affine()) zeros_[at] = static_cast<std::uint8_t>(zero);
  }
  void store(std::span<const std::uint8_t> codes, int lane) const {
    with_kv_bits(format_.bits, [&]<int Bits>() {
      if (is_key_) {
        store_key_codes<Bits>(codes.data(), panel_.dim(), lane, codes_);
      } else {
        store_value_codes<Bits>(codes.data(), panel_.dim(), codes_ + lane * panel_.token_bytes());
      }
    });
  }

  const KvPlane& plane_;
  const KvPanel& panel_;
  Format format_;
  bool is_key_, fit_;
  std::uint8_t* codes_;
  Half* scales_;
  std::uint8_t* zeros_;
};

}  // namespace bisup
