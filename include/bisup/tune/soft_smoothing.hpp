// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is smoothing learned without running away? By the scales of transform/smoothing_scales.hpp,
// ln s = eta prior + B tanh(theta / B): tied to the outlier statistics by the prior, free within a
// bound, pulled back by a penalty. A site says where s multiplies and where it divides, such that
// nothing changes before rounding: those of transform/smoothing.hpp, live.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <span>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/transform/smoothing_scales.hpp>
#include <bisup/tune/block_gradient.hpp>
#include <bisup/tune/parameter_group.hpp>
#include <bisup/tune/simulated_block.hpp>

namespace bisup::tune {

// A vector of the block that is s, or 1 / s, at some channels, and the gradient of its logarithm.
template <class T>
struct SmoothingUse {
  std::vector<T>* factor;
  const std::vector<T>* gradient;
  std::vector<int> channels;  // of s, one an element
  int exponent;               // 1 or -1
};

template <class T>
class SoftSmoothing {
 public:
  // `fixed` last channels keep s = 1 (keepers have 8 bits anyway).
  SoftSmoothing(std::vector<T> prior, std::vector<SmoothingUse<T>> uses, T eta, int fixed = 0)
      : prior_(std::move(prior)),
        theta_(prior_.size(), T(0)),
        dtheta_(prior_.size(), T(0)),
        eta_(eta),
        free_(prior_.size() - static_cast<std::size_t>(fixed)),
        uses_(std::move(uses)) {
    BISUP_EXPECTS(fixed >= 0 && static_cast<std::size_t>(fixed) <= prior_.size());
    spread();
  }

  [[nodiscard]] std::span<T> theta() noexcept { return theta_; }
  [[nodiscard]] T& eta() noexcept { return eta_; }
  [[nodiscard]] std::vector<T> scales() const {
    std::vector<T> s = smoothing_scales<T>(prior_, theta_, eta_);
    std::fill(s.begin() + static_cast<std::ptrdiff_t>(free_), s.end(), T(1));
    return s;
  }

  // Writes the factors that the block reads; its weights are to be refreshed after it.
  void spread() {
    const std::vector<T> s = scales();
    for (const auto& use : uses_) {
      use.factor->resize(use.channels.size());
      for (std::size_t i = 0; i < use.channels.size(); ++i) {
        const T of = s[static_cast<std::size_t>(use.channels[i])];
        (*use.factor)[i] = use.exponent > 0 ? of : 1 / of;
      }
    }
  }

  // From the factors' gradients to those of theta and eta; returns the penalty's value.
  double gather() {
    std::vector<T> dlog(prior_.size(), T(0));
    for (const auto& use : uses_) {
      for (std::size_t i = 0; i < use.channels.size(); ++i) {
        const T d = (*use.gradient)[i];
        dlog[static_cast<std::size_t>(use.channels[i])] += use.exponent > 0 ? d : -d;
      }
    }
    const T n = static_cast<T>(prior_.size());
    T penalty_sum = 0;
    deta_ = 0;
    for (std::size_t j = 0; j < free_; ++j) {
      const T level = std::tanh(theta_[j] / bound);
      dtheta_[j] = dlog[j] * (1 - level * level) + 2 * penalty * theta_[j] / n;
      deta_ += dlog[j] * prior_[j];
      penalty_sum += theta_[j] * theta_[j];
    }
    return static_cast<double>(penalty * penalty_sum / n);
  }

  // The site as a plug-in; it must not move while the group is used.
  [[nodiscard]] ParameterGroup<T> group(double rate) {
    ParameterGroup<T> g{
        .name = "smoothing", .rate = rate, .wanted = {.smoothing = true}, .changes_weights = true};
    g.add(std::span<T>(theta_), std::span<const T>(dtheta_));
    g.add(std::span<T>(&eta_, 1), std::span<const T>(&deta_, 1));
    g.spread = [this] { spread(); };
    g.gather = [this] { return gather(); };
    return g;
  }

 private:
  static constexpr T bound = std::numbers::ln2_v<T>;  // that of smoothing_scales
  static constexpr T penalty = static_cast<T>(1e-3);  // times the mean of theta^2

  std::vector<T> prior_, theta_, dtheta_;
  T eta_, deta_ = 0;
  std::size_t free_;
  std::vector<SmoothingUse<T>> uses_;
};

namespace detail {

template <class Channel>
std::vector<int> channels(int count, Channel&& of) {
  std::vector<int> c;
  for (int i = 0; i < count; ++i) c.push_back(of(i));
  return c;
}

// The columns of all readers of an input, s one a prepared channel.
template <class T, class Channel>
void use_columns(SimulatedBlock<T>& block, const BlockGradient<T>& gradient, InputOf input,
                 std::vector<SmoothingUse<T>>& uses, Channel&& of) {
  for (std::size_t i = 0; i < block.linears.size(); ++i) {
    if (input_of[i] != input) continue;
    SimulatedLinear<T>& l = block.linears[i];
    uses.push_back({&l.column_factor, &gradient.linears[i].columns, channels(l.in(), of), 1});
  }
}
// The column of what arrives that prepared column j comes from.
template <class T>
int arriving_column(const SimulatedInput<T>& input, int j) {
  return input.order.empty() ? j : input.order[static_cast<std::size_t>(j)];
}

}  // namespace detail

// Where smoothing is exact. Each gives the uses of s; the gradient must have been cleared once.

// Norm weights / s, columns of their readers * s; s one a prepared channel. No online rotation.
template <class T>
std::vector<SmoothingUse<T>> norm_site(SimulatedBlock<T>& block, const BlockGradient<T>& gradient,
                                       InputOf which) {
  BISUP_EXPECTS(which == attention_input || which == mlp_input);
  const SimulatedInput<T>& input = block.inputs[which];
  BISUP_EXPECTS(!input.rotation);
  const bool attention = which == attention_input;
  std::vector<int> prepared(static_cast<std::size_t>(block.shape.hidden));
  for (int j = 0; j < block.shape.hidden; ++j) {
    prepared[static_cast<std::size_t>(detail::arriving_column(input, j))] = j;
  }
  SimulatedNorm<T>& norm = attention ? block.attention_norm : block.mlp_norm;
  std::vector<SmoothingUse<T>> uses = {
      {&norm.factor, attention ? &gradient.attention_norm_factor : &gradient.mlp_norm_factor,
       std::move(prepared), -1}};
  detail::use_columns(block, gradient, which, uses, [](int j) { return j; });
  return uses;
}

// Rows and bias of v / s, columns of o * s; s one a KV head and dimension. No online rotation at o.
template <class T>
std::vector<SmoothingUse<T>> value_site(SimulatedBlock<T>& block,
                                        const BlockGradient<T>& gradient) {
  const SimulatedInput<T>& input = block.inputs[output_input];
  BISUP_EXPECTS(!input.rotation && block.cache.prompt() == 0);
  const int d = block.shape.head_dim, group = block.shape.heads / block.shape.kv_heads;
  SimulatedLinear<T>& v = block.linears[v_linear];
  std::vector<SmoothingUse<T>> uses = {{&v.row_factor, &gradient.linears[v_linear].rows,
                                        detail::channels(v.out(), [](int r) { return r; }), -1}};
  detail::use_columns(block, gradient, output_input, uses, [&](int j) {
    const int c = detail::arriving_column(input, j);
    return c / d / group * d + c % d;
  });
  return uses;
}

// Rows and bias of up / s, columns of down * s. No online rotation at down.
template <class T>
std::vector<SmoothingUse<T>> up_site(SimulatedBlock<T>& block, const BlockGradient<T>& gradient) {
  const SimulatedInput<T>& input = block.inputs[down_input];
  BISUP_EXPECTS(!input.rotation);
  SimulatedLinear<T>& up = block.linears[up_linear];
  std::vector<SmoothingUse<T>> uses = {{&up.row_factor, &gradient.linears[up_linear].rows,
                                        detail::channels(up.out(), [](int r) { return r; }), -1}};
  detail::use_columns(block, gradient, down_input, uses,
                      [&](int j) { return detail::arriving_column(input, j); });
  return uses;
}

// Rows and biases of k / s, of q * s; one s for the two dimensions that turn together, shared by
// the query heads of a KV head. No norms of queries and keys; a prompt would have to be divided
// too.
template <class T>
std::vector<SmoothingUse<T>> key_site(SimulatedBlock<T>& block, const BlockGradient<T>& gradient) {
  BISUP_EXPECTS(block.query_norm.weight.empty() && block.key_norm.weight.empty());
  BISUP_EXPECTS(block.cache.prompt() == 0);
  const int d = block.shape.head_dim, group = block.shape.heads / block.shape.kv_heads;
  const auto pair = [d](int head, int r) { return head * (d / 2) + r % d % (d / 2); };
  SimulatedLinear<T>&k = block.linears[k_linear], &q = block.linears[q_linear];
  return {{&k.row_factor, &gradient.linears[k_linear].rows,
           detail::channels(k.out(), [&](int r) { return pair(r / d, r); }), -1},
          {&q.row_factor, &gradient.linears[q_linear].rows,
           detail::channels(q.out(), [&](int r) { return pair(r / d / group, r); }), 1}};
}

// The prepared input itself / s, columns of its readers * s: exact after any rotation, at the price
// of one product an element.
template <class T>
std::vector<SmoothingUse<T>> input_site(SimulatedBlock<T>& block, const BlockGradient<T>& gradient,
                                        InputOf which) {
  std::vector<SmoothingUse<T>> uses = {
      {&block.inputs[which].factor, &gradient.factors[which],
       detail::channels(static_cast<int>(gradient.factors[which].size()), [](int j) { return j; }),
       -1}};
  detail::use_columns(block, gradient, which, uses, [](int j) { return j; });
  return uses;
}

}  // namespace bisup::tune
