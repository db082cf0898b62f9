// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/io/atomic_file.hpp>

#include <csignal>
#include <string>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bisup_test.hpp>

#include "scratch_folder.hpp"

namespace {

using namespace bisup;
using namespace bisup::io;

TEST_CASE("a committed file holds what was written and leaves nothing beside it") {
  const ScratchFolder folder;
  folder.write("target", "old");
  auto file = AtomicFile::create(folder.path() / "target");
  REQUIRE(file);
  REQUIRE(file->append("one "));
  REQUIRE(file->append("two "));
  REQUIRE(file->write_at(10, std::as_bytes(std::span("end", 3))));
  CHECK(folder.read("target") == "old");
  CHECK(folder.files() == 2);
  REQUIRE(file->commit());
  CHECK(folder.read("target") == std::string("one two \0\0end", 13));
  CHECK(folder.files() == 1);
}

TEST_CASE("without commit the old file stays and the temporary goes") {
  const ScratchFolder folder;
  folder.write("target", "old");
  {
    auto file = AtomicFile::create(folder.path() / "target");
    REQUIRE(file);
    REQUIRE(file->append("half of the new"));
    const AtomicFile moved = std::move(file).value();
    CHECK(folder.files() == 2);
  }
  CHECK(folder.read("target") == "old");
  CHECK(folder.files() == 1);
}

TEST_CASE("a process killed while it writes leaves the old file") {
  const ScratchFolder folder;
  folder.write("target", "old");
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    auto file = AtomicFile::create(folder.path() / "target");
    if (file && file->append(std::string(1 << 20, 'x'))) ::raise(SIGKILL);
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFSIGNALED(status));
  CHECK(folder.read("target") == "old");
  // What the dead process left is in nobody's way.
  auto file = AtomicFile::create(folder.path() / "target");
  REQUIRE((file && file->append("new") && file->commit()));
  CHECK(folder.read("target") == "new");
}

TEST_CASE("a write that the system refuses names the file and the reason") {
  const ScratchFolder folder;
  const auto target = folder.path() / "target";
  auto file = AtomicFile::create(target);
  REQUIRE(file);
  // The size limit stands in for a full disk: both fail in the middle of a write.
  rlimit saved = {};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &saved) == 0);
  const rlimit small = {.rlim_cur = 1000, .rlim_max = saved.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const auto written = file->append(std::string(5000, 'x'));
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &saved) == 0);
  std::signal(SIGXFSZ, handler);
  REQUIRE_FALSE(written);
  CHECK(written.error().code == Errc::cannot_write);
  CHECK(written.error().where == target.string());
  CHECK_FALSE(std::filesystem::exists(target));
}

TEST_CASE("a target that cannot be replaced is refused before anything is written") {
  const ScratchFolder folder;
  const auto absent = folder.path() / "no such folder" / "file";
  for (const auto& target : {folder.path(), absent, std::filesystem::path("/dev/null"),
                             std::filesystem::path(), folder.path() / "folder/"}) {
    const auto file = AtomicFile::create(target);
    REQUIRE_FALSE(file);
    CHECK(file.error().code == Errc::cannot_write);
    CHECK(file.error().where == target.string());
  }
}

TEST_CASE("a link stays a link and the file behind it is replaced") {
  const ScratchFolder folder;
  folder.write("real", "old");
  std::filesystem::create_symlink("real", folder.path() / "link");
  auto file = AtomicFile::create(folder.path() / "link");
  REQUIRE((file && file->append("new") && file->commit()));
  CHECK(folder.read("real") == "new");
  CHECK(std::filesystem::is_symlink(folder.path() / "link"));
}

TEST_CASE("a name without a folder means the current one") {
  const ScratchFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  auto file = AtomicFile::create("plain");
  const bool written = file && file->append("here") && file->commit();
  std::filesystem::current_path(before);
  REQUIRE(written);
  CHECK(folder.read("plain") == "here");
}

}  // namespace
