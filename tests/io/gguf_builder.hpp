// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do tests make GGUF files, right and wrong ones? Numbers are appended as the format stores them.

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

class GgufBuilder {
 public:
  std::uint32_t version = 3;
  std::uint64_t extra_values = 0, extra_tensors = 0;  // announced and not there
  std::uint64_t alignment = 32;

  template <class T>
  static std::string raw(T value) {
    std::string bytes(sizeof value, '\0');
    std::memcpy(bytes.data(), &value, sizeof value);
    return bytes;
  }
  static std::string string(std::string_view text) {
    return raw<std::uint64_t>(text.size()) + std::string(text);
  }
  static std::string dims(const std::vector<std::uint64_t>& extents) {
    std::string bytes = raw(static_cast<std::uint32_t>(extents.size()));
    for (const std::uint64_t extent : extents) bytes += raw(extent);
    return bytes;
  }

  GgufBuilder& value(std::string_view key, std::uint32_t type, std::string_view bytes) {
    ++values_;
    metadata_ += string(key) + raw(type) + std::string(bytes);
    return *this;
  }
  GgufBuilder& u32(std::string_view key, std::uint32_t number) { return value(key, 4, raw(number)); }
  GgufBuilder& f32(std::string_view key, float number) { return value(key, 6, raw(number)); }
  GgufBuilder& text(std::string_view key, std::string_view value_) {
    return value(key, 8, string(value_));
  }
  GgufBuilder& array(std::string_view key, std::uint32_t type, std::uint64_t count,
                     std::string_view bytes) {
    return value(key, 9, raw(type) + raw(count) + std::string(bytes));
  }
  // An entry as it is, without data.
  GgufBuilder& entry(std::string_view name, std::string_view dimensions, std::uint32_t type,
                     std::uint64_t offset) {
    ++tensors_;
    entries_ += string(name) + std::string(dimensions) + raw(type) + raw(offset);
    return *this;
  }
  // Extents fastest first, as the file has them.
  GgufBuilder& tensor(std::string_view name, const std::vector<std::uint64_t>& extents,
                      std::uint32_t type, std::string_view data) {
    data_.resize((data_.size() + alignment - 1) / alignment * alignment);
    entry(name, dims(extents), type, data_.size());
    data_ += data;
    return *this;
  }
  GgufBuilder& data(std::size_t bytes) { return data_.resize(data_.size() + bytes), *this; }

  [[nodiscard]] std::string bytes() const {
    std::string file = "GGUF" + raw(version) + raw(tensors_ + extra_tensors) +
                       raw(values_ + extra_values) + metadata_ + entries_;
    if (!data_.empty()) file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + data_;
  }

 private:
  std::uint64_t values_ = 0, tensors_ = 0;
  std::string metadata_, entries_, data_;
};
