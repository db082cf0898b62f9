// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is a deep JSON document read without a check on every line? JsonReader remembers the first
// thing that was wrong and gives harmless values from then on; the caller asks once at the end.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <bisup/core/result.hpp>
#include <bisup/io/json.hpp>

namespace bisup::text {

using io::Json;

class JsonReader {
 public:
  explicit JsonReader(std::string where) : where_(std::move(where)) {}

  void fail(Errc code, std::string message) {
    if (!error_) error_ = Error{code, std::move(message), where_};
  }
  void fail(const Error& error) { fail(error.code, error.message); }
  [[nodiscard]] bool failed() const noexcept { return error_.has_value(); }
  [[nodiscard]] const Error& error() const { return BISUP_EXPECTS(failed()), *error_; }

  // The member, or null if it is absent or null itself.
  [[nodiscard]] static const Json* find(const Json& object, const char* key) {
    if (!object.is_object()) return nullptr;
    const auto at = object.find(key);
    return at == object.end() || at->is_null() ? nullptr : &*at;
  }

  // Members with a type. `what` is the object in errors. Without a fallback they must be there.
  [[nodiscard]] std::string string(const Json& object, const char* key, std::string_view what,
                                   std::optional<std::string> fallback = std::nullopt) {
    const Json* member = find(object, key);
    if (member != nullptr && member->is_string()) return member->get_ref<const std::string&>();
    if (member != nullptr || !fallback) wrong(member, key, what, "a string");
    return std::move(fallback).value_or("");
  }
  [[nodiscard]] bool boolean(const Json& object, const char* key, std::string_view what,
                             bool fallback) {
    const Json* member = find(object, key);
    if (member != nullptr && member->is_boolean()) return member->get<bool>();
    if (member != nullptr) wrong(member, key, what, "true or false");
    return fallback;
  }
  // A number of 0 to `largest`.
  [[nodiscard]] int count(const Json& object, const char* key, std::string_view what, int largest,
                          std::optional<int> fallback = std::nullopt) {
    const Json* member = find(object, key);
    if (member == nullptr && fallback) return *fallback;
    return count(member, std::string(key) + "' of " + std::string(what), largest);
  }
  [[nodiscard]] int count(const Json* value, const std::string& what, int largest) {
    if (value == nullptr || !value->is_number_unsigned()) {
      fail(Errc::malformed, "'" + what + " is not a whole number");
      return 0;
    }
    const auto number = value->get<std::uint64_t>();
    if (number > static_cast<std::uint64_t>(largest)) {
      fail(Errc::out_of_range,
           "'" + what + " is " + std::to_string(number) + ", above " + std::to_string(largest));
      return 0;
    }
    return static_cast<int>(number);
  }
  [[nodiscard]] const Json& array(const Json& object, const char* key, std::string_view what) {
    return container(object, key, what, Json::value_t::array, "a list");
  }
  [[nodiscard]] const Json& object(const Json& parent, const char* key, std::string_view what) {
    return container(parent, key, what, Json::value_t::object, "an object");
  }

 private:
  void wrong(const Json* member, const char* key, std::string_view what, const char* type) {
    fail(member == nullptr ? Errc::missing : Errc::malformed,
         "'" + std::string(key) + "' of " + std::string(what) +
             (member == nullptr ? " is missing" : std::string(" is not ") + type));
  }
  const Json& container(const Json& object, const char* key, std::string_view what,
                        Json::value_t type, const char* name) {
    static const Json empty_array = Json::array(), empty_object = Json::object();
    const Json* member = find(object, key);
    if (member != nullptr && member->type() == type) return *member;
    wrong(member, key, what, name);
    return type == Json::value_t::array ? empty_array : empty_object;
  }

  std::string where_;
  std::optional<Error> error_;
};

}  // namespace bisup::text
