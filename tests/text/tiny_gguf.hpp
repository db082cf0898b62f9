// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// A GGUF file of metadata only, in memory, for tests.

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace tiny {

class GgufFile {
 public:
  void string(const std::string& key, const std::string& value) {
    values_[key] = {word(8) + text(value), 1};
  }
  void boolean(const std::string& key, bool value) {
    values_[key] = {word(7) + std::string(1, value ? '\1' : '\0'), 1};
  }
  void strings(const std::string& key, const std::vector<std::string>& list) {
    std::string bytes = word(9) + word(8) + length(list.size());
    for (const auto& one : list) bytes += text(one);
    values_[key] = {bytes, list.size()};
  }
  void integers(const std::string& key, const std::vector<std::int32_t>& list) {
    numbers_of(key, 5, list);
  }
  void numbers(const std::string& key, const std::vector<float>& list) { numbers_of(key, 6, list); }
  void remove(const std::string& key) { values_.erase(key); }
  std::size_t size(const std::string& key) const { return values_.at(key).second; }

  std::string bytes() const {
    std::string out = "GGUF" + word(3) + length(0) + length(values_.size());
    for (const auto& [key, value] : values_) out += text(key) + value.first;
    return out + std::string(64, '\0');
  }

 private:
  static std::string word(std::uint32_t value) {
    return {reinterpret_cast<const char*>(&value), 4};
  }
  static std::string length(std::uint64_t value) {
    return {reinterpret_cast<const char*>(&value), 8};
  }
  static std::string text(const std::string& value) { return length(value.size()) + value; }
  template <class T>
  void numbers_of(const std::string& key, std::uint32_t type, const std::vector<T>& list) {
    std::string bytes = word(9) + word(type) + length(list.size());
    bytes.append(reinterpret_cast<const char*>(list.data()), list.size() * sizeof(T));
    values_[key] = {bytes, list.size()};
  }

  std::map<std::string, std::pair<std::string, std::size_t>> values_;
};

}  // namespace tiny
