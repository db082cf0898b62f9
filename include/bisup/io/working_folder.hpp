// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Whose is the folder in which a long run keeps its parts? WorkingFolder holds a plan, plan.json:
// all that the parts depend on. It lets in one process at a time, and only a run of the same plan
// that says it wants to go on.

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <bisup/core/checksum.hpp>
#include <bisup/core/result.hpp>
#include <bisup/io/atomic_file.hpp>
#include <bisup/io/file.hpp>
#include <bisup/io/json.hpp>

namespace bisup::io {

// The first thing in which two plans differ, "recipe.damping is 0.01 there and 0.02 here"; empty if
// they are equal.
[[nodiscard]] inline std::string first_difference(const Json& there, const Json& here,
                                                  const std::string& name = {}) {
  if (there == here) return {};
  if (there.is_object() && here.is_object()) {
    std::set<std::string> keys;
    for (const auto* side : {&there, &here}) {
      for (const auto& entry : side->items()) keys.insert(entry.key());
    }
    for (const std::string& key : keys) {
      const std::string inner = first_difference(there.value(key, Json()), here.value(key, Json()),
                                                 name.empty() ? key : name + "." + key);
      if (!inner.empty()) return inner;
    }
  }
  const auto spelled = [](const Json& value) {
    const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
    return text.size() > 60 ? text.substr(0, 57) + "..." : text;
  };
  return (name.empty() ? "the plan" : name) + " is " + spelled(there) + " there and " +
         spelled(here) + " here";
}

class WorkingFolder {
 public:
  // Makes the folder if need be. `plan`: an object. resume: go on with what is there, or begin if
  // nothing is; otherwise the folder must be new or empty. Errors: cannot_write (it holds something
  // else, another plan, an unfinished run without resume, another process at work), malformed.
  [[nodiscard]] static Result<WorkingFolder> open(const std::filesystem::path& path,
                                                  const Json& plan, bool resume);

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  // Of the plan: what its parts name as theirs.
  [[nodiscard]] std::uint32_t plan_checksum() const noexcept { return plan_checksum_; }

 private:
  WorkingFolder(std::filesystem::path path, detail::Descriptor lock)
      : path_(std::move(path)), lock_(std::move(lock)) {}

  [[nodiscard]] Error refuse(std::string why) const {
    return {Errc::cannot_write, std::move(why), path_.string()};
  }
  [[nodiscard]] Result<void> begin(const std::string& plan) const;
  [[nodiscard]] Result<void> go_on(const Json& plan) const;
  void remove_unfinished_files() const;

  std::filesystem::path path_;
  detail::Descriptor lock_;
  std::uint32_t plan_checksum_ = 0;
};

namespace detail {

// Written by a process that was stopped; nobody will finish it.
[[nodiscard]] inline bool is_unfinished(const std::filesystem::path& path) {
  return path.filename().string().ends_with(".partial");
}

}  // namespace detail

inline Result<WorkingFolder> WorkingFolder::open(const std::filesystem::path& path,
                                                 const Json& plan, bool resume) {
  std::error_code failed;
  std::filesystem::create_directories(path, failed);
  if (failed) return Error{Errc::cannot_write, failed.message(), path.string()};
  // The lock goes with the process, however it ends.
  detail::Descriptor lock(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (lock.number() < 0) return Error{Errc::cannot_write, detail::reason(errno), path.string()};
  const bool alone = ::flock(lock.number(), LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
  WorkingFolder folder(path, std::move(lock));
  if (!alone) return folder.refuse("another run is at work in it");
  const std::string text = plan.dump(1);
  folder.plan_checksum_ = crc32c(std::as_bytes(std::span(text)));

  const bool used = std::filesystem::exists(path / "plan.json", failed);
  if (used && !resume) {
    return folder.refuse(
        "holds a run already; --resume goes on with it, another folder begins anew");
  }
  auto ready = used ? folder.go_on(plan) : folder.begin(text);
  if (!ready) return ready.error();
  return folder;
}

inline Result<void> WorkingFolder::begin(const std::string& plan) const {
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator(path_, failed)) {
    if (!detail::is_unfinished(entry.path()))
      return refuse("holds " + in_quotes(entry.path().filename().string()) +
                    " and no run; name an empty folder or a new one");
  }
  if (failed) return refuse(failed.message());
  remove_unfinished_files();
  auto file = AtomicFile::create(path_ / "plan.json");
  if (!file) return file.error();
  if (auto written = file->append(plan + "\n"); !written) return written;
  return file->commit();
}

inline Result<void> WorkingFolder::go_on(const Json& plan) const {
  const auto file = path_ / "plan.json";
  const auto text = read_text_file(file, 64 << 20);
  if (!text) return text.error();
  const auto there = parse_json(*text, file.string(), "the plan");
  if (!there) return there.error();
  if (const auto difference = first_difference(*there, plan); !difference.empty()) {
    return refuse("holds a run of another plan: " + difference +
                  "; repeat that run's options, or name a new folder");
  }
  remove_unfinished_files();
  return {};
}

inline void WorkingFolder::remove_unfinished_files() const {
  std::error_code ignored;
  std::set<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(path_, ignored)) {
    if (detail::is_unfinished(entry.path())) found.insert(entry.path());
  }
  for (const auto& path : found) std::filesystem::remove(path, ignored);
}

}  // namespace bisup::io
