// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/random.hpp>
#include <bisup/io/artefact_writer.hpp>
#include <bisup/io/block_files.hpp>
#include <bisup/io/calibration_plan.hpp>
#include <bisup/io/checkpoint.hpp>
#include <functional>
#include <optional>
#include <sstream>

#include <bisup_test.hpp>
#include "scratch_folder.hpp"

namespace {

using namespace bisup;
namespace fs = std::filesystem;

const io::Checkpoint& source() {
  static const auto opened = io::Checkpoint::open(BISUP_SOURCE_DIR "/examples/tiny_llama").value();
  return opened;
}

Samples few_samples(std::uint64_t seed = 1) {
  Random random(seed);
  std::vector<int> ids;
  for (int i = 0; i < 400; ++i) ids.push_back(static_cast<int>(random.below(1024)));
  return cut_samples(ids, 1024, {.samples = 2, .length = 24}).value();
}

struct Run {
  Recipe recipe = recipes::quarot;
  const char* scheme = "W4A4KV4-g32";
  DType stream = DType::f32;
  Samples samples = few_samples();
  std::vector<int> prompt = {};
  int prompt_bits = 16;
  int end_to_end_kept = 20;

  [[nodiscard]] io::Json plan() const {
    return io::calibration_plan(io::describe(source()), Scheme::parse(scheme).value(), recipe,
                                samples,
                                {.stream = stream, .prompt = prompt, .prompt_bits = prompt_bits});
  }
  [[nodiscard]] Result<io::BlockFiles> open(const fs::path& folder, bool resume) const {
    return io::BlockFiles::open(folder, source().config(), plan(), resume);
  }
  // Stops behind `last` blocks, or behind `last_step` end-to-end steps.
  template <class B>
  Result<Calibration> calibrate(B& store, int last = 99, int last_step = 99) const {
    CalibrateOptions options;
    options.end_to_end_kept = end_to_end_kept;
    options.end_to_end_progress = [last_step](int step, int) { return step < last_step; };
    options.stream = stream, options.prompt = prompt, options.prompt_bits = prompt_bits;
    options.progress = [last](const BlockReport& block, int) { return block.layer + 1 < last; };
    return bisup::calibrate(source(), Scheme::parse(scheme).value(), recipe, samples, options,
                            store);
  }
};

std::string bytes_of(const Calibration& calibration, const ScratchFolder& folder) {
  const auto path = folder.path() / "artefact";
  REQUIRE(io::save_artefact(path, calibration.model, {}, {}));
  return folder.read("artefact");
}

std::string in_one_go(const Run& run, const ScratchFolder& folder) {
  NoStore nothing;
  const auto done = run.calibrate(nothing);
  if (!done) FAIL(done.error().describe());
  return bytes_of(*done, folder);
}

std::string resumed(const Run& run, const fs::path& work, const ScratchFolder& folder,
                    int expected) {
  auto files = run.open(work, true);
  if (!files) FAIL(files.error().describe());
  CHECK(files->finished() == expected);
  const auto done = run.calibrate(*files);
  if (!done) FAIL(done.error().describe());
  CHECK(done->blocks.size() == 4);
  return bytes_of(*done, folder);
}

void stopped(const Run& run, const fs::path& work, int last, bool resume = false) {
  auto files = run.open(work, resume);
  if (!files) FAIL(files.error().describe());
  CHECK(run.calibrate(*files, last).error().code == Errc::interrupted);
}

std::vector<io::Json> log_lines(const ScratchFolder& folder) {
  std::istringstream text(folder.read("work/log.jsonl"));
  std::vector<io::Json> lines;
  for (std::string line; std::getline(text, line);)
    lines.push_back(io::parse_json(line, "log").value());
  return lines;
}

TEST_CASE("a calibration stopped behind any block and taken up again ends with the same bits") {
  Recipe tuned = *find_recipe("bisup_atom");
  tuned.tuning = {.rank = 4, .length = 16, .block_steps = 2, .end_to_end_steps = 2};
  const Run runs[] = {
      {recipes::quarot},
      {recipes::atom, "W3A3KV3-g32-head8"},
      {recipes::smoothquant, "W8A8-g64-affine", DType::bf16},
      {recipes::gptq, "W16A8KV8-g32"},
      {tuned, "W4A4KV4-g32"},
      {tuned, "W4A4KV4-g32", DType::f32, few_samples(), {5, 6, 7}},
      {recipes::quarot, "W3A3KV3-g32", DType::bf16, few_samples(), {9, 8, 7, 6}, 3}};
  int count = 0;
  for (const Run& run : runs) {
    INFO(run.recipe.name << " " << run.scheme);
    const ScratchFolder folder;
    const std::string whole = in_one_go(run, folder);
    // The first is stopped everywhere, the others behind one block each.
    const std::vector<int> stops =
        count == 0 ? std::vector{1, 2, 3, 4} : std::vector{1 + count % 4};
    ++count;
    for (const int last : stops) {
      const auto work = folder.path() / ("work" + std::to_string(last));
      if (last == 4) {  // finished, but the artefact was not written
        auto files = run.open(work, false).value();
        (void)run.calibrate(files, 4);
      } else {
        stopped(run, work, last);
      }
      CHECK((resumed(run, work, folder, last) == whole));
      CHECK((resumed(run, work, folder, 4) == whole));
    }
  }
}

TEST_CASE("so does one that was stopped in the end-to-end stage") {
  Recipe tuned = *find_recipe("bisup_atom");
  tuned.tuning = {.rank = 4, .length = 16, .block_steps = 1, .end_to_end_steps = 7};
  Run run{tuned, "W4A4KV4-g32"};
  run.end_to_end_kept = 2;
  const ScratchFolder folder;
  const std::string whole = in_one_go(run, folder);
  for (const int last : {1, 2, 5}) {
    const auto work = folder.path() / ("work" + std::to_string(last));
    {
      auto files = run.open(work, false).value();
      CHECK(run.calibrate(files, 99, last).error().code == Errc::interrupted);
    }
    CHECK(fs::exists(work / "tuning-0004.safetensors") == (last > 2));
    CHECK((resumed(run, work, folder, 4) == whole));
  }
  // A state that is damaged is not gone on with.
  const auto state = folder.path() / "work5" / "tuning-0004.safetensors";
  std::string bytes = folder.read("work5/tuning-0004.safetensors");
  bytes[bytes.size() - 9] ^= 1;
  folder.write("work5/tuning-0004.safetensors", bytes);
  auto files = run.open(folder.path() / "work5", true).value();
  const auto refused = run.calibrate(files);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == Errc::wrong_checksum);
  CHECK(refused.error().describe().find(state.filename().string()) != std::string::npos);
}

TEST_CASE(
    "so does one that was killed between a block and its streams, or while a file was written") {
  const Run run;
  const ScratchFolder folder;
  const std::string whole = in_one_go(run, folder);
  const auto work = folder.path() / "work", before = folder.path() / "streams-0000.safetensors";
  stopped(run, work, 1);
  fs::copy_file(work / "streams-0000.safetensors", before);
  stopped(run, work, 2, true);
  CHECK_FALSE(fs::exists(work / "streams-0000.safetensors"));

  SECTION("the block is there, its streams are not") {
    fs::remove(work / "streams-0001.safetensors");
    fs::copy_file(before, work / "streams-0000.safetensors");
    CHECK((resumed(run, work, folder, 1) == whole));
  }
  SECTION("the streams before are still there") {
    fs::copy_file(before, work / "streams-0000.safetensors");
    CHECK((resumed(run, work, folder, 2) == whole));
    CHECK_FALSE(fs::exists(work / "streams-0000.safetensors"));
  }
  SECTION("they are still there behind the last block") {
    stopped(run, work, 3, true);
    fs::copy_file(work / "streams-0002.safetensors", folder.path() / "kept");
    CHECK((resumed(run, work, folder, 3) == whole));
    fs::copy_file(folder.path() / "kept", work / "streams-0002.safetensors");
    CHECK((resumed(run, work, folder, 4) == whole));
    CHECK_FALSE(fs::exists(work / "streams-0002.safetensors"));
  }
  SECTION("a file is half written, and so is a line of the log") {
    const auto left = folder.write("work/block-0002.safetensors.77-0.partial", "half");
    folder.write("work/log.jsonl", "{\"layer\": 0}\n{\"lay");
    CHECK((resumed(run, work, folder, 2) == whole));
    CHECK_FALSE(fs::exists(left));
  }
  SECTION("not even the plan is there") {
    const auto other = folder.path() / "other";
    fs::create_directory(other);
    folder.write("other/plan.json.77-0.partial", "{");
    CHECK((resumed(run, other, folder, 0) == whole));
    CHECK_FALSE(fs::exists(other / "plan.json.77-0.partial"));
  }
}

TEST_CASE("the log has one line for each block, whatever stopped the run") {
  const Run run;
  const ScratchFolder folder;
  const auto work = folder.path() / "work";
  stopped(run, work, 2);
  CHECK(log_lines(folder).size() == 2);
  (void)resumed(run, work, folder, 2);
  const auto lines = log_lines(folder);
  REQUIRE(lines.size() == 4);
  for (int layer = 0; layer < 4; ++layer) {
    const auto& line = lines[static_cast<std::size_t>(layer)];
    CHECK(line["layer"] == layer);
    CHECK(line["errors"].size() == 7);
    CHECK(line["damping"]["mlp.down_proj"] == 0.01);
    CHECK(line["clips"].size() == 4);
    CHECK(line["loss"] > 0);
    CHECK(line["held_out_loss"] > 0);
    CHECK(line["seconds"] > 0);
  }
}

std::string why(const Result<io::BlockFiles>& opened) {
  REQUIRE_FALSE(opened);
  CHECK(opened.error().code == Errc::cannot_write);
  return opened.error().describe();
}
bool says(const std::string& text, const char* what) {
  return text.find(what) != std::string::npos;
}

TEST_CASE("a folder that is somebody's is refused, with what to do") {
  const Run run;
  const ScratchFolder folder;
  const auto work = folder.path() / "work";
  folder.write("notes.txt", "mine");
  for (const bool resume : {false, true}) {
    const auto foreign = why(run.open(folder.path(), resume));
    CHECK(says(foreign, "notes.txt"));
    CHECK(says(foreign, "empty folder"));
  }
  CHECK_FALSE(fs::exists(folder.path() / "plan.json"));
  CHECK(says(why(run.open(folder.path() / "notes.txt", false)), "notes.txt"));

  stopped(run, work, 1);
  CHECK(says(why(run.open(work, false)), "--resume"));
  {
    const auto first = run.open(work, true);
    REQUIRE(first);
    CHECK(says(why(run.open(work, true)), "another run is at work"));
  }
  CHECK(run.open(work, true));

  Run other;
  other.recipe.damping = 0.02;
  CHECK(says(why(other.open(work, true)), "recipe.damping is 0.01 there and 0.02 here"));
  other = Run{};
  other.scheme = "W4A4KV4-g64";
  CHECK(says(why(other.open(work, true)), "scheme is \"W4A4KV4-g32-head16\" there"));
  other = Run{};
  other.samples = few_samples(2);
  CHECK(says(why(other.open(work, true)), "tokens.crc32c"));
  other = Run{};
  other.stream = DType::bf16;
  CHECK(says(why(other.open(work, true)), "streams is \"f32\" there and \"bf16\" here"));
  other = Run{};
  other.prompt = {5, 6};
  CHECK(says(why(other.open(work, true)),
             "prompt is null there and {\"bits\":16,\"ids\":[5,6]} here"));
  CHECK(run.open(work, true)->finished() == 1);
}

TEST_CASE("a part that is truncated, altered, exchanged or gone is an error that names it") {
  const Run run;
  const ScratchFolder folder;
  const auto work = folder.path() / "work";
  stopped(run, work, 3);
  const auto fails = [&](const std::string& name) {
    auto files = run.open(work, true);
    if (!files) return files.error();
    const auto done = run.calibrate(*files);
    if (done) FAIL(name << " was taken");
    return done.error();
  };
  for (const char* name : {"block-0001.safetensors", "streams-0002.safetensors"}) {
    const std::string whole = folder.read(std::string("work/") + name);
    const auto expect_refusal = [&](const std::string& bytes) {
      folder.write(std::string("work/") + name, bytes);
      const Error error = fails(name);
      CHECK(error.where == (work / name).string());
      return error.code;
    };
    for (const std::size_t length :
         {std::size_t{0}, std::size_t{7}, std::size_t{300}, whole.size() / 2, whole.size() - 1}) {
      INFO(name << " of " << length << " bytes");
      const auto code = expect_refusal(whole.substr(0, length));
      CHECK((code == Errc::truncated || code == Errc::malformed));
    }
    Random random(5);
    for (int i = 0; i < 60; ++i) {
      std::string altered = whole;
      // Half of them in the header, which is a small part of the file.
      const auto at =
          random.below(static_cast<std::uint32_t>(i % 2 == 0 ? altered.size() : std::size_t{2000}));
      altered[at] = static_cast<char>(altered[at] ^ 1 << random.below(8));
      INFO(name << ", byte " << at);
      const auto code = expect_refusal(altered);
      if (at > 40'000) CHECK(code == Errc::wrong_checksum);
    }
    folder.write(std::string("work/") + name, whole);
  }
  const auto first = work / "block-0000.safetensors", second = work / "block-0001.safetensors";
  SECTION("exchanged") {
    const std::string kept = folder.read("work/block-0001.safetensors");
    fs::copy_file(first, second, fs::copy_options::overwrite_existing);
    const Error error = fails("block 0 as block 1");
    CHECK(error.code == Errc::malformed);
    CHECK(error.where == second.string());
  }
  SECTION("gone") {
    fs::remove(first);
    const Error error = fails("a missing block");
    CHECK(error.code == Errc::missing);
    CHECK(error.where == first.string());
  }
  SECTION("all streams gone") {
    fs::remove(work / "streams-0002.safetensors");
    CHECK(fails("missing streams").code == Errc::missing);
  }
  SECTION("the plan altered") {
    folder.write("work/plan.json", "{}");
    CHECK(fails("an empty plan").code == Errc::cannot_write);
    folder.write("work/plan.json", "{");
    CHECK(fails("a broken plan").code == Errc::malformed);
  }
}

}  // namespace
