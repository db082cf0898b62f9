// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// Quantizes a model by a recipe that learns from text: calibrate_model MODEL [TEXT]
#include <bisup/calibrate/calibrator.hpp>
#include <bisup/io/artefact_writer.hpp>
#include <bisup/io/model_file.hpp>
#include <bisup/text/calibration_text.hpp>
#include <bisup/text/model_files.hpp>
#include <cstdio>

static int fail(const bisup::Error& error) {
  std::fprintf(stderr, "%s\n", error.describe().c_str());
  return 1;
}

int main(int argc, char** argv) {
  const std::string model = argc > 1 ? argv[1] : "examples/tiny_llama";
  const std::string path = argc > 2 ? argv[2] : model + "/eval.txt";
  const auto source = bisup::io::open_source(model);  // mapped: a model larger than memory works
  if (!source) return fail(source.error());
  const auto tokenizer = bisup::text::load_tokenizer(source->tokenizer);
  if (!tokenizer) return fail(tokenizer.error());
  const auto bytes = bisup::io::read_text_file(path);
  if (!bytes) return fail(bytes.error());
  const auto text = bisup::text::read_calibration_text(*bytes, path, *tokenizer);
  if (!text) return fail(text.error());
  const auto samples = bisup::cut_samples(text->ids, source->checkpoint.config().vocab_size,
                                          {.samples = 4, .length = 128});  // 24 of 2048 are usual
  if (!samples) return fail(samples.error());

  bisup::NoStore store;  // keeps no finished blocks
  const auto done = bisup::calibrate(source->checkpoint, *bisup::Scheme::parse("W4A4KV4-g64"),
                                     bisup::recipes::quarot, *samples, {}, store);
  if (!done) return fail(done.error());
  for (const auto& b : done->blocks) std::printf("%d: error %.4f\n", b.layer, b.held_out_loss);
  const auto saved = bisup::io::save_artefact("calibrated.safetensors", done->model,
                                              source->tokenizer, {.recipe = "quarot"});
  return saved ? 0 : fail(saved.error());
}
