// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a calibration survive being stopped? BlockFiles keeps each finished block, the two
// streams behind the last one and the end-to-end stage's state in a working folder, every file
// whole or absent, so that a run can go on behind the last of them and end with the same bits.
// log.jsonl has a line for each block.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <bisup/calibrate/calibrator.hpp>
#include <bisup/core/result.hpp>
#include <bisup/io/block_report_json.hpp>
#include <bisup/io/checked_tensors.hpp>
#include <bisup/io/described_tensors.hpp>
#include <bisup/io/file.hpp>
#include <bisup/io/kv_policy_json.hpp>
#include <bisup/io/tensor_describer.hpp>
#include <bisup/io/working_folder.hpp>

namespace bisup::io {

class BlockFiles {
 public:
  // `plan`: what calibration_plan() gives. Errors: those of WorkingFolder::open; missing, if a part
  // that a finished one rests on has been removed.
  [[nodiscard]] static Result<BlockFiles> open(const std::filesystem::path& folder,
                                               const llama::Config& config, const Json& plan,
                                               bool resume);

  // Blocks that need not be calibrated again.
  [[nodiscard]] int finished() const noexcept { return finished_; }
  // Errors: truncated, malformed, missing, wrong_checksum, wrong_shape, each naming the file;
  // cannot_write, of the log.
  [[nodiscard]] Result<FinishedBlock> load(int layer);
  [[nodiscard]] Result<void> load(Streams& streams) const;
  // Requires layer == finished(). Errors: cannot_write, naming the file.
  [[nodiscard]] Result<void> save(int layer, const FinishedBlock& block, const Streams& streams);

  // The end-to-end stage in the middle; load() says whether it had begun. Errors: as above.
  [[nodiscard]] Result<bool> load(tune::PhaseState<float>& state) const;
  [[nodiscard]] Result<void> save(const tune::PhaseState<float>& state) const;

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return folder_.path(); }

 private:
  BlockFiles(WorkingFolder folder, const llama::Config& config)
      : folder_(std::move(folder)), config_(config) {}

  [[nodiscard]] std::filesystem::path file(const char* part, int layer) const {
    char name[64];
    std::snprintf(name, sizeof name, "%s-%04d.safetensors", part, layer);
    return path() / name;
  }
  [[nodiscard]] bool has(const char* part, int layer) const {
    std::error_code ignored;
    return std::filesystem::exists(file(part, layer), ignored);
  }
  [[nodiscard]] Json about(int layer) const {
    return {{"plan", folder_.plan_checksum()}, {"layer", layer}};
  }
  [[nodiscard]] Result<void> count_finished();
  void remove_older_streams() const;
  [[nodiscard]] Result<void> begin_log();
  [[nodiscard]] Result<void> log(const BlockReport& report);
  [[nodiscard]] Result<CheckedTensors> open_part(const char* part, int layer) const;

  WorkingFolder folder_;
  llama::Config config_;
  int finished_ = 0;
  detail::Descriptor log_;
};
static_assert(BlockStore<BlockFiles>);

inline Result<BlockFiles> BlockFiles::open(const std::filesystem::path& folder,
                                           const llama::Config& config, const Json& plan,
                                           bool resume) {
  auto opened = WorkingFolder::open(folder, plan, resume);
  if (!opened) return opened.error();
  BlockFiles files(std::move(opened).value(), config);
  if (auto counted = files.count_finished(); !counted) return counted.error();
  files.remove_older_streams();
  if (auto begun = files.begin_log(); !begun) return begun.error();
  return files;
}

// Streams are written behind their block and removed behind their successor: those of the last
// block or of the one before it are there.
inline Result<void> BlockFiles::count_finished() {
  int blocks = 0, streams = 0;  // one more than the last that is there
  for (int layer = 0; layer < config_.layers; ++layer) {
    if (has("block", layer)) blocks = layer + 1;
    if (has("streams", layer)) streams = layer + 1;
  }
  const auto lacks = [&](const char* part, int layer) {
    return Error{Errc::missing,
                 "is not there, but what was made after it is; a new folder begins anew",
                 file(part, layer).string()};
  };
  for (int layer = 0; layer < std::max(blocks, streams); ++layer) {
    if (!has("block", layer)) return lacks("block", layer);
  }
  if (blocks > 1 && streams < blocks - 1) return lacks("streams", blocks - 1);
  finished_ = streams;
  return {};
}

// Also when a folder is opened: a kill may have come before it, and behind the last block no other
// would follow.
inline void BlockFiles::remove_older_streams() const {
  std::error_code ignored;
  for (int layer = 0; layer < finished_ - 1; ++layer)
    std::filesystem::remove(file("streams", layer), ignored);
}

// The log begins anew: load() and save() are called once for each block in turn, so its lines are
// whole and in order whatever happened to the run before.
inline Result<void> BlockFiles::begin_log() {
  const auto place = path() / "log.jsonl";
  log_ = detail::Descriptor(
      ::open(place.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666));
  if (log_.number() < 0) return Error{Errc::cannot_write, detail::reason(errno), place.string()};
  return {};
}

inline Result<void> BlockFiles::log(const BlockReport& report) {
  const std::string line = summary(report).dump() + "\n";
  std::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t count = ::write(log_.number(), rest.data(), rest.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      return Error{Errc::cannot_write, detail::reason(count < 0 ? errno : ENOSPC),
                   (path() / "log.jsonl").string()};
    }
    rest.remove_prefix(static_cast<std::size_t>(count));
  }
  return {};
}

inline Result<CheckedTensors> BlockFiles::open_part(const char* part, int layer) const {
  const auto place = file(part, layer);
  auto opened = open_checked(place);
  if (!opened) return opened;
  const Json& d = opened->description;
  if (d.value("plan", Json()) != folder_.plan_checksum() || d.value("layer", Json()) != layer)
    return Error{Errc::malformed, "belongs to another run or layer", place.string()};
  return opened;
}

inline Result<FinishedBlock> BlockFiles::load(int layer) {
  BISUP_EXPECTS(layer >= 0 && layer < finished_);
  const auto part = open_part("block", layer);
  if (!part) return part.error();
  const std::string where = part->file->path();
  const Json& d = part->description;
  for (const char* key : {"packed", "inputs", "kv", "report"}) {
    if (!d.contains(key) || !d[key].is_object())
      return Error{Errc::malformed, "has a description without " + in_quotes(key), where};
  }
  FinishedBlock block;
  const detail::DescribedTensors tensors(part->file, d);
  auto weights = detail::read_block(tensors, d["inputs"], config_, layer);
  if (!weights) return weights.error();
  block.weights = std::move(weights).value();
  auto kv = read_kv_policy(d["kv"], where);
  if (!kv) return kv.error();
  block.kv = std::move(kv->table);
  auto report = read_block_report(d["report"], where);
  if (!report) return report.error();
  block.report = std::move(report).value();
  if (auto logged = log(block.report); !logged) return logged.error();
  return block;
}

inline Result<void> BlockFiles::load(Streams& streams) const {
  BISUP_EXPECTS(finished_ > 0);
  const auto part = open_part("streams", finished_ - 1);
  if (!part) return part.error();
  for (const auto& [name, stream] :
       {std::pair("exact", &streams.exact), std::pair("quantized", &streams.quantized)}) {
    const auto tensor = part->file->tensor(name);
    if (!tensor) return tensor.error();
    if (tensor->bytes.size() != stream->bytes()) {
      return Error{Errc::wrong_shape, "tensor " + in_quotes(name) + " belongs to other samples",
                   part->file->path()};
    }
    std::memcpy(stream->data(), tensor->bytes.data(), tensor->bytes.size());
  }
  return {};
}

inline Result<void> BlockFiles::save(int layer, const FinishedBlock& block,
                                     const Streams& streams) {
  BISUP_EXPECTS(layer == finished_);
  detail::TensorDescriber contents;
  Json d = about(layer);
  d["inputs"] = contents.block(layer, block.weights);
  d["packed"] = contents.packed_formats(), d["ranks"] = contents.ranks();
  d["kv"] = describe(KvPolicy{.table = block.kv}), d["report"] = describe(block.report);
  if (auto written = write_checked(file("block", layer), contents.tensors(), std::move(d));
      !written)
    return written;

  std::vector<Tensor> both;
  for (const auto& [name, stream] :
       {std::pair("exact", &streams.exact), std::pair("quantized", &streams.quantized)}) {
    const auto width = static_cast<std::size_t>(stream->hidden()) *
                       static_cast<std::size_t>(bisup::bytes_of(stream->type()));
    both.push_back({.name = name,
                    .type = detail::element_of(stream->type()),
                    .shape = {static_cast<std::int64_t>(stream->bytes() / width), stream->hidden()},
                    .bytes = {stream->data(), stream->bytes()}});
  }
  if (auto written = write_checked(file("streams", layer), both, about(layer)); !written)
    return written;
  finished_ = layer + 1;
  remove_older_streams();
  return log(block.report);
}

namespace detail {

// The runs of numbers of a state, by name.
template <class State, class Visit>
void visit_numbers(State& state, Visit&& visit) {
  visit("values", state.values), visit("best", state.best);
  visit("first", state.first), visit("second", state.second);
  visit("training", state.report.training), visit("held_out", state.report.held_out);
}

}  // namespace detail

inline Result<void> BlockFiles::save(const tune::PhaseState<float>& state) const {
  std::vector<Tensor> tensors;
  const auto add = [&](const char* name, const auto& numbers) {
    tensors.push_back({.name = name,
                       .type = sizeof(numbers[0]) == 8 ? ElementType::f64 : ElementType::f32,
                       .shape = {static_cast<std::int64_t>(numbers.size())},
                       .bytes = std::as_bytes(std::span(numbers))});
  };
  detail::visit_numbers(state, add);
  const std::array losses = {state.report.before, state.report.best};  // may be infinite
  add("losses", losses);
  Json d = about(config_.layers);
  d["steps"] = state.steps, d["evaluated"] = state.evaluated, d["updates"] = state.updates;
  d["slower"] = state.slower, d["best_step"] = state.report.best_step;
  d["recoveries"] = state.report.recoveries;
  return write_checked(file("tuning", config_.layers), tensors, std::move(d));
}

inline Result<bool> BlockFiles::load(tune::PhaseState<float>& state) const {
  if (!has("tuning", config_.layers)) return false;
  const auto part = open_part("tuning", config_.layers);
  if (!part) return part.error();
  const std::string where = part->file->path();
  Result<void> wrong;
  std::vector<double> losses;
  const auto read = [&](const char* name, auto& numbers) {
    using Number = typename std::remove_reference_t<decltype(numbers)>::value_type;
    const auto tensor = part->file->tensor(name);
    if (!tensor) {
      wrong = tensor.error();
    } else if (bytes_of(tensor->type) != sizeof(Number)) {
      wrong = Error{Errc::malformed, "tensor " + in_quotes(name) + " is of another type", where};
    } else {
      numbers.resize(tensor->bytes.size() / sizeof(Number));
      std::ranges::copy(tensor->bytes, std::as_writable_bytes(std::span(numbers)).begin());
    }
  };
  detail::visit_numbers(state, read);
  read("losses", losses);
  if (!wrong) return wrong.error();
  const Json& d = part->description;
  for (const char* key : {"steps", "evaluated", "updates", "slower", "best_step", "recoveries"}) {
    if (!d.contains(key) || !d[key].is_number() || losses.size() != 2)
      return Error{Errc::malformed, "has a description without " + in_quotes(key), where};
  }
  state.steps = d["steps"], state.evaluated = d["evaluated"], state.updates = d["updates"];
  state.slower = d["slower"], state.report.best_step = d["best_step"];
  state.report.recoveries = d["recoveries"];
  state.report.before = losses[0], state.report.best = losses[1];
  return true;
}

}  // namespace bisup::io
