// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a file go out? AtomicFile writes under a temporary name beside the target; commit()
// syncs and renames, so whoever opens the target finds the old bytes or all of the new ones, never
// a part.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <bisup/core/result.hpp>
#include <bisup/io/file.hpp>

namespace bisup::io {

class AtomicFile {
 public:
  [[nodiscard]] static Result<AtomicFile> create(const std::filesystem::path& target);

  AtomicFile(AtomicFile&& other) noexcept
      : target_(std::move(other.target_)),
        temporary_(std::exchange(other.temporary_, {})),
        file_(std::move(other.file_)),
        end_(other.end_) {}
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile() {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
  }

  // Writes behind what append() wrote before. Unbuffered: the pieces are rows and whole tensors.
  [[nodiscard]] Result<void> append(std::span<const std::byte> bytes) {
    auto written = write_at(end_, bytes);
    if (written) end_ += bytes.size();
    return written;
  }
  [[nodiscard]] Result<void> append(std::string_view text) {
    return append(std::as_bytes(std::span(text.data(), text.size())));
  }
  // Writes at a place of its own; what nobody writes reads as zeros.
  [[nodiscard]] Result<void> write_at(std::uint64_t offset, std::span<const std::byte> bytes);

  // Puts the file in its place. Afterwards the object is empty and must not be written to.
  [[nodiscard]] Result<void> commit();

  [[nodiscard]] const std::filesystem::path& target() const noexcept { return target_; }
  // Where the bytes lie until commit(), for a signal handler that wants to remove them.
  [[nodiscard]] const std::filesystem::path& temporary() const noexcept { return temporary_; }

 private:
  AtomicFile(std::filesystem::path target, std::filesystem::path temporary, int file)
      : target_(std::move(target)), temporary_(std::move(temporary)), file_(file) {}

  [[nodiscard]] Error failure(const char* step, int error_number) const {
    return {Errc::cannot_write, std::string(step) + ": " + detail::reason(error_number),
            target_.string()};
  }

  std::filesystem::path target_, temporary_;
  detail::Descriptor file_;
  std::uint64_t end_ = 0;
};

inline Result<AtomicFile> AtomicFile::create(const std::filesystem::path& target) {
  // "" or "folder/" would be written in full before the rename finds that it is no name.
  if (target.filename().empty())
    return Error{Errc::cannot_write, "is no file name", target.string()};
  std::error_code ignored;
  std::filesystem::path place = target;
  const auto status = std::filesystem::status(target, ignored);
  if (std::filesystem::exists(status)) {
    // A rename would replace a device or a pipe, and a link instead of the file it points to.
    if (!std::filesystem::is_regular_file(status)) {
      return Error{Errc::cannot_write, "exists and is not a regular file", target.string()};
    }
    auto resolved = std::filesystem::canonical(target, ignored);
    if (!ignored) place = std::move(resolved);
  }
  static std::atomic<unsigned> count = 0;
  for (int attempt = 0;; ++attempt) {
    auto temporary = place;
    temporary += "." + std::to_string(::getpid()) + "-" + std::to_string(count++) + ".partial";
    const int file = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file >= 0) return AtomicFile(std::move(place), std::move(temporary), file);
    // A killed process of the same number may have left its file.
    if (errno != EEXIST || attempt == 1000) {
      return Error{Errc::cannot_write, detail::reason(errno), target.string()};
    }
  }
}

inline Result<void> AtomicFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  BISUP_EXPECTS(!temporary_.empty());
  while (!bytes.empty()) {
    // Linux writes at most 2 GiB at once.
    const std::size_t piece = bytes.size() < (1u << 30) ? bytes.size() : (1u << 30);
    const ssize_t count = ::pwrite(file_.number(), bytes.data(), piece, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return failure("writing", errno);
    if (count == 0) return failure("writing", ENOSPC);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return {};
}

inline Result<void> AtomicFile::commit() {
  BISUP_EXPECTS(!temporary_.empty());
  if (::fsync(file_.number()) != 0) return failure("syncing", errno);
  if (!file_.close()) return failure("closing", errno);
  if (std::rename(temporary_.c_str(), target_.c_str()) != 0) return failure("renaming", errno);
  temporary_.clear();
  // The name itself lives in the folder: without this a power cut may bring the old file back.
  // Some file systems cannot sync a folder; the bytes are safe by then either way.
  const auto folder =
      target_.has_parent_path() ? target_.parent_path() : std::filesystem::path(".");
  const detail::Descriptor opened(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (opened.number() >= 0 && ::fsync(opened.number()) != 0 && errno == EIO) {
    return failure("syncing the folder", EIO);
  }
  return {};
}

}  // namespace bisup::io
