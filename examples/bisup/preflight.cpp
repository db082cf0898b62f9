// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include "preflight.hpp"

#include <fmt/core.h>
#include <sys/stat.h>

#include <bisup/calibrate/self_generate.hpp>
#include <bisup/core/matrix.hpp>
#include <bisup/io/atomic_file.hpp>
#include <bisup/ops/matrix_product.hpp>
#include <filesystem>
#include <system_error>

#include "command.hpp"
#include "terminal.hpp"

namespace command {

using bisup::Errc;
using bisup::Error;
using bisup::Result;

namespace {

namespace fs = std::filesystem;

// Operations a second of the product of dense matrices with `tokens` rows.
double product_speed(int tokens, bisup::ThreadPool& pool,
                     bisup::Products products = bisup::Products::floats) {
  constexpr int size = 2048;
  bisup::Matrix<float> x(tokens, size), w(size, size), y(tokens, size);
  for (auto* m : {&x, &w}) {
    for (int r = 0; r < m->rows(); ++r) std::fill(m->row(r).begin(), m->row(r).end(), 0.5f);
  }
  const auto multiply = [&] {
    bisup::multiply_transposed(x.ref(), w.ref(), y.ref(), bisup::Into::replace, pool, products);
  };
  multiply();  // once to warm up
  const Clock clock;
  int times = 0;
  while (times < 2 || clock.seconds() < 0.1) multiply(), ++times;
  return 2.0 * tokens * size * size * times / clock.seconds();
}

// The folder, or the nearest one above it that exists.
fs::path existing(fs::path folder) {
  std::error_code ignored;
  folder = fs::absolute(folder, ignored);
  while (!fs::exists(folder, ignored) && folder.has_relative_path()) folder = folder.parent_path();
  return folder;
}

dev_t disk_of(const fs::path& folder) {
  struct stat status = {};
  return ::stat(folder.c_str(), &status) == 0 ? status.st_dev : dev_t{};
}

Result<void> expect_room(const fs::path& folder, std::size_t bytes) {
  std::error_code failed;
  const auto space = fs::space(folder, failed);
  if (failed || space.available >= bytes) return {};
  return Error{Errc::cannot_write,
               "has " + size(static_cast<double>(space.available)) + " left; about " +
                   size(static_cast<double>(bytes)) + " are needed",
               folder.string()};
}

Result<void> expect_places(const PreflightOptions& options, const Preflight& preflight) {
  fs::path beside;
  if (!options.output.empty()) {
    // Removes what it made. Whatever stands in the way stands in the way of the real one.
    if (auto file = bisup::io::AtomicFile::create(options.output); !file) return file.error();
    beside = existing(fs::path(options.output).parent_path());
    if (auto room = expect_room(beside, preflight.artefact_bytes); !room) return room;
  }
  if (options.work.empty()) return {};
  const fs::path work = existing(options.work);
  const bool one_disk = !beside.empty() && disk_of(work) == disk_of(beside);
  return expect_room(work, preflight.work_bytes + (one_disk ? preflight.artefact_bytes : 0));
}

}  // namespace

Result<Preflight> preflight(const bisup::io::ModelSource& source, const PreflightOptions& options) {
  const auto& config = source.checkpoint.config();
  if (auto can_be = check_calibration(config, options.scheme, options.recipe, options.tokens);
      !can_be) {
    return can_be.error();
  }
  Preflight result;
  result.tokens = options.tokens, result.spills = options.spills;
  result.tuning = options.recipe.tuning.products;
  result.cost = calibration_cost(config, options.scheme, options.recipe, options.tokens,
                                 options.stream, source.checkpoint.gguf() != nullptr);
  // A linear has some five tensors and descriptions of about 160 characters each.
  constexpr std::size_t description = 7 * 5 * 160;
  const auto& t = source.tokenizer;
  const std::size_t texts = t.tokenizer_json.size() + t.gguf_metadata.size() +
                            t.tokenizer_config.size() + t.chat_template.size();
  const auto layers = static_cast<std::size_t>(config.layers);
  result.artefact_bytes = result.cost.model + texts + layers * description;
  if (!options.work.empty()) {
    const std::size_t streams = result.cost.streams;  // the old and the new are there together
    result.work_bytes = result.cost.model + 2 * streams + (options.spills ? streams : 0);
  }
  if (auto places = expect_places(options, result); !places) return places.error();
  return result;
}

Json describe(const Preflight& preflight, long self_generated, const bisup::llama::Config& config,
              bisup::ThreadPool& pool) {
  const auto& cost = preflight.cost;
  double speed = product_speed(256, pool);
  double seconds = (cost.operations - cost.tuning_operations) / speed;
  if (cost.tuning_operations > 0) {
    seconds += cost.tuning_operations / product_speed(512, pool, preflight.tuning);
    speed = cost.operations / seconds;
  }
  if (self_generated > 0) {
    const bisup::detail::BlockSizes sizes(config);
    const double token =
        2.0 * (static_cast<double>(config.layers) * static_cast<double>(sizes.weights()) +
               static_cast<double>(config.vocab_size) * static_cast<double>(sizes.hidden));
    const int together = bisup::SelfGenerateOptions{}.together;
    seconds += static_cast<double>(self_generated) * token / product_speed(together, pool);
  }
  return {{"bytes", preflight.artefact_bytes},
          {"memory_bytes", cost.peak - (preflight.spills ? cost.streams : 0)},
          {"memory",
           {{"embeddings", cost.embeddings},
            {"blocks", cost.model - cost.embeddings},
            {"block", cost.block},
            {"streams", cost.streams},
            {"tuning", cost.tuning}}},
          {"work_bytes", preflight.work_bytes},
          {"tokens", static_cast<long>(preflight.tokens.samples) * preflight.tokens.length},
          {"operations", cost.operations},
          {"operations_per_second", speed},
          {"estimated_seconds", seconds}};
}

std::string explain(const Json& p) {
  const auto bytes = [&](const Json& value) { return size(value.get<double>()); };
  const Json& memory = p["memory"];
  std::string text = fmt::format(
      "memory        {} at most: blocks {}, one block's floats and moments {}, streams {}, "
      "embeddings and lm_head {}\n",
      bytes(p["memory_bytes"]), bytes(memory["blocks"]), bytes(memory["block"]),
      bytes(memory["streams"]), bytes(memory["embeddings"]));
  if (memory["tuning"] != 0)
    text += fmt::format("              all blocks together {}\n", bytes(memory["tuning"]));
  if (p["work_bytes"] != 0) text += fmt::format("folder        {}\n", bytes(p["work_bytes"]));
  text += fmt::format("artefact      {}\n", bytes(p["bytes"]));
  const double seconds = p["estimated_seconds"];
  text += fmt::format(
      "time          about {}, an estimate: {:.2f} T operations at the {:.0f} G a second that "
      "products have here\n",
      duration(seconds), p["operations"].get<double>() / 1e12,
      p["operations_per_second"].get<double>() / 1e9);
  return text;
}

}  // namespace command
