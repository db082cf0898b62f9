// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// What does `bisup quantize --kv-search` do? It measures on a text which layers' keys and values
// can do with few bits, and lets the artefact say so.
#include "kv_search.hpp"

#include <bisup/allocate/kv_search.hpp>
#include <utility>

#include "prompt_options.hpp"
#include "terminal.hpp"

namespace command {

using bisup::Errc;
using bisup::Error;
using bisup::Result;

void add_kv_search_options(CLI::App& sub, KvSearch& search) {
  CLI::Option* bits = sub.add_option("--kv-search", search.bits,
                                     "choose bits of keys and values by layer: so many on average")
                          ->check(CLI::Range(2.0, 8.0))
                          ->option_text("BITS");
  sub.add_option("--kv-search-text", search.text, "the text to choose by")
      ->needs(bits)
      ->option_text("FILE");
  sub.add_option("--kv-search-context", search.context, "tokens of its windows")
      ->check(CLI::Range(32, 1 << 20))
      ->capture_default_str();
  sub.add_option("--kv-search-windows", search.windows, "how many windows of it")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
}

Result<bisup::KvPolicy> searched_policy(const bisup::llama::Model& model,
                                        const bisup::KvPolicy& policy,
                                        const bisup::io::TokenizerFiles& files,
                                        const KvSearch& search, bisup::ThreadPool& pool) {
  if (search.text.empty())
    return Error{Errc::bad_scheme, "--kv-search wants --kv-search-text FILE"};
  const auto tokenizer = open_tokenizer(files);
  if (!tokenizer) return tokenizer.error();
  const auto ids = read_ids(search.text, *tokenizer);
  if (!ids) return ids.error();
  const bisup::KvSearchOptions options{
      .budget = search.bits,
      .windows = {.context = search.context, .windows = search.windows, .bos = bos_of(*tokenizer)}};
  Meter meter("cache");
  const auto sensitivity =
      bisup::kv_sensitivity(model, *ids, policy, options, pool, std::ref(meter));
  if (!sensitivity) return about(sensitivity.error(), text_name(search.text));
  return bisup::search_kv(*sensitivity, model.config.kv_heads, policy, options);
}

}  // namespace command
