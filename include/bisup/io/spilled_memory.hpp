// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Where do activations go that are larger than memory? Into a mapped file without a name: the
// system keeps in memory what it can, and takes the file back however the process ends.

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include <bisup/calibrate/stream.hpp>
#include <bisup/core/contract.hpp>
#include <bisup/core/result.hpp>
#include <bisup/io/file.hpp>

namespace bisup::io {

namespace detail {

// All of it now: a disk that is full later would end the process at some write to the mapping.
[[nodiscard]] inline int reserve(int file, std::size_t bytes) {
#ifdef __linux__
  return ::posix_fallocate(file, 0, static_cast<off_t>(bytes));
#else
  return ::ftruncate(file, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
#endif
}

}  // namespace detail

// Memory for streams on the disk that holds `folder`. Errors of what it returns: cannot_write.
[[nodiscard]] inline StreamMemory spilled_memory(std::filesystem::path folder) {
  return [folder = std::move(folder)](std::size_t bytes) -> Result<std::shared_ptr<std::byte>> {
    BISUP_EXPECTS(bytes > 0);
    const auto failure = [&](const char* step, int number) {
      return Error{Errc::cannot_write, std::string(step) + ": " + detail::reason(number),
                   folder.string()};
    };
    std::string name = (folder / "activations-XXXXXX.partial").string();
    const detail::Descriptor file(::mkostemps(name.data(), 8, O_CLOEXEC));
    if (file.number() < 0) return failure("creating a file for activations", errno);
    ::unlink(name.c_str());
    if (const int number = detail::reserve(file.number(), bytes); number != 0)
      return failure("making room for activations", number);
    void* const data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.number(), 0);
    if (data == MAP_FAILED) return failure("mapping activations", errno);
    return std::shared_ptr<std::byte>(static_cast<std::byte*>(data),
                                      [bytes](std::byte* mapped) { ::munmap(mapped, bytes); });
  };
}

}  // namespace bisup::io
