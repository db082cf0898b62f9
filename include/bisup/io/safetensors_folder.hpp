// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Where are the tensors of a model in a folder? In model.safetensors, or in the shards that
// model.safetensors.index.json lists; SafetensorsSet finds each by name, wherever it lies.

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <bisup/core/result.hpp>
#include <bisup/io/file.hpp>
#include <bisup/io/json.hpp>
#include <bisup/io/safetensors.hpp>

namespace bisup::io {

class SafetensorsSet {
 public:
  struct Place {
    std::size_t file;  // index into files()
    Tensor tensor;
  };

  [[nodiscard]] static Result<SafetensorsSet> open_file(const std::filesystem::path& path) {
    SafetensorsSet set;
    if (auto added = set.add(path); !added) return added.error();
    return set;
  }
  // The files of a folder: the index counts if there is one.
  [[nodiscard]] static Result<SafetensorsSet> open_folder(const std::filesystem::path& folder) {
    std::error_code ignored;
    const auto index = folder / "model.safetensors.index.json";
    if (std::filesystem::exists(index, ignored)) return open_index(index);
    const auto single = folder / "model.safetensors";
    if (std::filesystem::exists(single, ignored)) return open_file(single);
    return Error{Errc::missing, "has neither model.safetensors nor model.safetensors.index.json",
                 folder.string()};
  }

  [[nodiscard]] const std::vector<Safetensors>& files() const noexcept { return files_; }
  [[nodiscard]] const std::map<std::string, Place, std::less<>>& tensors() const noexcept {
    return places_;
  }
  [[nodiscard]] const Place* find(std::string_view name) const {
    const auto found = places_.find(name);
    return found == places_.end() ? nullptr : &found->second;
  }

 private:
  [[nodiscard]] static Result<SafetensorsSet> open_index(const std::filesystem::path& path);

  [[nodiscard]] Result<void> add(const std::filesystem::path& path) {
    auto file = Safetensors::open(path);
    if (!file) return file.error();
    for (const Tensor& tensor : file->tensors()) {
      const auto [at, fresh] = places_.try_emplace(tensor.name, Place{files_.size(), tensor});
      if (!fresh) {
        return Error{
            Errc::malformed,
            "tensor " + in_quotes(tensor.name) + " is also in " + files_[at->second.file].path(),
            path.string()};
      }
    }
    files_.push_back(std::move(file).value());
    return {};
  }

  std::vector<Safetensors> files_;
  std::map<std::string, Place, std::less<>> places_;
};

inline Result<SafetensorsSet> SafetensorsSet::open_index(const std::filesystem::path& path) {
  const auto text = read_text_file(path, Safetensors::header_limit);
  if (!text) return text.error();
  const auto parsed = parse_json(*text, path.string());
  if (!parsed) return parsed.error();
  const auto malformed = [&](std::string what) {
    return Error{Errc::malformed, std::move(what), path.string()};
  };
  if (!parsed->is_object()) return malformed("is not a JSON object");
  const auto map = parsed->find("weight_map");
  if (map == parsed->end() || !map->is_object()) return malformed("has no 'weight_map'");
  const auto& entries = map->get_ref<const Json::object_t&>();
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : entries) {
    if (!shard.is_string()) return malformed("names no file for tensor " + in_quotes(tensor));
    const auto& name = shard.get_ref<const std::string&>();
    // A shard lies beside its index: a path could point anywhere.
    if (name.empty() || name == "." || name == ".." ||
        name.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
      return malformed("names the file " + in_quotes(name) + " for tensor " + in_quotes(tensor));
    }
    shards.insert(name);
  }
  if (shards.empty()) return malformed("lists no tensors");

  SafetensorsSet set;
  for (const std::string& shard : shards) {
    if (auto added = set.add(path.parent_path() / shard); !added) return added.error();
  }
  for (const auto& [tensor, shard] : entries) {
    const Place* place = set.find(tensor);
    const auto& name = shard.get_ref<const std::string&>();
    if (place == nullptr ||
        std::filesystem::path(set.files_[place->file].path()).filename() != name) {
      return Error{Errc::missing,
                   "tensor " + in_quotes(tensor) + " is not in " + in_quotes(name) +
                       ", where the index says",
                   path.string()};
    }
  }
  return set;
}

}  // namespace bisup::io
