// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a file come in? MappedFile shows its bytes without reading them and is shared by all
// that look into it; read_text_file copies a small one. Going out: atomic_file.hpp.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include <bisup/core/result.hpp>

namespace bisup::io {

namespace detail {

[[nodiscard]] inline std::string reason(int error_number) {
  return std::generic_category().message(error_number);
}

// A file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) noexcept : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() { close(); }

  [[nodiscard]] int number() const noexcept { return number_; }
  // False with errno set if the system reports a delayed write error.
  bool close() noexcept { return number_ < 0 || ::close(std::exchange(number_, -1)) == 0; }

 private:
  int number_;
};

// Opens a regular file for reading: a folder or a pipe would open too, and fail later with a
// riddle.
[[nodiscard]] inline Result<std::pair<Descriptor, std::uint64_t>> open_regular(
    const std::filesystem::path& path) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status = {};
  if (file.number() < 0 || ::fstat(file.number(), &status) != 0) {
    return Error{Errc::cannot_open, reason(errno), path.string()};
  }
  if (!S_ISREG(status.st_mode)) {
    return Error{Errc::cannot_open, "is not a regular file", path.string()};
  }
  return std::pair(std::move(file), static_cast<std::uint64_t>(status.st_size));
}

}  // namespace detail

// A file's bytes, mapped read-only for as long as anyone holds the object. Another program that
// shortens the file meanwhile makes its lost pages fault; one that replaces it by a rename does
// not.
class MappedFile {
 public:
  [[nodiscard]] static Result<std::shared_ptr<const MappedFile>> open(
      const std::filesystem::path& path) {
    auto opened = detail::open_regular(path);
    if (!opened) return opened.error();
    const auto& [file, size] = opened.value();
    if (size > std::numeric_limits<std::size_t>::max()) {
      return Error{Errc::out_of_range, "is larger than the address space", path.string()};
    }
    void* data = nullptr;
    if (size > 0) {  // an empty range cannot be mapped
      data =
          ::mmap(nullptr, static_cast<std::size_t>(size), PROT_READ, MAP_PRIVATE, file.number(), 0);
      if (data == MAP_FAILED) return Error{Errc::cannot_open, detail::reason(errno), path.string()};
    }
    return std::shared_ptr<const MappedFile>(
        new MappedFile(path.string(), data, static_cast<std::size_t>(size)));
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
    if (size_ > 0) ::munmap(data_, size_);
  }

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept {
    return {static_cast<const std::byte*>(data_), size_};
  }

 private:
  MappedFile(std::string path, void* data, std::size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}

  std::string path_;
  void* data_;
  std::size_t size_;
};

// The whole file as a string. Refuses one longer than `limit` bytes.
[[nodiscard]] inline Result<std::string> read_text_file(const std::filesystem::path& path,
                                                        std::uint64_t limit = std::uint64_t{1}
                                                                              << 30) {
  auto opened = detail::open_regular(path);
  if (!opened) return opened.error();
  const auto& [file, size] = opened.value();
  if (size > limit) {
    return Error{
        Errc::out_of_range,
        "has " + std::to_string(size) + " bytes; at most " + std::to_string(limit) + " are read",
        path.string()};
  }
  std::string text(static_cast<std::size_t>(size), '\0');
  std::size_t filled = 0;
  while (filled < text.size()) {
    const ssize_t count = ::read(file.number(), text.data() + filled, text.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Error{Errc::cannot_open, detail::reason(errno), path.string()};
    if (count == 0) return Error{Errc::truncated, "ended while it was read", path.string()};
    filled += static_cast<std::size_t>(count);
  }
  return text;
}

}  // namespace bisup::io
