// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include "command.hpp"

#include <fmt/core.h>

#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/io/file.hpp>
#include <bisup/text/model_files.hpp>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "terminal.hpp"

namespace command {

using bisup::Errc;
using bisup::Error;
using bisup::Result;

namespace {

// A number of type T from `low` to `high`. CLI::Range lets NaN through, and a number that does not
// fit into its type.
template <class T>
CLI::Validator number(T low, T high, const char* description) {
  return {[low, high](const std::string& text) {
            T value = 0;
            const char* end = text.data() + text.size();
            const auto [stop, error] = std::from_chars(text.data(), end, value);
            if (error == std::errc() && stop == end && value >= low && value <= high)
              return std::string();
            return fmt::format("{} is no number from {} to {}", text, low, high);
          },
          description};
}

}  // namespace

CLI::App* add_subcommand(CLI::App& app, const char* name, const char* does, const char* example,
                         Common& common) {
  CLI::App* sub = app.add_subcommand(name, does);
  sub->add_option("MODEL", common.model, "a Hugging Face folder, a .gguf file or an artefact")
      ->required();
  sub->add_flag("--json", common.json, "print one JSON object; progress goes to stderr");
  sub->add_option("--threads", common.threads, "threads to work with")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  sub->footer(std::string("Example: ") + example);
  return sub;
}

void add_scheme_option(CLI::App& sub, std::string& scheme, const char* does) {
  sub.add_option("--scheme", scheme, does)
      ->check([](const std::string& text) {
        const auto parsed = bisup::Scheme::parse(text);
        return parsed ? std::string() : parsed.error().message;
      })
      ->option_text("SCHEME");
}

void add_sampling_options(CLI::App& sub, bisup::llama::SamplingOptions& options,
                          std::vector<std::string>& stops) {
  sub.add_option("--temperature", options.temperature, "0: always the most probable token")
      ->check(number(0.0, 100.0, "0 to 100"))
      ->capture_default_str();
  sub.add_option("--top-k", options.top_k, "draw from the k most probable tokens; 0: from all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  sub.add_option("--top-p", options.top_p, "draw from the fewest tokens that hold this probability")
      ->check(number(1e-6, 1.0, "above 0 to 1"))
      ->capture_default_str();
  sub.add_option("--min-p", options.min_p, "leave out tokens below this share of the best one")
      ->check(number(0.0, 1.0, "0 to 1"))
      ->capture_default_str();
  sub.add_option("--repetition-penalty", options.repetition_penalty, "above 1: repeat less")
      ->check(number(0.01, 100.0, "0.01 to 100"))
      ->capture_default_str();
  sub.add_option("--seed", options.seed, "the same seed draws the same tokens")
      ->check(number<std::uint64_t>(0, UINT64_MAX, ""))
      ->capture_default_str();
  sub.add_option("--stop", stops, "stop before this text; may be given several times")
      ->take_all()
      ->allow_extra_args(false);
}

Result<void> simulate(const std::string& path, const std::string& scheme,
                      bisup::io::ModelFile& file, bisup::ThreadPool& pool) {
  if (scheme.empty()) return {};
  const auto parsed = bisup::Scheme::parse(scheme);
  if (!parsed) return parsed.error();
  if (file.model.scheme != bisup::Scheme{}) {
    return Error{Errc::bad_scheme, "is already quantized by " + file.model.scheme.name(), path};
  }
  Meter meter("simulating " + parsed->name());
  auto model = bisup::simulate(file.model, *parsed, pool, std::ref(meter));
  if (!model) return about(model.error(), path);
  model->prompt = file.model.prompt;
  file.model = std::move(model).value();
  return {};
}

Result<bisup::io::ModelFile> open_model(const std::string& path, const std::string& scheme,
                                        bisup::ThreadPool& pool) {
  auto file = bisup::io::open_model(path);
  if (!file) return file;
  if (auto simulated = simulate(path, scheme, *file, pool); !simulated) return simulated.error();
  return file;
}

Result<bisup::text::Tokenizer> open_tokenizer(const bisup::io::TokenizerFiles& files) {
  return bisup::text::load_tokenizer(files);
}

Result<std::string> read_text(const std::string& path) {
  const bool standard = path.empty() || path == "-";
  std::error_code ignored;
  // A pipe, <(zcat book.gz), is read as standard input is.
  const bool pipe = !standard && std::filesystem::is_fifo(path, ignored);
  if (!standard && !pipe) return bisup::io::read_text_file(path);
  std::FILE* file = pipe ? std::fopen(path.c_str(), "rb") : stdin;
  if (file == nullptr) return Error{Errc::cannot_open, "cannot be read", path};
  std::string text;
  char buffer[1 << 16];
  while (const std::size_t count = std::fread(buffer, 1, sizeof buffer, file)) {
    text.append(buffer, count);
  }
  const bool failed = std::ferror(file) != 0;
  if (pipe) std::fclose(file);
  if (failed) return Error{Errc::cannot_open, "cannot be read", text_name(path)};
  return text;
}

std::string text_name(const std::string& path) {
  return path.empty() || path == "-" ? "standard input" : path;
}

Result<std::vector<int>> read_ids(const std::string& path,
                                  const bisup::text::Tokenizer& tokenizer) {
  const auto text = read_text(path);
  if (!text) return text.error();
  auto ids = tokenizer.encode(*text);
  if (!ids) return about(ids.error(), text_name(path));
  return ids;
}

Error about(Error error, const std::string& where) {
  if (error.where.empty()) error.where = where;
  return error;
}

void print(const Json& json) {
  // nlohmann writes NaN and infinities as null already; bytes that are not UTF-8 become U+FFFD.
  fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
}

}  // namespace command
