// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How is a policy of the key-value cache written down? As one JSON object, the same in artefacts,
// prompt files and `--kv-table`; what is left out has its default.

#include <optional>
#include <string>
#include <utility>

#include <bisup/cache/kv_policy.hpp>
#include <bisup/core/dense.hpp>
#include <bisup/core/result.hpp>
#include <bisup/io/json.hpp>
#include <bisup/io/json_fields.hpp>

namespace bisup::io {

namespace detail {

[[nodiscard]] inline Json describe_kv_side(const KvFormat& format, const Clip& clip) {
  Json side = {{"bits", format.bits}};
  if (format.group != 0) side["group"] = format.group;
  if (format.zero == Zero::symmetric) side["symmetric"] = true;
  if (format.channels) side["channels"] = true;
  if (clip != Clip{}) side["clip"] = {clip.high, clip.low};
  return side;
}

inline Result<void> read_kv_side(const Json& entry, const char* key, const std::string& where,
                                 KvFormat& format, Clip& clip) {
  const auto refuse = [&](const std::string& what) {
    return Error{Errc::malformed, "a cache policy's " + in_quotes(key) + " " + what, where};
  };
  const auto found = entry.find(key);
  if (found == entry.end()) return {};
  if (!found->is_object()) return refuse("is no object");
  JsonFields fields(*found, where);
  format.bits = fields.integer("bits", 16), format.group = fields.integer("group", 0);
  format.zero = fields.boolean("symmetric", false) ? Zero::symmetric : Zero::affine;
  format.channels = fields.boolean("channels", false);
  if (const Json* pair = fields.find("clip"); pair != nullptr) {
    if (!pair->is_array() || pair->size() != 2 || !(*pair)[0].is_number() ||
        !(*pair)[1].is_number()) {
      return refuse("has a clip that is not two numbers");
    }
    clip = {(*pair)[0].get<float>(), (*pair)[1].get<float>()};
  }
  return fields.error() ? Result<void>(*fields.error()) : Result<void>();
}

}  // namespace detail

// In what exact tokens lie, by its name; nothing for another word.
[[nodiscard]] inline std::optional<DType> exact_type(const std::string& word) {
  for (const DType type : {DType::f16, DType::bf16, DType::f32}) {
    if (word == name(type)) return type;
  }
  return std::nullopt;
}

[[nodiscard]] inline Json describe(const KvPolicy& policy) {
  Json d = {{"sinks", policy.sinks},
            {"recent", policy.recent},
            {"keys", detail::describe_kv_side(policy.keys, policy.key_clip)},
            {"values", detail::describe_kv_side(policy.values, policy.value_clip)},
            {"rotate_keys", policy.rotate_keys},
            {"rotate_values", policy.rotate_values},
            {"fit_scales", policy.fit_scales},
            {"center_keys", policy.center_keys},
            {"exact", name(policy.exact_type)}};
  for (const KvEntry& entry : policy.table) {
    d["table"].push_back({{"keys", detail::describe_kv_side(entry.keys, entry.key_clip)},
                          {"values", detail::describe_kv_side(entry.values, entry.value_clip)}});
  }
  return d;
}

// Errors: malformed, naming `where`. Whether a cache of some shape can have the policy is left to
// check().
[[nodiscard]] inline Result<KvPolicy> read_kv_policy(const Json& d, const std::string& where) {
  const auto refuse = [&](const std::string& what) {
    return Error{Errc::malformed, "a cache policy " + what, where};
  };
  if (!d.is_object()) return refuse("is no object");
  KvPolicy policy;
  JsonFields fields(d, where);
  policy.sinks = fields.integer("sinks", 0), policy.recent = fields.integer("recent", 0);
  policy.rotate_keys = fields.boolean("rotate_keys", false);
  policy.rotate_values = fields.boolean("rotate_values", false);
  policy.fit_scales = fields.boolean("fit_scales", false);
  policy.center_keys = fields.boolean("center_keys", false);
  if (const Json* type = fields.find("exact"); type != nullptr) {
    const auto found = type->is_string() ? exact_type(type->get<std::string>()) : std::nullopt;
    if (!found) return refuse("keeps exact tokens as " + type->dump() + ", not f16, bf16 or f32");
    policy.exact_type = *found;
  }
  if (fields.error()) return *fields.error();
  const auto sides = [&](const Json& entry, auto& into) -> Result<void> {
    if (auto keys = detail::read_kv_side(entry, "keys", where, into.keys, into.key_clip); !keys)
      return keys;
    return detail::read_kv_side(entry, "values", where, into.values, into.value_clip);
  };
  if (auto read = sides(d, policy); !read) return read.error();
  const Json* table = fields.find("table");
  if (table == nullptr) return policy;
  if (!table->is_array() || table->empty()) return refuse("has a table that is no list of entries");
  for (const Json& entry : *table) {
    if (!entry.is_object()) return refuse("has a table with an entry that is no object");
    if (auto read = sides(entry, policy.table.emplace_back()); !read) return read.error();
  }
  return policy;
}

}  // namespace bisup::io
