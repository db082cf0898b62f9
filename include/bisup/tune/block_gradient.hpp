// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does a simulated block compute, and what is the gradient of that? forward() keeps what
// backward() needs; both read in the model's order. In float the forward pass equals
// llama::forward with simulated inputs up to the order of its sums.

#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/tune/arithmetic.hpp>
#include <bisup/tune/attention_gradient.hpp>
#include <bisup/tune/linear_gradient.hpp>
#include <bisup/tune/rope_angles.hpp>
#include <bisup/tune/simulated_block.hpp>

namespace bisup::tune {

// Everything that may be learned about a block, as gradients; sums over samples.
template <class T>
struct BlockGradient {
  std::array<LinearGradient<T>, tune::linears> linears;
  std::array<T, tune::inputs> clips = {};
  std::array<std::vector<T>, tune::inputs> factors;  // of the logarithms
  std::vector<T> attention_norm, mlp_norm, query_norm, key_norm;
  std::vector<T> attention_norm_factor, mlp_norm_factor;  // of the logarithms
  T key_high = 0, key_low = 0, value_high = 0, value_low = 0;

  // Zeros, in the shapes of `block`.
  void clear(const SimulatedBlock<T>& block) {
    const auto zeros = [](std::vector<T>& v, int count) {
      v.assign(static_cast<std::size_t>(count), T(0));
    };
    const auto like = [](Matrix<T>& m, const Matrix<T>& shape) {
      m.resize(shape.rows(), shape.cols());
      for (int r = 0; r < m.rows(); ++r) std::fill(m.row(r).begin(), m.row(r).end(), T(0));
    };
    for (std::size_t i = 0; i < linears.size(); ++i) {
      const SimulatedLinear<T>& linear = block.linears[i];
      like(linears[i].clip_high, linear.clip_high), like(linears[i].clip_low, linear.clip_low);
      like(linears[i].a, linear.a), like(linears[i].b, linear.b);
      like(linears[i].log_scale, linear.log_scale);
      zeros(linears[i].shift, static_cast<int>(linear.shift.size()));
      zeros(linears[i].rows, linear.out()), zeros(linears[i].columns, linear.in());
      zeros(factors[static_cast<std::size_t>(input_of[i])], linear.in());
    }
    clips = {};
    zeros(attention_norm, block.shape.hidden), zeros(mlp_norm, block.shape.hidden);
    zeros(attention_norm_factor, block.shape.hidden), zeros(mlp_norm_factor, block.shape.hidden);
    zeros(query_norm, static_cast<int>(block.query_norm.weight.size()));
    zeros(key_norm, static_cast<int>(block.key_norm.weight.size()));
    key_high = key_low = value_high = value_low = 0;
  }
};

// What a forward pass leaves for the backward pass; memory is reused from call to call.
template <class T>
struct BlockActivations {
  MatrixRef<const T> x;  // the caller's
  Matrix<T> attention_normed, q_raw, k_raw, q, k, v, keys, values, attended;
  Matrix<T> middle, mlp_normed, gate, up, hidden;
  std::array<PreparedInput<T>, tune::inputs> inputs;
  std::array<Matrix<T>, tune::linears> projected;
  Matrix<T> query_cosines, query_sines;  // times 1 / sqrt(head_dim)
  AttentionScratch<T> attention;
};

namespace detail {

// What queries attend to after a forward pass.
template <class T>
AttendedRows<T> attended_rows(const SimulatedBlock<T>& block, const BlockActivations<T>& a) {
  return {a.keys.ref(), a.values.ref(),     a.k.ref(),
          a.v.ref(),    block.cache.recent, block.attention_products};
}

// Heads as rows, for the norms of queries and keys.
template <class T>
MatrixRef<T> heads_of(MatrixRef<T> x, int head_dim) {
  return {x.data(), x.rows() * (x.cols() / head_dim), head_dim};
}

template <class T>
void scale_angles(const BlockShape& shape, const RopeAngles<T>& angles, BlockActivations<T>& a) {
  const T scale = 1 / std::sqrt(static_cast<T>(shape.head_dim));
  const auto scaled = [scale](MatrixRef<const T> from, Matrix<T>& to) {
    to.resize(from.rows(), from.cols());
    for (int t = 0; t < from.rows(); ++t) {
      for (int i = 0; i < from.cols(); ++i) to(t, i) = scale * from(t, i);
    }
  };
  scaled(angles.cosines, a.query_cosines), scaled(angles.sines, a.query_sines);
}

}  // namespace detail

// y = block(x), x and y: [tokens, hidden], not overlapping; x must outlive the use of `a`. An empty
// y leaves the last product out: all that backward() needs is there.
template <class T>
void forward(const SimulatedBlock<T>& block, const RopeAngles<T>& angles, MatrixRef<const T> x,
             BlockActivations<T>& a, MatrixRef<T> y, ThreadPool& pool) {
  const BlockShape& shape = block.shape;
  const int tokens = x.rows(), d = shape.head_dim;
  const int heads = shape.heads * d, kv = shape.kv_heads * d;
  const T eps = static_cast<T>(shape.norm_eps);
  BISUP_EXPECTS(x.cols() == shape.hidden);
  BISUP_EXPECTS(y.empty() || (y.rows() == tokens && y.cols() == shape.hidden));
  BISUP_EXPECTS(angles.cosines.rows() == tokens && angles.cosines.cols() == d / 2);
  const auto shaped = [tokens](Matrix<T>& m, int cols) { return m.resize(tokens, cols), m.ref(); };
  const auto linear = [&](LinearOf which, MatrixRef<T> into) {
    apply(block.linears[which], a.inputs[input_of[which]], block.branch_reads_rounded,
          a.projected[which], into, pool);
  };
  a.x = x;
  detail::scale_angles(shape, angles, a);

  const auto normed = shaped(a.attention_normed, shape.hidden);  // [tokens, hidden]
  rms_norm<T>(x, block.attention_norm.effective(), eps, normed, pool);
  prepare<T>(block.inputs[attention_input], normed, a.inputs[attention_input], pool);
  const auto q = shaped(a.q, heads), k = shaped(a.k, kv), v = shaped(a.v, kv);
  const auto normed_heads = [&](LinearOf which, const SimulatedNorm<T>& norm, Matrix<T>& raw,
                                MatrixRef<T> out) {
    if (norm.weight.empty()) return linear(which, out);
    linear(which, shaped(raw, out.cols()));
    rms_norm<T>(detail::heads_of(raw.ref(), d), norm.weight, eps, detail::heads_of(out, d), pool);
  };
  normed_heads(q_linear, block.query_norm, a.q_raw, q);
  normed_heads(k_linear, block.key_norm, a.k_raw, k);
  linear(v_linear, v);
  rope<T>(q, a.query_cosines.ref(), a.query_sines.ref(), pool);
  rope<T>(k, angles.cosines, angles.sines, pool);

  const SimulatedCache<T>& cache = block.cache;
  a.keys.resize(cache.prompt() + tokens, kv), a.values.resize(cache.prompt() + tokens, kv);
  fill_cache<T>(key_rounding(cache), cache.prompt_keys, k, d, a.keys.ref(), pool);
  fill_cache<T>(value_rounding(cache), cache.prompt_values, v, d, a.values.ref(), pool);
  const auto attended = shaped(a.attended, heads);  // [tokens, heads * head_dim]
  attend<T>(shape, q, detail::attended_rows(block, a), attended, a.attention, pool);
  prepare<T>(block.inputs[output_input], attended, a.inputs[output_input], pool);
  const auto middle = shaped(a.middle, shape.hidden);
  linear(o_linear, middle);
  add<T>(x, middle, pool);

  const auto mlp_normed = shaped(a.mlp_normed, shape.hidden);
  rms_norm<T>(middle, block.mlp_norm.effective(), eps, mlp_normed, pool);
  prepare<T>(block.inputs[mlp_input], mlp_normed, a.inputs[mlp_input], pool);
  const auto gate = shaped(a.gate, shape.intermediate);  // [tokens, intermediate]
  const auto up = shaped(a.up, shape.intermediate);
  const auto hidden = shaped(a.hidden, shape.intermediate);
  linear(gate_linear, gate), linear(up_linear, up);
  const auto swiglu = row_kernels<T>().swiglu;
  detail::over_rows(tokens, shape.intermediate, pool, [&](int t) {
    swiglu(gate.row_data(t), up.row_data(t), shape.intermediate, hidden.row_data(t));
  });
  prepare<T>(block.inputs[down_input], hidden, a.inputs[down_input], pool);
  linear(down_linear, y);
  if (!y.empty()) add<T>(middle, y, pool);
}

// Scratch of backward(), reused from call to call.
template <class T>
struct BlockScratch {
  LinearScratch<T> linear;
  Matrix<T> dhidden, dnormed, dmiddle, dattended, dq, dk, dv, drecent_k, drecent_v;
  Matrix<T> negative_sines;
  std::vector<T> inverse_roots;
};

// g: the gradient of the block's output becomes, if it is wanted, that of its input; adds to
// `gradient`. `a` must come from forward() with the same block; its gate and up are overwritten.
template <class T>
void backward(const SimulatedBlock<T>& block, const RopeAngles<T>& angles, BlockActivations<T>& a,
              MatrixRef<T> g, const Wanted& wanted, BlockGradient<T>& gradient, BlockScratch<T>& s,
              ThreadPool& pool) {
  const BlockShape& shape = block.shape;
  const int tokens = g.rows(), d = shape.head_dim;
  const T eps = static_cast<T>(shape.norm_eps);
  const auto shaped = [tokens](Matrix<T>& m, int cols) { return m.resize(tokens, cols), m.ref(); };
  const auto reader = [&](LinearOf which, MatrixRef<const T> dy) {
    return Reader<T>{&block.linears[which], &a.projected[which], dy, &gradient.linears[which]};
  };
  const auto through_input = [&](InputOf which, std::span<const Reader<T>> readers,
                                 MatrixRef<T> arriving) {
    std::span<T> dfactor;
    if (wanted.smoothing && !block.inputs[which].factor.empty()) dfactor = gradient.factors[which];
    input_gradient<T>(block.inputs[which], a.inputs[which], readers, block.branch_reads_rounded,
                      wanted, gradient.clips[which], dfactor, s.linear, arriving, pool);
  };
  // Through a norm with its smoothing factor; dy becomes dx.
  const auto through_norm = [&](const SimulatedNorm<T>& norm, MatrixRef<const T> x, MatrixRef<T> dy,
                                std::vector<T>& dweight, std::vector<T>& dfactor) {
    const std::vector<T> effective = norm.effective();
    std::vector<T> deffective;
    if (wanted.norm_gains || wanted.smoothing) deffective.assign(effective.size(), T(0));
    rms_norm_gradient<T>(x, effective, eps, dy, dy, deffective, s.inverse_roots, pool);
    for (std::size_t i = 0; i < deffective.size(); ++i) {
      dweight[i] += deffective[i] * (norm.factor.empty() ? T(1) : norm.factor[i]);
      dfactor[i] += deffective[i] * effective[i];
    }
  };

  const auto dhidden = shaped(s.dhidden, shape.intermediate);  // [tokens, intermediate]
  through_input(down_input, std::array{reader(down_linear, g)}, dhidden);
  const auto swiglu_gradient = gradient_kernels<T>().swiglu_gradient;
  detail::over_rows(tokens, shape.intermediate, pool, [&](int t) {
    T* const gate = a.gate.row(t).data();
    T* const up = a.up.row(t).data();
    swiglu_gradient(gate, up, dhidden.row_data(t), shape.intermediate, gate, up);
  });
  const auto dnormed = shaped(s.dnormed, shape.hidden);  // [tokens, hidden]
  through_input(mlp_input,
                std::array{reader(gate_linear, a.gate.ref()), reader(up_linear, a.up.ref())},
                dnormed);
  through_norm(block.mlp_norm, a.middle.ref(), dnormed, gradient.mlp_norm,
               gradient.mlp_norm_factor);
  add<T>(dnormed, g, pool);  // g: the gradient of `middle`

  const auto dattended = shaped(s.dattended, shape.heads * d);  // [tokens, heads * head_dim]
  through_input(output_input, std::array{reader(o_linear, g)}, dattended);
  const auto dq = shaped(s.dq, shape.heads * d);
  const auto dk = shaped(s.dk, shape.kv_heads * d), dv = shaped(s.dv, shape.kv_heads * d);
  AttendedGradients<T> dattended_rows{dk, dv, {}, {}};
  if (block.cache.recent > 0) {
    dattended_rows.recent_keys = shaped(s.drecent_k, shape.kv_heads * d);
    dattended_rows.recent_values = shaped(s.drecent_v, shape.kv_heads * d);
  }
  attend_gradient<T>(shape, a.q.ref(), detail::attended_rows(block, a), dattended, dq,
                     dattended_rows, a.attention, pool);
  cache_gradient<T>(key_rounding(block.cache), a.k.ref(), d, dk, gradient.key_high,
                    gradient.key_low, pool);
  cache_gradient<T>(value_rounding(block.cache), a.v.ref(), d, dv, gradient.value_high,
                    gradient.value_low, pool);
  if (block.cache.recent > 0) {
    add<T>(dattended_rows.recent_keys, dk, pool), add<T>(dattended_rows.recent_values, dv, pool);
  }

  // RoPE backwards: the same turn by the negative angle.
  const auto turn_back = [&](MatrixRef<T> x, MatrixRef<const T> cosines, MatrixRef<const T> sines) {
    const auto negative = shaped(s.negative_sines, sines.cols());
    for (int t = 0; t < tokens; ++t) {
      for (int i = 0; i < sines.cols(); ++i) negative(t, i) = -sines(t, i);
    }
    rope<T>(x, cosines, negative, pool);
  };
  turn_back(dq, a.query_cosines.ref(), a.query_sines.ref());
  turn_back(dk, angles.cosines, angles.sines);
  const auto through_head_norm = [&](const SimulatedNorm<T>& norm, Matrix<T>& raw, MatrixRef<T> dy,
                                     std::vector<T>& dweight) {
    if (norm.weight.empty()) return;
    rms_norm_gradient<T>(detail::heads_of(raw.ref(), d), norm.weight, eps, detail::heads_of(dy, d),
                         detail::heads_of(dy, d),
                         wanted.norm_gains ? std::span<T>(dweight) : std::span<T>(),
                         s.inverse_roots, pool);
  };
  through_head_norm(block.query_norm, a.q_raw, dq, gradient.query_norm);
  through_head_norm(block.key_norm, a.k_raw, dk, gradient.key_norm);

  const bool inwards = wanted.input || wanted.norm_gains || wanted.smoothing;
  through_input(attention_input,
                std::array{reader(q_linear, dq), reader(k_linear, dk), reader(v_linear, dv)},
                inwards ? dnormed : MatrixRef<T>());
  if (!inwards) return;
  through_norm(block.attention_norm, a.x, dnormed, gradient.attention_norm,
               gradient.attention_norm_factor);
  add<T>(dnormed, g, pool);
}

}  // namespace bisup::tune
