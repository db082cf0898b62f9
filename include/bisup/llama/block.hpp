// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does one transformer block compute? forward() is five steps in the model's order and the
// only forward pass there is: float and quantized weights, any cache, prefill and decode. The dense
// block with an exact cache is the oracle of every other.

#include <span>
#include <utility>
#include <vector>

#include <bisup/core/matrix.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/activation.hpp>
#include <bisup/llama/linear.hpp>
#include <bisup/llama/observer.hpp>
#include <bisup/llama/rope_table.hpp>
#include <bisup/ops/add.hpp>
#include <bisup/ops/rms_norm.hpp>
#include <bisup/ops/rope.hpp>
#include <bisup/ops/swiglu.hpp>
#include <bisup/transform/float_block.hpp>

namespace bisup::llama {

struct Norms {
  std::vector<float> attention, mlp;  // [hidden]
  std::vector<float> query, key;      // [head_dim] each, or empty (Qwen3 has them)
};

// Four inputs feed seven linears; each input is prepared once.
struct InputForms {
  InputForm attention, output, mlp, down;
};

template <Linear W>
struct BlockWeights {
  W q, k, v, o, gate, up, down;
  Norms norms;
  InputForms inputs;
};

// A cache appends keys and values and lets queries attend to all that is visible to them.
template <class C>
concept AttentionCache = requires(C& cache, int layer, MatrixRef<const float> x, MatrixRef<float> y,
                                  ThreadPool& pool) {
  cache.append(layer, x, x, pool);
  cache.attend(layer, x, y, pool);
};

// Tokens of one sequence that follow each other, from a position on.
struct Piece {
  int first_position = 0, tokens = 0;
};
// Which tokens one forward pass is about: those of one sequence, or pieces of several, one after
// the other, of any lengths. The cache knows whose they are (cache/kv_batch.hpp).
struct Batch {
  int first_position = 0;
  int tokens = 0;
  std::span<const Piece> pieces = {};  // none: one piece

  Batch(int first, int count) : first_position(first), tokens(count) {}
  explicit Batch(std::span<const Piece> several) : pieces(several) {
    for (const Piece& piece : several) tokens += piece.tokens;
  }
};

// Everything a block needs while it runs, reused from block to block and call to call.
struct Scratch {
  Matrix<float> normed, q, k, v, attended, gate, up, delta;
  Activation input;
  std::vector<int> positions;
};

// Normalises every head of x by itself (Qwen3's q and k norms).
inline void norm_heads(MatrixRef<float> x, int head_dim, std::span<const float> weight, float eps,
                       ThreadPool& pool) {
  if (weight.empty()) return;
  const MatrixRef<float> heads(x.data(), x.rows() * (x.cols() / head_dim), head_dim);
  rms_norm(heads, weight, eps, heads, pool);
}

namespace detail {

// Turns queries or keys, [tokens, heads * head_dim], each by its position.
inline void rotate(const RopeTable& rope, const Batch& batch, MatrixRef<float> x,
                   ThreadPool& pool) {
  if (batch.pieces.empty()) return rope.rotate(x, batch.first_position, pool);
  int row = 0;
  for (const Piece& piece : batch.pieces) {
    rope.rotate(x.rows(row, piece.tokens), piece.first_position, pool);
    row += piece.tokens;
  }
}

inline MatrixRef<float> shaped(Matrix<float>& m, int tokens, int cols) {
  m.resize(tokens, cols);
  return m.ref();
}

}  // namespace detail

// The five steps of a block, which calibration takes one by one. Each leaves its result, and the
// input that its linears read, in the scratch. x is the residual stream, [tokens, hidden].

// s.q, s.k, s.v: after the per-head norms and RoPE.
template <Linear W, class Observer = None>
void project_attention(const BlockShape& shape, const BlockWeights<W>& w, const RopeTable& rope,
                       const Batch& batch, Scratch& s, ThreadPool& pool, MatrixRef<const float> x,
                       Observer&& observe = {}) {
  const int tokens = batch.tokens, width = shape.kv_heads * shape.head_dim;
  const auto normed = detail::shaped(s.normed, tokens, shape.hidden);  // [tokens, hidden]
  rms_norm(x, w.norms.attention, shape.norm_eps, normed, pool);
  observe(Site::attention_input, normed);
  s.input.prepare(normed, w.inputs.attention, pool);

  const auto q = detail::shaped(s.q, tokens, shape.heads * shape.head_dim);
  const auto k = detail::shaped(s.k, tokens, width);  // [tokens, kv_heads * head_dim]
  const auto v = detail::shaped(s.v, tokens, width);
  w.q.apply(s.input, q, pool);
  w.k.apply(s.input, k, pool);
  w.v.apply(s.input, v, pool);
  norm_heads(q, shape.head_dim, w.norms.query, shape.norm_eps, pool);
  norm_heads(k, shape.head_dim, w.norms.key, shape.norm_eps, pool);
  detail::rotate(rope, batch, q, pool);
  detail::rotate(rope, batch, k, pool);
  observe(Site::queries, q), observe(Site::keys, k), observe(Site::values, v);
}

// s.attended, of s.q, s.k and s.v.
template <AttentionCache C, class Observer = None>
void attend(const BlockShape& shape, int layer, const Batch& batch, C& cache, Scratch& s,
            ThreadPool& pool, Observer&& observe = {}) {
  const auto attended = detail::shaped(s.attended, batch.tokens, shape.heads * shape.head_dim);
  cache.append(layer, s.k.ref(), s.v.ref(), pool);
  cache.attend(layer, s.q.ref(), attended, pool);
  observe(Site::output_input, attended);
}

// x += o(attended).
template <Linear W>
void add_attention(const BlockShape& shape, const BlockWeights<W>& w,
                   MatrixRef<const float> attended, Scratch& s, ThreadPool& pool,
                   MatrixRef<float> x) {
  s.input.prepare(attended, w.inputs.output, pool);
  const auto delta = detail::shaped(s.delta, x.rows(), shape.hidden);  // [tokens, hidden]
  w.o.apply(s.input, delta, pool);
  add(delta, x, pool);
}

// s.gate = silu(gate) * up.
template <Linear W, class Observer = None>
void project_mlp(const BlockShape& shape, const BlockWeights<W>& w, Scratch& s, ThreadPool& pool,
                 MatrixRef<const float> x, Observer&& observe = {}) {
  const auto normed = detail::shaped(s.normed, x.rows(), shape.hidden);
  rms_norm(x, w.norms.mlp, shape.norm_eps, normed, pool);
  observe(Site::mlp_input, normed);
  s.input.prepare(normed, w.inputs.mlp, pool);
  const auto gate = detail::shaped(s.gate, x.rows(), shape.intermediate);  // [tokens, intermediate]
  const auto up = detail::shaped(s.up, x.rows(), shape.intermediate);
  w.gate.apply(s.input, gate, pool);
  w.up.apply(s.input, up, pool);
  swiglu(gate, up, gate, pool);
  observe(Site::down_input, gate);
}

// x += down(s.input), which s.gate has been prepared to.
template <Linear W>
void add_down(const BlockShape& shape, const BlockWeights<W>& w, Scratch& s, ThreadPool& pool,
              MatrixRef<float> x) {
  const auto delta = detail::shaped(s.delta, x.rows(), shape.hidden);
  w.down.apply(s.input, delta, pool);
  add(delta, x, pool);
}

// x += down(s.gate).
template <Linear W>
void add_mlp(const BlockShape& shape, const BlockWeights<W>& w, Scratch& s, ThreadPool& pool,
             MatrixRef<float> x) {
  s.input.prepare(s.gate.ref(), w.inputs.down, pool);
  add_down(shape, w, s, pool, x);
}

// x: [tokens, hidden], in place: x += attention(norm(x)); x += mlp(norm(x)).
template <Linear W, AttentionCache C, class Observer = None>
void forward(const BlockShape& shape, const BlockWeights<W>& w, const RopeTable& rope, int layer,
             const Batch& batch, C& cache, Scratch& s, ThreadPool& pool, MatrixRef<float> x,
             Observer&& observe = {}) {
  observe(Site::block_input, x);
  project_attention(shape, w, rope, batch, s, pool, x, observe);
  attend(shape, layer, batch, cache, s, pool, observe);
  add_attention(shape, w, s.attended.ref(), s, pool, x);
  project_mlp(shape, w, s, pool, x, observe);
  add_mlp(shape, w, s, pool, x);
  observe(Site::block_output, x);
}

}  // namespace bisup::llama
