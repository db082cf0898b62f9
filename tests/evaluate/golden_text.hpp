// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What transformers computed for a real model (tests/oracle/perplexity.py): token ids of a text,
// logits of a prompt, perplexity, greedy continuation; compared with what we compute.

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <bisup/evaluate/perplexity.hpp>
#include <bisup/io/model_file.hpp>
#include <bisup/llama/sampler.hpp>
#include <bisup/text/model_files.hpp>

#include <bisup_test.hpp>
#include "../llama/golden_models.hpp"

namespace bisup::test {

inline std::string eval_text() {
  std::ifstream file(BISUP_SOURCE_DIR "/examples/tiny_llama/eval.txt", std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void check_logits(const llama::Model& model, const nlohmann::json& golden) {
  const auto ids = golden.at("ids").get<std::vector<int>>();
  const auto sampled = golden.at("sampled").get<std::vector<int>>();
  auto session = llama::Session::make(model, static_cast<int>(ids.size()), {});
  REQUIRE(session);
  const auto hidden = session->forward(ids);
  Matrix<float> logits(hidden.rows(), model.config.vocab_size);
  session->logits(hidden, logits.ref());
  for (const auto& row : golden.at("rows")) {
    const auto found = logits.row(row.at("position").get<int>());
    const auto wanted = row.at("logits").get<std::vector<double>>();
    REQUIRE(wanted.size() == sampled.size());
    const double allowed = 1e-3 * row.at("magnitude").get<double>();  // the bar that we set
    double worst = 0;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const double logit = static_cast<double>(found[static_cast<std::size_t>(sampled[i])]);
      worst = std::max(worst, std::abs(logit - wanted[i]));
    }
    INFO("position " << row.at("position") << ": off by " << worst << ", allowed " << allowed);
    CHECK(worst <= allowed);
    CHECK(std::max_element(found.begin(), found.end()) - found.begin() ==
          row.at("likeliest").at(0).get<int>());
  }
}

inline void check_greedy(const llama::Model& model, const nlohmann::json& golden) {
  auto ids = golden.at("logits").at("ids").get<std::vector<int>>();
  const auto wanted = golden.at("greedy").get<std::vector<int>>();
  auto session = llama::Session::make(model, static_cast<int>(ids.size() + wanted.size()), {});
  REQUIRE(session);
  llama::Sampler sampler({});
  for (const int expected : wanted) {
    ids = {sampler.sample(session->next_logits(ids))};
    REQUIRE(ids[0] == expected);
  }
}

// `windows`: how many to compute; all of the golden file if 0.
inline void check_real_model(const std::string& path, const std::string& golden_file, int windows) {
  const auto golden = read_json(golden_file);
  const auto file = io::open_model(path);
  if (!file) FAIL(file.error().describe());
  const auto tokenizer = text::load_tokenizer(file->tokenizer);
  if (!tokenizer) FAIL(tokenizer.error().describe());
  const auto ids = tokenizer->encode(eval_text());
  REQUIRE(ids);
  CHECK(static_cast<int>(ids->size()) == golden.at("text_tokens").get<int>());
  const auto first = golden.at("first_ids").get<std::vector<int>>();
  CHECK(std::equal(first.begin(), first.end(), ids->begin()));
  const auto prompt = tokenizer->encode(golden.at("prompt").get<std::string>());
  REQUIRE(prompt);
  const auto begin = golden.at("logits").at("ids").get<std::vector<int>>();  // of the prompt
  REQUIRE(prompt->size() >= begin.size());
  CHECK(std::equal(begin.begin(), begin.end(), prompt->begin()));
  check_logits(file->model, golden.at("logits"));
  check_greedy(file->model, golden);

  const auto& expected = golden.at("perplexity");
  const int context = expected.at("context").get<int>();
  const int count = windows == 0 ? expected.at("windows").get<int>() : windows;
  const auto found = perplexity(file->model, *ids, {.context = context, .windows = count}, {});
  REQUIRE(found);
  const auto wanted = expected.at("window_nll").get<std::vector<double>>();
  for (int w = 0; w < count; ++w) {
    const auto at = static_cast<std::size_t>(w);
    CHECK(std::abs(found->window_nll[at] - wanted[at]) < 1e-4);  // the bar that we set
  }
  if (windows != 0) return;
  CHECK(std::abs(found->nll - expected.at("nll").get<double>()) < 1e-4);
  CHECK(std::abs(found->nll_stderr - expected.at("nll_stderr").get<double>()) < 1e-4);
}

}  // namespace bisup::test
