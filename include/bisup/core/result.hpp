// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a function that meets the outer world report failure? Result<T> holds a value or an
// Error; its members are named as in std::expected, which C++20 lacks (docs/decisions/002).

#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include <bisup/core/contract.hpp>

namespace bisup {

enum class Errc {
  cannot_open,      // the file does not exist or may not be read
  cannot_write,     // the file could not be written, synced or renamed
  truncated,        // the file ends before its own header says it does
  malformed,        // the bytes do not follow the format
  unsupported,      // well formed, but a variant this library does not read
  missing,          // a tensor, key or file that is needed is absent
  wrong_shape,      // present, but not of the shape the model needs
  wrong_checksum,   // the payload differs from what its header promises
  unknown_version,  // written by a later schema
  not_finite,       // NaN or infinity where a number is needed
  out_of_range,     // a number outside what the format or the model can hold
  not_definite,     // second moments whose Cholesky factor does not exist
  out_of_memory,    // an allocation was refused
  too_short,        // a text or calibration set shorter than one window
  bad_scheme,       // a scheme string outside the grammar
  cache_full,       // no room for another token in the key-value cache
  interrupted,      // stopped by the user; nothing was left half-written
  unknown_target,   // BISUP_TARGET names no target of this processor
};

[[nodiscard]] constexpr const char* name(Errc code) noexcept {
  switch (code) {
    case Errc::cannot_open: return "cannot open";
    case Errc::cannot_write: return "cannot write";
    case Errc::truncated: return "truncated";
    case Errc::malformed: return "malformed";
    case Errc::unsupported: return "unsupported";
    case Errc::missing: return "missing";
    case Errc::wrong_shape: return "wrong shape";
    case Errc::wrong_checksum: return "wrong checksum";
    case Errc::unknown_version: return "unknown version";
    case Errc::not_finite: return "not finite";
    case Errc::out_of_range: return "out of range";
    case Errc::not_definite: return "not positive definite";
    case Errc::out_of_memory: return "out of memory";
    case Errc::too_short: return "too short";
    case Errc::bad_scheme: return "bad scheme";
    case Errc::cache_full: return "cache full";
    case Errc::interrupted: return "interrupted";
    case Errc::unknown_target: return "unknown target";
  }
  return "unknown error";
}

// A code for programs, a sentence for people. `where` is the file the sentence is about, if any.
struct Error {
  Errc code;
  std::string message;
  std::string where = {};

  // "model.gguf: truncated: tensor 'blk.0.attn_q.weight' ends beyond the file"
  [[nodiscard]] std::string describe() const {
    return (where.empty() ? std::string() : where + ": ") + name(code) + ": " + message;
  }
};

template <class T>
class [[nodiscard]] Result {
 public:
  using value_type = T;

  // NOLINTNEXTLINE(google-explicit-constructor): `return value;` and `return Error{...};` must work
  Result(T value) : value_(std::move(value)) {}
  Result(Error error) : error_(std::move(error)) {}  // NOLINT

  [[nodiscard]] bool has_value() const noexcept { return value_.has_value(); }
  explicit operator bool() const noexcept { return has_value(); }

  [[nodiscard]] T& value() & { return BISUP_EXPECTS(has_value()), *value_; }
  [[nodiscard]] const T& value() const& { return BISUP_EXPECTS(has_value()), *value_; }
  [[nodiscard]] T&& value() && { return BISUP_EXPECTS(has_value()), std::move(*value_); }
  [[nodiscard]] const Error& error() const { return BISUP_EXPECTS(!has_value()), *error_; }

  [[nodiscard]] T& operator*() & { return value(); }
  [[nodiscard]] const T& operator*() const& { return value(); }
  [[nodiscard]] T&& operator*() && { return std::move(*this).value(); }
  [[nodiscard]] T* operator->() { return &value(); }
  [[nodiscard]] const T* operator->() const { return &value(); }

  template <class U>
  [[nodiscard]] T value_or(U&& fallback) && {
    return has_value() ? std::move(*this).value() : static_cast<T>(std::forward<U>(fallback));
  }

 private:
  // One of the two. A variant of them would add a tenth to what including bisup.hpp costs.
  std::optional<T> value_;
  std::optional<Error> error_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;

  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT

  [[nodiscard]] bool has_value() const noexcept { return !error_.has_value(); }
  explicit operator bool() const noexcept { return has_value(); }
  void value() const { BISUP_EXPECTS(has_value()); }
  [[nodiscard]] const Error& error() const { return BISUP_EXPECTS(!has_value()), *error_; }

 private:
  std::optional<Error> error_;
};

}  // namespace bisup
