// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// By what text, and for how many bits, does `bisup quantize` choose the cache's formats?

#include <CLI/CLI.hpp>
#include <bisup/llama/model.hpp>
#include <string>

#include "command.hpp"

namespace command {

struct KvSearch {
  double bits = 0;  // on average; 0: no search
  std::string text;
  int context = 512, windows = 2;
};
void add_kv_search_options(CLI::App& sub, KvSearch& search);
// `policy` says all but the bits.
[[nodiscard]] bisup::Result<bisup::KvPolicy> searched_policy(const bisup::llama::Model& model,
                                                             const bisup::KvPolicy& policy,
                                                             const bisup::io::TokenizerFiles& files,
                                                             const KvSearch& search,
                                                             bisup::ThreadPool& pool);

}  // namespace command
