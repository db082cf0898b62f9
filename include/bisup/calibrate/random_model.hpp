// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What stands in for a quantized model when only its speed matters? One of the same shape with
// random codes and constant scales: made in seconds, where rounding real weights takes minutes and
// a download.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/core/random.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/model.hpp>

namespace bisup {

namespace detail {

struct RandomWeights {
  std::uint64_t seed;
  ThreadPool& pool;
  std::uint64_t stream = 0;

  // Uniform in +-sqrt(3 / cols): variance 1 / cols, so what passes through stays of its size.
  llama::DenseTensor dense(int rows, int cols) {
    auto values = std::make_shared<std::vector<Half>>(static_cast<std::size_t>(rows) *
                                                      static_cast<std::size_t>(cols));
    const float unit = std::sqrt(3.0f / static_cast<float>(cols)) * 0x1p-31f;
    pool.parallel_for(rows, [&, first = next(rows)](int row, int) {
      Random random(seed, first + static_cast<std::uint64_t>(row));
      Half* out = values->data() + static_cast<std::ptrdiff_t>(row) * cols;
      for (int c = 0; c < cols; ++c) {
        out[c] = to_half(static_cast<float>(static_cast<std::int32_t>(random.bits())) * unit);
      }
    });
    return {{values->data(), DType::f16, rows, cols}, values};
  }

  Result<AnyPackedTensor> packed(int rows, int cols, const Format& format) {
    const PackedShape shape{format, rows, cols};
    auto buffer = PackedBuffer::allocate(shape);
    if (!buffer) return buffer.error();
    pool.parallel_for(shape.row_tiles(), [&, first = next(shape.row_tiles())](int tile, int) {
      Random random(seed, first + static_cast<std::uint64_t>(tile));
      std::uint8_t* out = buffer->codes() + static_cast<std::size_t>(tile) * shape.row_tile_size();
      for (std::size_t i = 0; i < shape.row_tile_size(); i += 8) {  // a row tile is whole 64 bytes
        const std::uint64_t bits = random.bits64();
        std::memcpy(out + i, &bits, 8);
      }
      // Code 0 of symmetric 8 bits is the -128 that no quantizer emits and kernels do not take.
      if (format.bits != 8 || format.affine()) return;
      for (std::size_t i = 0; i < shape.row_tile_size(); ++i) out[i] = out[i] == 0 ? 1 : out[i];
    });
    const float deviation = std::ldexp(1.0f, format.bits) / std::sqrt(12.0f);  // of uniform codes
    const float scale = 1 / (deviation * std::sqrt(static_cast<float>(cols)));
    for (std::size_t i = 0; i < shape.scale_count(); ++i) {
      store_scale(format, buffer->scales(), i, scale);
      if (format.affine()) buffer->zeros()[i] = static_cast<std::uint8_t>(1 << (format.bits - 1));
    }
    return AnyPackedTensor(shape, std::move(buffer).value());
  }

  Result<llama::AnyLinear> linear(int rows, int cols, const Format* format) {
    if (format == nullptr) return llama::AnyLinear(dense(rows, cols));
    auto weights = packed(rows, cols, *format);
    if (!weights) return weights.error();
    return llama::AnyLinear(std::move(weights).value());
  }

 private:
  std::uint64_t next(int streams) {
    return std::exchange(stream, stream + static_cast<std::uint64_t>(streams));
  }
};

}  // namespace detail

// Requires a valid config without biases. Errors: out_of_memory.
inline Result<llama::Model> random_model(const llama::Config& config, const Scheme& scheme,
                                         ThreadPool& pool = ThreadPool::shared(),
                                         std::uint64_t seed = 0) {
  detail::RandomWeights random{seed, pool};
  llama::Model model;
  model.config = config, model.scheme = scheme;
  model.kv = KvPolicy::of(scheme);
  const auto ones = [](int count) {
    return std::vector<float>(static_cast<std::size_t>(count), 1.0f);
  };
  model.embedding = random.dense(config.vocab_size, config.hidden_size);
  model.final_norm = ones(config.hidden_size);
  const Format weight_format = scheme.weight_format();
  const Format* format = scheme.quantizes_weights() ? &weight_format : nullptr;
  const llama::InputForm input = input_form(scheme, format != nullptr);
  const int attention = config.heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  for (int layer = 0; layer < config.layers; ++layer) {
    llama::BlockWeights<llama::AnyLinear> block;
    for (const auto& [linear, rows, cols] :
         {std::tuple{&block.q, attention, config.hidden_size},
          {&block.k, kv, config.hidden_size},
          {&block.v, kv, config.hidden_size},
          {&block.o, config.hidden_size, attention},
          {&block.gate, config.intermediate_size, config.hidden_size},
          {&block.up, config.intermediate_size, config.hidden_size},
          {&block.down, config.hidden_size, config.intermediate_size}}) {
      auto made = random.linear(rows, cols, format);
      if (!made) return made.error();
      *linear = std::move(made).value();
    }
    block.norms.attention = block.norms.mlp = ones(config.hidden_size);
    if (config.qk_norm) block.norms.query = block.norms.key = ones(config.head_dim);
    block.inputs = {input, input, input, input};
    model.blocks.push_back(std::move(block));
  }
  if (scheme.head_bits == 8) {
    auto head = random.linear(config.vocab_size, config.hidden_size, &int8_channel::value);
    if (!head) return head.error();
    model.head = std::move(head).value();
    if (scheme.quantizes_activations()) model.head_input = {int8_token, false};
  } else {
    model.head = llama::AnyLinear(config.tied_embeddings
                                      ? model.embedding
                                      : random.dense(config.vocab_size, config.hidden_size));
  }
  return model;
}

}  // namespace bisup
