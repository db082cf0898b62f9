// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do sequences share memory? KvPages is a slab of pages of one size, counted by how many
// sequences hold each: a fork holds what its origin holds, and whoever writes to a page that others
// hold too writes to a copy. Not for several threads at once.

#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

#include <bisup/core/contract.hpp>
#include <bisup/core/matrix.hpp>

namespace bisup {

class KvPages {
 public:
  KvPages() = default;
  // bytes: of a page, whole cache lines. Throws std::bad_alloc.
  KvPages(int count, std::size_t bytes)
      : bytes_(bytes),
        memory_(static_cast<std::size_t>(count) * bytes),
        holders_(static_cast<std::size_t>(count)) {
    BISUP_EXPECTS(bytes % AlignedBuffer<std::byte>::alignment == 0);
    // The first page comes first.
    for (int i = count - 1; i >= 0; --i) free_.push_back(i);
  }

  // A page with one holder; its contents are what was there. Precondition: available() > 0.
  [[nodiscard]] std::byte* take() {
    BISUP_EXPECTS(!free_.empty());
    const int page = free_.back();
    free_.pop_back();
    holders_[static_cast<std::size_t>(page)] = 1;
    return memory_.data() + static_cast<std::size_t>(page) * bytes_;
  }
  void hold(const std::byte* page) { ++holders(page); }
  void drop(const std::byte* page) {
    if (--holders(page) == 0) free_.push_back(static_cast<int>(index(page)));
  }
  [[nodiscard]] bool shared(const std::byte* page) const { return holders_[index(page)] > 1; }

  // Makes `page` (null: none yet) one that only its holder sees, and may write.
  void own(std::byte*& page) {
    if (page == nullptr) {
      page = take();
    } else if (shared(page)) {
      std::byte* copy = take();
      std::memcpy(copy, page, bytes_);
      drop(std::exchange(page, copy));
    }
  }
  // Lets go of a page, if there is one.
  void release(std::byte*& page) {
    if (page != nullptr) drop(std::exchange(page, nullptr));
  }

  [[nodiscard]] int available() const noexcept { return static_cast<int>(free_.size()); }
  [[nodiscard]] int in_use() const noexcept {
    return static_cast<int>(holders_.size() - free_.size());
  }
  [[nodiscard]] std::size_t page_bytes() const noexcept { return bytes_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return memory_.size(); }

 private:
  [[nodiscard]] std::size_t index(const std::byte* page) const {
    return static_cast<std::size_t>(page - memory_.data()) / bytes_;
  }
  [[nodiscard]] int& holders(const std::byte* page) {
    int& count = holders_[index(page)];
    BISUP_EXPECTS(count > 0);
    return count;
  }

  std::size_t bytes_ = 0;
  AlignedBuffer<std::byte> memory_;
  std::vector<int> holders_;  // by page
  std::vector<int> free_;
};

}  // namespace bisup
