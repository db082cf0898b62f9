// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is a matrix? Row-major elements with a row stride. MatrixRef looks, Matrix owns (aligned to
// a cache line). Activations are [tokens, features], weights [out features, in features].

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include <bisup/core/contract.hpp>

namespace bisup {

// Whether an operation overwrites what its output holds or adds to it.
enum class Into : std::uint8_t { replace, add };

template <class T>
class MatrixRef {
 public:
  MatrixRef() = default;
  MatrixRef(T* data, int rows, int cols) : MatrixRef(data, rows, cols, cols) {}
  MatrixRef(T* data, int rows, int cols, std::ptrdiff_t stride)
      : data_(data), rows_(rows), cols_(cols), stride_(stride) {
    BISUP_EXPECTS(rows >= 0 && cols >= 0 && stride >= cols);
  }
  // NOLINTNEXTLINE(google-explicit-constructor): a view of const elements is a weaker view
  operator MatrixRef<const T>() const requires(!std::is_const_v<T>) {
    return {data_, rows_, cols_, stride_};
  }

  [[nodiscard]] T* data() const noexcept { return data_; }
  [[nodiscard]] int rows() const noexcept { return rows_; }
  [[nodiscard]] int cols() const noexcept { return cols_; }
  [[nodiscard]] std::ptrdiff_t stride() const noexcept { return stride_; }  // elements, row to row
  [[nodiscard]] bool empty() const noexcept { return rows_ == 0 || cols_ == 0; }

  [[nodiscard]] T* row_data(int r) const noexcept { return data_ + r * stride_; }
  [[nodiscard]] std::span<T> row(int r) const {
    BISUP_EXPECTS(r >= 0 && r < rows_);
    return {row_data(r), static_cast<std::size_t>(cols_)};
  }
  [[nodiscard]] T& operator()(int r, int c) const noexcept { return data_[r * stride_ + c]; }

  [[nodiscard]] MatrixRef rows(int first, int count) const {
    BISUP_EXPECTS(first >= 0 && count >= 0 && first + count <= rows_);
    return {row_data(first), count, cols_, stride_};
  }
  [[nodiscard]] MatrixRef cols(int first, int count) const {
    BISUP_EXPECTS(first >= 0 && count >= 0 && first + count <= cols_);
    return {data_ + first, rows_, count, stride_};
  }

 private:
  T* data_ = nullptr;
  int rows_ = 0, cols_ = 0;
  std::ptrdiff_t stride_ = 0;
};

// A buffer that starts at a cache line; elements are value-initialised. Movable, never copied
// silently.
template <class T>
  requires std::is_trivially_copyable_v<T>
class AlignedBuffer {
 public:
  static constexpr std::size_t alignment = 64;

  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t size) : size_(size) {
    if (size == 0) return;
    data_ = static_cast<T*>(::operator new (bytes_for(size), std::align_val_t{alignment}));
    std::uninitialized_value_construct_n(data_, size);
  }
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_), std::swap(size_, other.size_);
    return *this;
  }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  ~AlignedBuffer() { ::operator delete (data_, std::align_val_t{alignment}); }

  [[nodiscard]] T* data() noexcept { return data_; }
  [[nodiscard]] const T* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] T& operator[](std::size_t i) noexcept { return data_[i]; }
  [[nodiscard]] const T& operator[](std::size_t i) const noexcept { return data_[i]; }

 private:
  // Whole cache lines. What no address space holds is refused here: wrapped around it would be a
  // small allocation, and sanitizers abort on it where operator new would throw.
  static std::size_t bytes_for(std::size_t size) {
    constexpr std::size_t limit = PTRDIFF_MAX;
    if (size > (limit - alignment) / sizeof(T)) refuse();
    return (size * sizeof(T) + alignment - 1) / alignment * alignment;
  }
  [[noreturn]] static void refuse() {
#if BISUP_EXCEPTIONS
    throw std::bad_array_new_length();
#else
    __builtin_trap();
#endif
  }

  T* data_ = nullptr;
  std::size_t size_ = 0;
};

template <class T>
class Matrix {
 public:
  Matrix() = default;
  Matrix(int rows, int cols) : data_(count(rows, cols)), rows_(rows), cols_(cols) {}
  [[nodiscard]] Matrix clone() const {
    Matrix copy(rows_, cols_);
    std::copy_n(data_.data(), count(rows_, cols_), copy.data_.data());
    return copy;
  }
  // Makes room for rows x cols; the contents are unspecified, the memory is reused when it
  // suffices.
  void resize(int rows, int cols) {
    const std::size_t needed = count(rows, cols);
    if (needed > data_.size()) data_ = AlignedBuffer<T>(needed);
    rows_ = rows, cols_ = cols;
  }

  [[nodiscard]] T* data() noexcept { return data_.data(); }
  [[nodiscard]] const T* data() const noexcept { return data_.data(); }
  [[nodiscard]] int rows() const noexcept { return rows_; }
  [[nodiscard]] int cols() const noexcept { return cols_; }
  [[nodiscard]] MatrixRef<T> ref() { return {data_.data(), rows_, cols_}; }
  [[nodiscard]] MatrixRef<const T> ref() const { return {data_.data(), rows_, cols_}; }
  [[nodiscard]] std::span<T> row(int r) { return ref().row(r); }
  [[nodiscard]] std::span<const T> row(int r) const { return ref().row(r); }
  [[nodiscard]] T& operator()(int r, int c) noexcept { return data_[index(r, c)]; }
  [[nodiscard]] const T& operator()(int r, int c) const noexcept { return data_[index(r, c)]; }

 private:
  [[nodiscard]] static std::size_t count(int rows, int cols) {
    BISUP_EXPECTS(rows >= 0 && cols >= 0);
    return static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
  }
  [[nodiscard]] std::size_t index(int r, int c) const noexcept {
    return static_cast<std::size_t>(r) * static_cast<std::size_t>(cols_) +
           static_cast<std::size_t>(c);
  }
  AlignedBuffer<T> data_;
  int rows_ = 0, cols_ = 0;
};

// A copy with rows and columns exchanged.
template <class T>
[[nodiscard]] Matrix<std::remove_const_t<T>> transposed(MatrixRef<T> m) {
  Matrix<std::remove_const_t<T>> columns(m.cols(), m.rows());
  for (int r = 0; r < m.rows(); ++r) {
    for (int c = 0; c < m.cols(); ++c) columns(c, r) = m(r, c);
  }
  return columns;
}

}  // namespace bisup
