// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How are typed values taken out of a JSON object? JsonFields checks types and ranges and remembers
// the first thing that is wrong, so that reading a dozen keys needs no dozen branches.

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <bisup/core/result.hpp>
#include <bisup/io/json.hpp>

namespace bisup::io {

// Null counts as absent, as in Python. The object must outlive this view of it.
class JsonFields {
 public:
  JsonFields(const Json& object, std::string where) : object_(&object), where_(std::move(where)) {}

  [[nodiscard]] const Json* find(const char* key) const {
    const auto found = object_->find(key);
    return found == object_->end() || found->is_null() ? nullptr : &*found;
  }
  // A required one if there is no `fallback`.
  int integer(const char* key, std::optional<int> fallback = {}) {
    const Json* value = present(key, fallback.has_value());
    if (value == nullptr) return fallback.value_or(0);
    return integer_in(*value, key);
  }
  double number(const char* key, std::optional<double> fallback = {}) {
    const Json* value = present(key, fallback.has_value());
    if (value == nullptr) return fallback.value_or(0);
    if (!value->is_number()) return wrong(key, "is not a number"), 0;
    return value->get<double>();
  }
  bool boolean(const char* key, bool fallback) {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) return wrong(key, "is neither true nor false"), fallback;
    return value->get<bool>();
  }
  std::string text(const char* key, const char* fallback) {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_string()) return wrong(key, "is not a string"), fallback;
    return value->get<std::string>();
  }
  // One integer or a list of them.
  std::vector<int> integers(const char* key) {
    std::vector<int> values;
    const Json* value = find(key);
    if (value == nullptr) return values;
    if (!value->is_array()) return {integer_in(*value, key)};
    for (const Json& element : *value) values.push_back(integer_in(element, key));
    return values;
  }

  [[nodiscard]] bool is_null(const char* key) const {
    const auto found = object_->find(key);
    return found != object_->end() && found->is_null();
  }

  void fail(Errc code, std::string message) {
    if (!error_) error_ = Error{code, std::move(message), where_};
  }
  void wrong(const char* key, const std::string& what) {
    fail(Errc::malformed, in_quotes(key) + " " + what);
  }
  [[nodiscard]] const std::optional<Error>& error() const { return error_; }
  // What is inside `object`, reported as of the same file.
  [[nodiscard]] JsonFields inside(const Json& object) const { return {object, where_}; }

 private:
  const Json* present(const char* key, bool optional) {
    const Json* value = find(key);
    if (value == nullptr && !optional) fail(Errc::missing, "has no " + in_quotes(key));
    return value;
  }
  int integer_in(const Json& value, const char* key) {
    if (!value.is_number_integer()) return wrong(key, "is not an integer"), 0;
    constexpr auto most = std::numeric_limits<int>::max();
    // Two readings, because a number above 2^63 turns negative in the signed one.
    if (value.is_number_unsigned() ? value.get<std::uint64_t>() > most
                                   : value.get<std::int64_t>() < -most) {
      return wrong(key, "is out of range"), 0;
    }
    return value.get<int>();
  }

  const Json* object_;
  std::string where_;
  std::optional<Error> error_;
};

}  // namespace bisup::io
