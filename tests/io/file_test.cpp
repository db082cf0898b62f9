// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/io/file.hpp>

#include <sys/stat.h>

#include <cstring>

#include <bisup_test.hpp>

#include "scratch_folder.hpp"

namespace {

using namespace bisup;
using namespace bisup::io;

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST_CASE("a mapped file shows the bytes on disk") {
  const ScratchFolder folder;
  const std::string bytes("with\0zeros\n", 11);
  const auto file = MappedFile::open(folder.write("some", bytes));
  REQUIRE(file);
  CHECK(text_of(**file) == bytes);
  CHECK((*file)->path() == (folder.path() / "some").string());
}

TEST_CASE("a mapping survives the removal and the replacement of its file") {
  const ScratchFolder folder;
  const auto path = folder.write("some", "old bytes");
  const auto file = MappedFile::open(path);
  REQUIRE(file);
  std::filesystem::rename(folder.write("other", "new"), path);
  CHECK(text_of(**file) == "old bytes");
  std::filesystem::remove(path);
  CHECK(text_of(**file) == "old bytes");
}

TEST_CASE("an empty file maps to no bytes") {
  const ScratchFolder folder;
  const auto file = MappedFile::open(folder.write("empty", ""));
  REQUIRE(file);
  CHECK((*file)->bytes().empty());
}

TEST_CASE("what is not a readable regular file is refused by name") {
  const ScratchFolder folder;
  const auto pipe = folder.path() / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  for (const auto& path : {folder.path() / "absent", folder.path(), pipe}) {
    const auto mapped = MappedFile::open(path);
    REQUIRE_FALSE(mapped);
    CHECK(mapped.error().code == Errc::cannot_open);
    CHECK(mapped.error().where == path.string());
    CHECK_FALSE(mapped.error().message.empty());
    const auto read = read_text_file(path);
    REQUIRE_FALSE(read);
    CHECK(read.error().code == Errc::cannot_open);
    CHECK(read.error().where == path.string());
  }
}

TEST_CASE("a text file is read whole, and only up to its limit") {
  const ScratchFolder folder;
  const auto path = folder.write("text", "twelve bytes");
  CHECK(read_text_file(path).value() == "twelve bytes");
  CHECK(read_text_file(path, 12).value() == "twelve bytes");
  const auto refused = read_text_file(path, 11);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == Errc::out_of_range);
  CHECK(refused.error().where == path.string());
}

}  // namespace
