// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Where is the residual stream between two blocks? One matrix a sample, in f32 or bf16, in memory
// or wherever the caller's store puts it. What is read is what was stored, so a calibration that
// was stopped and taken up again sees the same numbers as one that was not.

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/dense.hpp>
#include <bisup/core/float16.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/core/result.hpp>

namespace bisup {

// Gives so many bytes: from the heap, or of a mapped file on a large disk.
using StreamMemory = std::function<Result<std::shared_ptr<std::byte>>(std::size_t)>;

[[nodiscard]] inline Result<std::shared_ptr<std::byte>> heap_memory(std::size_t bytes) {
#if BISUP_EXCEPTIONS
  try {
#endif
    auto buffer = std::make_shared<AlignedBuffer<std::byte>>(bytes);
    std::byte* const data = buffer->data();
    return std::shared_ptr<std::byte>(std::move(buffer), data);
#if BISUP_EXCEPTIONS
  } catch (const std::bad_alloc&) {
    return Error{Errc::out_of_memory,
                 "cannot allocate " + std::to_string(bytes) + " bytes for activations"};
  }
#endif
}

class Stream {
 public:
  // lengths: tokens of each sample. type: f32 or bf16.
  static Result<Stream> allocate(std::vector<int> lengths, int hidden, DType type,
                                 const StreamMemory& memory = heap_memory) {
    BISUP_EXPECTS(hidden > 0 && (type == DType::f32 || type == DType::bf16));
    Stream stream;
    stream.hidden_ = hidden, stream.type_ = type, stream.lengths_ = std::move(lengths);
    stream.first_.push_back(0);
    for (const int length : stream.lengths_) {
      stream.first_.push_back(stream.first_.back() + static_cast<std::size_t>(length));
    }
    auto data = memory(stream.bytes());
    if (!data) return data.error();
    stream.data_ = std::move(data).value();
    return stream;
  }

  [[nodiscard]] int samples() const { return static_cast<int>(lengths_.size()); }
  [[nodiscard]] int length(int sample) const {
    BISUP_EXPECTS(sample >= 0 && sample < samples());
    return lengths_[static_cast<std::size_t>(sample)];
  }
  [[nodiscard]] int hidden() const noexcept { return hidden_; }
  [[nodiscard]] DType type() const noexcept { return type_; }
  [[nodiscard]] std::size_t bytes() const {
    return first_.back() * static_cast<std::size_t>(hidden_) *
           static_cast<std::size_t>(bytes_of(type_));
  }
  // All of it, for whoever keeps it.
  [[nodiscard]] std::byte* data() noexcept { return data_.get(); }
  [[nodiscard]] const std::byte* data() const noexcept { return data_.get(); }

  // [length, hidden]
  void read(int sample, Matrix<float>& x) const {
    x.resize(length(sample), hidden_);
    const std::byte* from = place(sample);
    const std::size_t count = size(sample);
    if (type_ == DType::f32) {
      std::copy_n(reinterpret_cast<const float*>(from), count, x.data());
      return;
    }
    for (std::size_t i = 0; i < count; ++i)
      x.data()[i] = to_float(reinterpret_cast<const BFloat16*>(from)[i]);
  }
  void write(int sample, MatrixRef<const float> x) {
    BISUP_EXPECTS(x.rows() == length(sample) && x.cols() == hidden_ && x.stride() == hidden_);
    std::byte* to = const_cast<std::byte*>(place(sample));
    const std::size_t count = size(sample);
    if (type_ == DType::f32) {
      std::copy_n(x.data(), count, reinterpret_cast<float*>(to));
      return;
    }
    for (std::size_t i = 0; i < count; ++i)
      reinterpret_cast<BFloat16*>(to)[i] = to_bfloat16(x.data()[i]);
  }

 private:
  [[nodiscard]] std::size_t size(int sample) const {
    return static_cast<std::size_t>(length(sample)) * static_cast<std::size_t>(hidden_);
  }
  [[nodiscard]] const std::byte* place(int sample) const {
    return data_.get() + first_[static_cast<std::size_t>(sample)] *
                             static_cast<std::size_t>(hidden_) *
                             static_cast<std::size_t>(bytes_of(type_));
  }

  int hidden_ = 0;
  DType type_ = DType::f32;
  std::vector<int> lengths_;
  std::vector<std::size_t> first_;
  std::shared_ptr<std::byte> data_;
};

// The residual stream of the float model and of the quantized one: the crops, then the held-out
// crops, then, in the float one alone, those that only tuning all blocks together learns from.
struct Streams {
  Stream exact, quantized;
  int crops = 0;
};

}  // namespace bisup
