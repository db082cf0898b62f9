// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does one transformer block compute? forward() reads in the model's order and is the only
// forward pass there is: float and quantized weights, any cache, prefill and decode. The dense
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
  cache.append(layer, x, x);
  cache.attend(layer, x, y, pool);
};

// Which tokens one forward pass is about: their positions, in order, one sequence.
struct Batch {
  int first_position = 0;
  int tokens = 0;
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

// x: [tokens, hidden], in place: x += attention(norm(x)); x += mlp(norm(x)).
template <Linear W, AttentionCache C, class Observer = None>
void forward(const BlockShape& shape, const BlockWeights<W>& w, const RopeTable& rope, int layer,
             const Batch& batch, C& cache, Scratch& s, ThreadPool& pool, MatrixRef<float> x,
             Observer&& observe = {}) {
  const int tokens = batch.tokens;
  const auto shaped = [tokens](Matrix<float>& m, int cols) {
    return m.resize(tokens, cols), m.ref();
  };
  observe(Site::block_input, x);

  const auto normed = shaped(s.normed, shape.hidden);  // [tokens, hidden]
  rms_norm(x, w.norms.attention, shape.norm_eps, normed, pool);
  observe(Site::attention_input, normed);
  s.input.prepare(normed, w.inputs.attention, pool);

  const auto q = shaped(s.q, shape.heads * shape.head_dim);     // [tokens, heads * head_dim]
  const auto k = shaped(s.k, shape.kv_heads * shape.head_dim);  // [tokens, kv_heads * head_dim]
  const auto v = shaped(s.v, shape.kv_heads * shape.head_dim);
  w.q.apply(s.input, q, pool);
  w.k.apply(s.input, k, pool);
  w.v.apply(s.input, v, pool);
  norm_heads(q, shape.head_dim, w.norms.query, shape.norm_eps, pool);
  norm_heads(k, shape.head_dim, w.norms.key, shape.norm_eps, pool);
  rope.rotate(q, batch.first_position, pool);
  rope.rotate(k, batch.first_position, pool);
  observe(Site::queries, q), observe(Site::keys, k), observe(Site::values, v);

  const auto attended =
      shaped(s.attended, shape.heads * shape.head_dim);  // [tokens, heads * head_dim]
  cache.append(layer, k, v);
  cache.attend(layer, q, attended, pool);
  observe(Site::output_input, attended);
  s.input.prepare(attended, w.inputs.output, pool);
  const auto delta = shaped(s.delta, shape.hidden);  // [tokens, hidden]
  w.o.apply(s.input, delta, pool);
  add(delta, x, pool);

  rms_norm(x, w.norms.mlp, shape.norm_eps, normed, pool);
  observe(Site::mlp_input, normed);
  s.input.prepare(normed, w.inputs.mlp, pool);
  const auto gate = shaped(s.gate, shape.intermediate);  // [tokens, intermediate]
  const auto up = shaped(s.up, shape.intermediate);
  w.gate.apply(s.input, gate, pool);
  w.up.apply(s.input, up, pool);
  swiglu(gate, up, gate, pool);  // silu(gate) * up
  observe(Site::down_input, gate);
  s.input.prepare(gate, w.inputs.down, pool);
  w.down.apply(s.input, delta, pool);
  add(delta, x, pool);
  observe(Site::block_output, x);
}

}  // namespace bisup::llama
