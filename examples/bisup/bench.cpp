// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// The conventions of llama-bench: each test runs once to warm up and then -r times; prefill (pp)
// and decode (tg) are timed apart, after d tokens that are not; the mean of the rates and their
// standard deviation are shown.
#include <fmt/core.h>

#include <algorithm>
#include <bisup/calibrate/random_model.hpp>
#include <bisup/core/random.hpp>
#include <bisup/llama/model_size.hpp>
#include <bisup/llama/sequences.hpp>
#include <bisup/llama/session.hpp>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <numeric>

#include "command.hpp"
#include "memory_bandwidth.hpp"
#include "peak_memory.hpp"
#include "terminal.hpp"

namespace command {

namespace {

namespace llama = bisup::llama;
using bisup::Errc;
using bisup::Error;
using bisup::Result;

llama::Config shape_named(const std::string& name) {
  llama::Config c;
  c.architecture = "llama";
  if (name == "tinyllama-1.1b") {
    c.hidden_size = 2048, c.intermediate_size = 5632, c.layers = 22, c.heads = 32, c.kv_heads = 4,
    c.head_dim = 64;
    c.vocab_size = 32000, c.max_positions = 2048;
  } else if (name == "llama-3.2-1b") {
    c.hidden_size = 2048, c.intermediate_size = 8192, c.layers = 16, c.heads = 32, c.kv_heads = 8,
    c.head_dim = 64;
    c.vocab_size = 128256, c.max_positions = 131072, c.rope_theta = 500000,
    c.tied_embeddings = true;
  } else {
    c.hidden_size = 4096, c.intermediate_size = 11008, c.layers = 32, c.heads = 32, c.kv_heads = 32,
    c.head_dim = 128;
    c.vocab_size = 32000, c.max_positions = 4096;
  }
  return c;
}

struct Test {
  int prompt = 0, generated = 0, depth = 0, threads = 1;
  int sequences = 1;  // that decode together; their depths differ by up to a half

  // "pp512", "tg32 @ d2048"
  [[nodiscard]] std::string name() const {
    const std::string what =
        generated == 0 ? fmt::format("pp{}", prompt) : fmt::format("tg{}", generated);
    const std::string all = sequences == 1 ? what : fmt::format("{} x{}", what, sequences);
    return depth == 0 ? all : fmt::format("{} @ d{}", all, depth);
  }
  [[nodiscard]] int tokens() const { return prompt + generated; }
};

struct Measured {
  Test test;
  std::vector<double> rates;  // tokens a second
  double first_seconds = 0;   // that the first time took, before rates are taken
  std::size_t cache_bytes = 0;
  double bytes_per_token = 0, bandwidth = 0;

  // Repetition -1 warms up.
  void add(int repetition, double seconds) {
    if (repetition < 0) {
      first_seconds = seconds;
    } else {
      rates.push_back(test.tokens() * test.sequences / seconds);
    }
  }
  [[nodiscard]] double mean() const {
    return std::accumulate(rates.begin(), rates.end(), 0.0) / static_cast<double>(rates.size());
  }
  [[nodiscard]] double deviation() const {
    if (rates.size() < 2) return 0;
    double squares = 0;
    for (const double r : rates) squares += (r - mean()) * (r - mean());
    return std::sqrt(squares / static_cast<double>(rates.size() - 1));
  }
};

struct BenchCommand {
  Common common;
  KvOptions kv;
  std::string shape, scheme;
  std::vector<int> prompts = {512}, generated = {32}, depths = {0}, batches = {1}, threads;
  int repetitions = 5;

  Result<llama::Model> model(bisup::ThreadPool& pool) const {
    if (shape.empty()) {
      auto file = open_model(common.model, scheme, pool);
      if (!file) return file.error();
      return std::move(file->model);
    }
    auto parsed = bisup::Scheme::parse(scheme);
    if (!parsed) return parsed.error();
    if (scheme.find("-head") == scheme.npos) parsed->head_bits = 8;
    // Random weights know no last position: one that is asked for is there.
    llama::Config config = shape_named(shape);
    for (const Test& test : tests())
      config.max_positions = std::max(config.max_positions, test.depth + test.tokens());
    return bisup::random_model(config, *parsed, pool);
  }

  std::vector<Test> tests() const {
    std::vector<Test> list;
    for (const int t : threads.empty() ? std::vector<int>{common.threads} : threads) {
      for (const int d : depths) {
        for (const int p : prompts) {
          if (p > 0) list.push_back({p, 0, d, t});
        }
        for (const int g : generated) {
          if (g == 0) continue;
          for (const int b : batches) list.push_back({0, g, d, t, b});
        }
      }
    }
    return list;
  }

  // Several sequences, one token of each at a time.
  Result<Measured> measure_together(const llama::Model& model, const bisup::KvPolicy& policy,
                                    const Test& test, bisup::ThreadPool& pool) const {
    auto made = llama::Sequences::make(
        model, model.prompt.tokens() + std::max(test.depth + test.generated, 1), policy,
        {.sequences = test.sequences}, pool);
    if (!made) return made.error();
    llama::Sequences sequences = std::move(made).value();
    bisup::Random random(1);
    std::vector<int> ids(static_cast<std::size_t>(test.depth + 1)), numbers, held;
    for (int& id : ids)
      id = static_cast<int>(random.below(static_cast<std::uint32_t>(model.config.vocab_size)));
    for (int i = 0; i < test.sequences; ++i) {
      auto number = sequences.begin();
      if (!number) return number.error();
      const int depth = test.depth - test.depth * i / test.sequences / 2;
      const llama::Sequences::Next next{*number,
                                        std::span(ids).first(static_cast<std::size_t>(depth))};
      if (depth > 0) {
        if (auto read = sequences.forward({&next, 1}); !read) return read.error();
      }
      numbers.push_back(*number), held.push_back(sequences.size(*number));
    }
    std::vector<llama::Sequences::Next> nexts;
    for (const int number : numbers) nexts.push_back({number, std::span(ids).last(1)});
    Measured measured;
    measured.test = test;
    measured.cache_bytes = sequences.pool().allocated_bytes();
    for (int repetition = -1; repetition < repetitions; ++repetition) {
      for (std::size_t i = 0; i < numbers.size(); ++i) sequences.truncate(numbers[i], held[i]);
      const Clock clock;
      for (int i = 0; i < test.generated && !interrupted(); ++i) {
        if (auto step = sequences.forward(nexts); !step) return step.error();
      }
      const double seconds = clock.seconds();
      if (interrupted()) return Error{Errc::interrupted, "stopped"};
      measured.add(repetition, seconds);
    }
    return measured;
  }

  // One test.
  Result<Measured> measure(const llama::Model& model, const bisup::KvPolicy& policy,
                           const Test& test, bisup::ThreadPool& pool) const {
    if (test.sequences > 1) return measure_together(model, policy, test, pool);
    auto session = llama::Session::make(model, model.prompt.tokens() + test.depth + test.tokens(),
                                        policy, pool);
    if (!session) return session.error();
    bisup::Random random(1);
    std::vector<int> ids(static_cast<std::size_t>(test.depth + test.tokens()));
    for (int& id : ids)
      id = static_cast<int>(random.below(static_cast<std::uint32_t>(model.config.vocab_size)));
    const auto read = [&](int first, int count) {
      (void)session->next_logits(
          std::span(ids).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)));
    };
    for (int at = 0; at < test.depth; at += 512) read(at, std::min(512, test.depth - at));
    const int held = session->size();  // the stored prompt's included
    Measured measured;
    measured.test = test;
    measured.cache_bytes = session->cache().allocated_bytes();
    for (int repetition = -1; repetition < repetitions; ++repetition) {
      session->truncate(held);
      const Clock clock;
      if (test.prompt > 0) read(test.depth, test.prompt);
      for (int i = 0; i < test.generated && !interrupted(); ++i) read(test.depth + i, 1);
      const double seconds = clock.seconds();
      if (interrupted()) return Error{Errc::interrupted, "stopped"};
      measured.add(repetition, seconds);
    }
    return measured;
  }

  Result<void> run() const {
    if (common.model.empty() == shape.empty()) {
      return Error{Errc::bad_scheme, "bench wants either MODEL or --shape with --scheme"};
    }
    if (!shape.empty() && scheme.empty()) return Error{Errc::bad_scheme, "--shape wants --scheme"};
    const auto list = tests();
    if (list.empty()) return Error{Errc::bad_scheme, "-p 0 and -n 0 leave nothing to measure"};
    bisup::ThreadPool loading(common.threads);
    const Clock clock;
    const auto loaded = model(loading);
    if (!loaded) return about(loaded.error(), common.model);
    const auto policy = kv_policy(*loaded, kv);
    if (!policy) return about(policy.error(), common.model);
    const double load_seconds = clock.seconds();
    const auto size = llama::model_size(*loaded);
    const std::string name =
        shape.empty() ? std::filesystem::path(common.model).filename().string() : shape;
    const std::string label = name + " " + loaded->scheme.name();
    const std::size_t width = std::max<std::size_t>(30, label.size());
    if (!common.json) {
      fmt::print("| {:<{}} | {:>9} | {:>9} | {:>7} | {:>14} | {:>17} | {:>14} |\n", "model", width,
                 "size", "params", "threads", "test", "t/s", "GB/s");
      fmt::print("| {:-<{}} | {:->8}: | {:->8}: | {:->6}: | {:->13}: | {:->16}: | {:->13}: |\n", "",
                 width, "", "", "", "", "", "");
    }
    std::vector<Measured> results;
    std::map<int, double> bandwidth;  // of so many threads
    std::size_t peak = 0;
    Meter meter("tests");
    for (const Test& test : list) {
      bisup::ThreadPool pool(test.threads);
      auto measured = measure(*loaded, *policy, test, pool);
      if (!measured) return about(measured.error(), name);
      if (results.empty()) peak = peak_memory();  // what follows takes memory of its own
      if (!bandwidth.contains(test.threads)) bandwidth[test.threads] = read_bandwidth(pool);
      Measured& one = results.emplace_back(std::move(measured).value());
      one.bytes_per_token = static_cast<double>(size.token_bytes);
      one.bandwidth = bandwidth[test.threads];
      if (!common.json) print_row(label, width, size, one);
      if (!meter(static_cast<int>(results.size()), static_cast<int>(list.size()))) {
        return Error{Errc::interrupted, "stopped"};
      }
    }
    if (common.json) {
      print_json(name, loaded->scheme.name(), *policy, size, load_seconds, peak, results);
    }
    return {};
  }

  static void print_row(const std::string& label, std::size_t width, const llama::ModelSize& size,
                        const Measured& one) {
    const std::string rate = fmt::format("{:.2f} \u00b1 {:.2f}", one.mean(), one.deviation());
    const std::string memory =
        one.test.generated == 0
            ? std::string("-")
            : fmt::format("{:.1f} of {:.1f}",
                          one.bytes_per_token * one.mean() / one.test.sequences / 1e9,
                          one.bandwidth / 1e9);
    fmt::print("| {:<{}} | {:>9} | {:>7.2f} M | {:>7} | {:>14} | {:>17} | {:>14} |\n", label, width,
               command::size(static_cast<double>(size.bytes)),
               static_cast<double>(size.parameters) / 1e6, one.test.threads, one.test.name(), rate,
               memory);
    std::fflush(stdout);
  }

  void print_json(const std::string& name, const std::string& scheme_name,
                  const bisup::KvPolicy& policy, const llama::ModelSize& size, double load_seconds,
                  std::size_t peak, const std::vector<Measured>& results) const {
    Json list = Json::array();
    for (const Measured& one : results) {
      const bool decodes = one.test.generated > 0;
      list.push_back(
          {{"n_prompt", one.test.prompt},
           {"n_gen", one.test.generated},
           {"n_depth", one.test.depth},
           {"n_threads", one.test.threads},
           {"n_sequences", one.test.sequences},
           {"avg_ts", one.mean()},
           {"stddev_ts", one.deviation()},
           {"samples_ts", one.rates},
           {"first_seconds", one.first_seconds},
           {"cache_bytes", one.cache_bytes},
           {"read_bytes_per_second",
            decodes ? Json(one.bytes_per_token * one.mean() / one.test.sequences) : Json(nullptr)},
           {"memory_bytes_per_second", one.bandwidth}});
    }
    print({{"model", name},
           {"scheme", scheme_name},
           {"model_size", size.bytes},
           {"model_n_params", size.parameters},
           {"bits_per_weight", size.bits_per_weight()},
           {"kv", kv_name(policy)},
           {"kv_sinks", policy.sinks},
           {"kv_recent", policy.recent},
           {"repetitions", repetitions},
           {"load_seconds", load_seconds},
           {"peak_memory_bytes", peak},
           {"results", std::move(list)}});
  }
};

void add_list(CLI::App& sub, const std::string& name, std::vector<int>& list, int least, int most,
              const char* does) {
  sub.add_option(name, list, does)
      ->delimiter(',')
      ->check(CLI::Range(least, most))
      ->capture_default_str();
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  const auto options = std::make_shared<BenchCommand>();
  CLI::App* sub = add_subcommand(app, "bench", "Measures tokens a second, as llama-bench does",
                                 "bisup bench small.safetensors -p 512 -n 32 -d 0,2048 -t 1,2",
                                 options->common);
  sub->get_option("MODEL")->required(false);
  sub->add_option("--shape", options->shape,
                  "random weights of this shape instead of MODEL; wants --scheme")
      ->check(CLI::IsMember({"tinyllama-1.1b", "llama-3.2-1b", "llama-2-7b"}));
  add_scheme_option(*sub, options->scheme,
                    "with --shape: pack by it (-head8 unless given); else simulate it");
  constexpr int most = 1 << 24;
  add_list(*sub, "-p,--prompt", options->prompts, 0, most, "tokens of a prefill; 0: none");
  add_list(*sub, "-n,--generate", options->generated, 0, most, "tokens to decode; 0: none");
  add_list(*sub, "-d,--depth", options->depths, 0, most, "tokens in the cache before");
  add_list(*sub, "-b,--batch", options->batches, 1, 4096, "sequences that decode together");
  add_list(*sub, "-t", options->threads, 1, 1024, "threads, like --threads but several");
  sub->add_option("-r,--repetitions", options->repetitions, "times each test is repeated")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  add_kv_options(*sub, options->kv);
  sub->callback([options, &action] { action = [options] { return options->run(); }; });
}

}  // namespace command
