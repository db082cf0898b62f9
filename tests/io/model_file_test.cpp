// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>
#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/io/artefact_writer.hpp>
#include <bisup/io/model_file.hpp>
#include <bisup/llama/session.hpp>
#include <filesystem>

#include <bisup_test.hpp>

namespace {

using namespace bisup;
namespace fs = std::filesystem;

TEST_CASE("a folder and the artefact made from it are told apart, and carry the same tokenizer") {
  const fs::path folder = BISUP_SOURCE_DIR "/examples/tiny_llama";
  const auto source = io::open_model(folder);
  if (!source) FAIL(source.error().describe());
  CHECK(source->kind == "safetensors");
  CHECK(source->weights_note == "F16");
  CHECK(source->model.scheme == Scheme{});
  CHECK_FALSE(source->tokenizer.tokenizer_json.empty());
  CHECK_FALSE(source->tokenizer.tokenizer_config.empty());

  const fs::path path = fs::temp_directory_path() /
                        ("bisup_model_file_" + std::to_string(::getpid()) + ".safetensors");
  const auto packed = round_to_nearest(source->model, Scheme::parse("W8A8-g64").value());
  REQUIRE(packed);
  REQUIRE(
      io::save_artefact(path, *packed, source->tokenizer, {.float_weights = source->weights_note}));
  const auto artefact = io::open_model(path);
  fs::remove(path);
  if (!artefact) FAIL(artefact.error().describe());
  CHECK(artefact->kind == "artefact");
  CHECK(artefact->weights_note == "F16");
  CHECK(artefact->tokenizer.tokenizer_json == source->tokenizer.tokenizer_json);
  CHECK(artefact->tokenizer.tokenizer_config == source->tokenizer.tokenizer_config);
  CHECK(artefact->model.scheme == packed->scheme);
}

TEST_CASE("an artefact is known by what is inside, whatever its name") {
  const auto source = io::open_model(BISUP_SOURCE_DIR "/examples/tiny_llama");
  REQUIRE(source);
  const auto packed = round_to_nearest(source->model, Scheme::parse("W4A8-g64").value());
  REQUIRE(packed);
  for (const char* ending : {".bin", ".gguf", ""}) {
    const fs::path path = fs::temp_directory_path() /
                          ("bisup_model_file_" + std::to_string(::getpid()) + ending);
    REQUIRE(io::save_artefact(path, *packed, source->tokenizer, {}));
    const auto artefact = io::open_model(path);
    const auto tokenizer = io::open_tokenizer_files(path);
    fs::remove(path);
    INFO(path);
    REQUIRE(artefact);
    CHECK(artefact->kind == "artefact");
    REQUIRE(tokenizer);
    CHECK(tokenizer->tokenizer_json == source->tokenizer.tokenizer_json);
  }
}

TEST_CASE("what is not a model is an error that names it") {
  for (const char* path : {"/no/such/model", "/no/such/model.gguf", "/no/such/model.safetensors",
                           BISUP_SOURCE_DIR "/README.md", BISUP_SOURCE_DIR "/tests"}) {
    const auto opened = io::open_model(path);
    REQUIRE_FALSE(opened);
    CHECK(opened.error().where.find(path) != std::string::npos);
  }
}

}  // namespace
