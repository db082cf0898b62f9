// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is JSON from a stranger read? parse_json is nlohmann's parser with what it leaves open
// closed: duplicate keys and deep nesting are errors, and so is everything else, as a Result.

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <bisup/core/result.hpp>

namespace bisup::io {

using Json = nlohmann::json;

// Text from a file as it may stand in an error: short, printable.
[[nodiscard]] inline std::string in_quotes(std::string_view text) {
  std::string out = "'";
  for (const char c : text.substr(0, 100)) out += c >= ' ' && c <= '~' ? c : '?';
  return out + (text.size() > 100 ? "...'" : "'");
}

namespace detail {

// Receives the parser's events and builds the value.
class JsonBuilder {
 public:
  using number_integer_t = Json::number_integer_t;
  using number_unsigned_t = Json::number_unsigned_t;
  using number_float_t = Json::number_float_t;
  using string_t = Json::string_t;
  using binary_t = Json::binary_t;

  static constexpr std::size_t deepest = 64;

  bool null() { return place(nullptr) != nullptr; }
  bool boolean(bool value) { return place(value) != nullptr; }
  bool number_integer(number_integer_t value) { return place(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) { return place(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) { return place(value) != nullptr; }
  bool string(string_t& value) { return place(std::move(value)) != nullptr; }
  bool binary(binary_t&) { return false; }
  bool start_object(std::size_t) { return open(Json::object()); }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool end_object() { return stack_.pop_back(), true; }
  bool end_array() { return stack_.pop_back(), true; }
  bool key(string_t& key) {
    auto [slot, fresh] = stack_.back()->get_ref<Json::object_t&>().try_emplace(key);
    if (!fresh) return reason_ = "has the key " + in_quotes(key) + " twice", false;
    slot_ = &slot->second;
    return true;
  }
  template <class Failure>
  bool parse_error(std::size_t position, const std::string&, const Failure&) {
    // The parser's own sentence quotes the input at any length.
    return reason_ = "is not JSON (at byte " + std::to_string(position) + ")", false;
  }

  [[nodiscard]] Json& value() { return root_; }
  [[nodiscard]] const std::string& reason() const { return reason_; }

 private:
  template <class T>
  Json* place(T&& value) {
    Json* where = &root_;
    if (!stack_.empty()) {
      where = stack_.back()->is_array() ? &stack_.back()->emplace_back() : slot_;
    }
    *where = std::forward<T>(value);
    return where;
  }
  bool open(Json container) {
    if (stack_.size() == deepest) return reason_ = "is nested too deeply", false;
    stack_.push_back(place(std::move(container)));
    return true;
  }

  Json root_;
  std::vector<Json*>
      stack_;             // the open containers; each lies in the last element of the one before
  Json* slot_ = nullptr;  // where the value of the last key goes
  std::string reason_;
};

}  // namespace detail

// `where` names the file in errors; `what` is the part of it that the text is ("header", "config").
[[nodiscard]] inline Result<Json> parse_json(std::string_view text, const std::string& where,
                                             std::string_view what = "the text") {
  detail::JsonBuilder builder;
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
    return Error{Errc::malformed, std::string(what) + " " + builder.reason(), where};
  }
  return std::move(builder.value());
}

}  // namespace bisup::io
