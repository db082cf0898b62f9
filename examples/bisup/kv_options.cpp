// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// How do words on the command line become a policy of the key-value cache? What the model says
// comes first; a table or bits replace its formats, sinks and recent tokens its segments.
#include <fmt/core.h>

#include <bisup/io/file.hpp>
#include <bisup/io/kv_policy_json.hpp>
#include <utility>

#include "command.hpp"

namespace command {

using bisup::Errc;
using bisup::Error;
using bisup::KvPolicy;
using bisup::Result;

void add_kv_options(CLI::App& sub, KvOptions& options) {
  const auto tokens = CLI::Range(0, 1 << 24);
  const auto bits = CLI::IsMember({2, 3, 4, 8, 16});
  CLI::Option* both = sub.add_option("--kv", options.bits, "bits of keys and values; 16: float")
                          ->check(bits)
                          ->option_text("BITS");
  CLI::Option* keys = sub.add_option("--kv-keys", options.key_bits, "bits of keys")
                          ->check(bits)
                          ->option_text("BITS")
                          ->excludes(both);
  CLI::Option* values = sub.add_option("--kv-values", options.value_bits, "bits of values")
                            ->check(bits)
                            ->option_text("BITS")
                            ->excludes(both);
  CLI::Option* group = sub.add_option("--kv-group", options.group,
                                      "codes of a head that share a scale; 0: the whole head")
                           ->check(CLI::IsMember({0, 32, 64, 128}));
  sub.add_option("--kv-sinks", options.sinks, "first tokens that the cache keeps exact")
      ->check(tokens);
  sub.add_option("--kv-recent", options.recent, "newest tokens that the cache keeps exact")
      ->check(tokens);
  sub.add_option("--kv-exact", options.exact, "in what they lie: f16, bf16 or f32")
      ->check(CLI::IsMember({"f16", "bf16", "f32"}))
      ->option_text("TYPE");
  sub.add_flag("--kv-rotate", options.rotate, "rotate keys and values by a Hadamard matrix");
  sub.add_flag("--kv-fit", options.fit,
               "fit scales by least squares; with 16 recent tokens also center keys");
  sub.add_option("--kv-table", options.table, "a file with formats by layer and head")
      ->excludes(both)
      ->excludes(keys)
      ->excludes(values)
      ->excludes(group);
}

namespace {

Result<KvPolicy> read_table(const std::string& path) {
  const auto text = bisup::io::read_text_file(path);
  if (!text) return text.error();
  const auto json = bisup::io::parse_json(*text, path);
  if (!json) return json.error();
  return bisup::io::read_kv_policy(*json, path);
}

}  // namespace

Result<KvPolicy> kv_policy(const bisup::llama::Model& model, const KvOptions& options) {
  KvPolicy policy = model.kv;
  if (!options.table.empty()) {
    auto table = read_table(options.table);
    if (!table) return table.error();
    policy = std::move(table).value();
  } else if (options.bits || options.key_bits || options.value_bits || options.group) {
    const auto change = [&](auto& formats) {  // clips stay
      if (options.bits) formats.keys.bits = formats.values.bits = *options.bits;
      if (options.key_bits) formats.keys.bits = *options.key_bits;
      if (options.value_bits) formats.values.bits = *options.value_bits;
      if (options.group) formats.keys.group = formats.values.group = *options.group;
    };
    change(policy);
    for (bisup::KvEntry& entry : policy.table) change(entry);
  }
  if (options.talks && !policy.exact() && policy.sinks == 0 && policy.recent == 0)
    policy.sinks = 4, policy.recent = 64;
  if (options.sinks) policy.sinks = *options.sinks;
  if (options.recent) policy.recent = *options.recent;
  if (!options.exact.empty()) policy.exact_type = bisup::io::exact_type(options.exact).value();
  const auto refuse = [](const char* what) {
    return Error{Errc::bad_scheme,
                 std::string(what) + " says how to round, and the cache is float: give --kv BITS"};
  };
  if (policy.exact() && options.rotate) return refuse("--kv-rotate");
  if (policy.exact() && options.fit) return refuse("--kv-fit");
  if (options.rotate) policy.rotate_keys = policy.rotate_values = true;
  if (options.fit)
    policy.fit_scales = true, policy.center_keys = policy.recent >= bisup::shortest_window;
  if (policy.center_keys && policy.recent < bisup::shortest_window) policy.center_keys = false;
  const auto& c = model.config;
  const auto fits = bisup::check({.layers = c.layers,
                                  .kv_heads = c.kv_heads,
                                  .head_dim = c.head_dim,
                                  .capacity = c.max_positions},
                                 policy);
  if (!fits) return Error{Errc::bad_scheme, fits.error().message};
  return policy;
}

std::string kv_name(const KvPolicy& policy) {
  if (policy.exact()) return "float";
  const auto first = policy.entry(0, 0, 1);
  bool same = true;
  double bits = 0;
  for (const auto& entry : policy.table) {
    same = same && entry.keys == first.keys && entry.values == first.values;
    bits += entry.keys.bits + entry.values.bits;
  }
  std::string name =
      !same ? fmt::format("table {:.2f} bits", bits / static_cast<double>(2 * policy.table.size()))
      : first.keys.bits == first.values.bits
          ? fmt::format("KV{}", first.keys.bits)
          : fmt::format("K{}V{}", first.keys.bits, first.values.bits);
  if (same && first.keys.group != 0) name += fmt::format("-g{}", first.keys.group);
  if (policy.rotate_keys || policy.rotate_values) name += " rotated";
  if (policy.fit_scales) name += " fitted";
  if (policy.center_keys) name += " centered";
  return name;
}

Json kv_json(const KvPolicy& policy) {
  return {{"kv", kv_name(policy)}, {"kv_sinks", policy.sinks}, {"kv_recent", policy.recent}};
}

}  // namespace command
