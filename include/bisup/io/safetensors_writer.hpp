// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is a .safetensors file written? SafetensorsWriter is told all names and shapes first, then
// takes the bytes of any tensor in any order and in pieces, so no model need lie in memory.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/result.hpp>
#include <bisup/io/atomic_file.hpp>
#include <bisup/io/json.hpp>
#include <bisup/io/tensor.hpp>

namespace bisup::io {

class SafetensorsWriter {
 public:
  static constexpr std::size_t alignment = 64;

  // Names, types and shapes are taken from `tensors`, their bytes are not looked at. Requires
  // distinct names and shapes that fit in 63 bits. A tensor begins at a multiple of 64 bytes if all
  // sizes are multiples of 64, and at a multiple of its own size's power of two in any case.
  [[nodiscard]] static Result<SafetensorsWriter> create(
      const std::filesystem::path& path, std::span<const Tensor> tensors,
      const std::map<std::string, std::string>& metadata = {});

  // Appends to what this tensor has so far. Requires a name given to create(), and room.
  [[nodiscard]] Result<void> write(std::string_view name, std::span<const std::byte> bytes);

  // Puts the file in its place. Requires that every tensor has all its bytes.
  [[nodiscard]] Result<void> commit();

 private:
  struct Place {
    std::uint64_t next, end;
  };

  explicit SafetensorsWriter(AtomicFile file) : file_(std::move(file)) {}

  AtomicFile file_;
  std::map<std::string, Place, std::less<>> places_;
};

// Writes tensors that are in memory.
[[nodiscard]] inline Result<void> write_safetensors(
    const std::filesystem::path& path, std::span<const Tensor> tensors,
    const std::map<std::string, std::string>& metadata = {}) {
  auto writer = SafetensorsWriter::create(path, tensors, metadata);
  if (!writer) return writer.error();
  for (const Tensor& tensor : tensors) {
    if (auto written = writer->write(tensor.name, tensor.bytes); !written) return written;
  }
  return writer->commit();
}

inline Result<SafetensorsWriter> SafetensorsWriter::create(
    const std::filesystem::path& path, std::span<const Tensor> tensors,
    const std::map<std::string, std::string>& metadata) {
  // Holes are not allowed, so the order has to keep tensors aligned: first whole cache lines, then
  // sizes that are multiples of 32, 16, ...: each starts at a multiple of what its own size
  // divides.
  struct Entry {
    const Tensor* tensor;
    std::uint64_t bytes;
    int alignment_bits;
  };
  std::vector<Entry> order;
  for (const Tensor& tensor : tensors) {
    const auto bytes = byte_count(tensor.shape, bytes_of(tensor.type));
    BISUP_EXPECTS(bytes.has_value());
    order.push_back({&tensor, *bytes, std::min(std::countr_zero(*bytes), 6)});
  }
  std::stable_sort(order.begin(), order.end(), [](const Entry& a, const Entry& b) {
    return a.alignment_bits > b.alignment_bits;
  });

  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::map<std::string, Place, std::less<>> places;
  std::uint64_t end = 0;
  for (const auto& [tensor, bytes, ignored] : order) {
    const bool fresh = places.try_emplace(tensor->name, Place{end, end + bytes}).second;
    BISUP_EXPECTS(fresh && tensor->name != "__metadata__");
    header[tensor->name] = {{"dtype", name(tensor->type)},
                            {"shape", tensor->shape},
                            {"data_offsets", {end, end + bytes}}};
    end += bytes;
  }
  // Names and metadata that are not UTF-8 would make a file that nobody reads.
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  const std::size_t before = sizeof(std::uint64_t) + text.size();
  text.append((alignment - before % alignment) % alignment, ' ');

  auto file = AtomicFile::create(path);
  if (!file) return file.error();
  SafetensorsWriter writer(std::move(file).value());
  const std::uint64_t header_bytes = text.size();
  const std::uint64_t payload = sizeof header_bytes + header_bytes;
  for (auto& [ignored, place] : places) place.next += payload, place.end += payload;
  writer.places_ = std::move(places);
  if (auto ok = writer.file_.append(std::as_bytes(std::span(&header_bytes, 1))); !ok) {
    return ok.error();
  }
  if (auto ok = writer.file_.append(text); !ok) return ok.error();
  return writer;
}

inline Result<void> SafetensorsWriter::write(std::string_view name,
                                             std::span<const std::byte> bytes) {
  const auto found = places_.find(name);
  BISUP_EXPECTS(found != places_.end());
  auto& [next, end] = found->second;
  BISUP_EXPECTS(bytes.size() <= end - next);
  auto written = file_.write_at(next, bytes);
  if (written) next += bytes.size();
  return written;
}

inline Result<void> SafetensorsWriter::commit() {
  for (const auto& [ignored, place] : places_) BISUP_EXPECTS(place.next == place.end);
  return file_.commit();
}

}  // namespace bisup::io
