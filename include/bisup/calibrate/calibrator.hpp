// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How does a float model become a quantized one that knows its data? calibrate() interprets a
// recipe block by block: one block's floats, its statistics and two activation streams are all it
// holds, so a model larger than memory works. Finished blocks go to a store, from which a stopped
// run goes on.

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <bisup/cache/rounded_prompt.hpp>
#include <bisup/calibrate/basis.hpp>
#include <bisup/calibrate/block_calibrator.hpp>
#include <bisup/calibrate/block_report.hpp>
#include <bisup/calibrate/prompt_recorder.hpp>
#include <bisup/calibrate/recipe.hpp>
#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/calibrate/samples.hpp>
#include <bisup/calibrate/stream.hpp>
#include <bisup/calibrate/tune_model.hpp>
#include <bisup/core/result.hpp>
#include <bisup/core/scheme.hpp>
#include <bisup/core/thread_pool.hpp>
#include <bisup/llama/model.hpp>

namespace bisup {

// Where finished blocks are kept. finished() blocks can be loaded, together with the streams behind
// the last of them; save() keeps a block and the streams behind it, whole or not at all. So is the
// end-to-end stage kept in the middle of its steps: load() says whether there is such a state.
template <class B>
concept BlockStore = requires(B& store, int layer, const FinishedBlock& block, Streams& streams,
                              tune::PhaseState<float>& state) {
  { store.finished() } -> std::convertible_to<int>;
  { store.load(layer) } -> std::same_as<Result<FinishedBlock>>;
  { store.load(streams) } -> std::same_as<Result<void>>;
  { store.save(layer, block, streams) } -> std::same_as<Result<void>>;
  { store.load(state) } -> std::same_as<Result<bool>>;
  { store.save(std::as_const(state)) } -> std::same_as<Result<void>>;
};

// Keeps nothing: a run in one go.
struct NoStore {
  [[nodiscard]] int finished() const { return 0; }
  [[nodiscard]] Result<FinishedBlock> load(int) const { return FinishedBlock{}; }
  [[nodiscard]] Result<void> load(Streams&) const { return {}; }
  [[nodiscard]] Result<void> save(int, const FinishedBlock&, const Streams&) const { return {}; }
  [[nodiscard]] Result<bool> load(tune::PhaseState<float>&) const { return false; }
  [[nodiscard]] Result<void> save(const tune::PhaseState<float>&) const { return {}; }
};
static_assert(BlockStore<NoStore>);

struct CalibrateOptions {
  DType stream = DType::f32;  // or bf16: half the memory
  StreamMemory memory = heap_memory;
  std::uint64_t seed = 0;  // of the rotation's signs
  // Tokens that the model will know by heart: their keys and values are the float model's, and all
  // samples come behind them. Empty: none.
  std::vector<int> prompt = {};
  int prompt_bits = 16;  // fewer: what an exact prompt is worth (cache/rounded_prompt.hpp)
  std::function<bool(const BlockReport&, int)> progress =
      {};                                                  // a block, blocks in all; false: stop
  std::function<bool(int, int)> end_to_end_progress = {};  // steps done, in all
  int end_to_end_kept = 20;  // steps from one state that the store gets to the next
};

struct Calibration {
  llama::Model model;
  std::vector<BlockReport> blocks;
  tune::PhaseReport end_to_end = {};
};

namespace detail {

// Both streams begin with the embeddings of the crops: as the float model has them, and as the
// artefact stores them. The quantized one does without those of the end-to-end stage.
[[nodiscard]] inline Result<Streams> embed(const Samples& samples, const llama::DenseTensor& exact,
                                           const llama::DenseTensor& stored,
                                           const ModelBasis& basis,
                                           const CalibrateOptions& options) {
  std::vector<const std::vector<int>*> crops;
  std::vector<int> lengths;
  for (const auto* part : {&samples.crops, &samples.held_out, &samples.end_to_end}) {
    for (const auto& crop : *part)
      crops.push_back(&crop), lengths.push_back(static_cast<int>(crop.size()));
  }
  const std::size_t in_both = crops.size() - samples.end_to_end.size();
  auto float_stream = Stream::allocate(lengths, exact.cols(), options.stream, options.memory);
  if (!float_stream) return float_stream.error();
  lengths.resize(in_both);
  auto quantized = Stream::allocate(lengths, exact.cols(), options.stream, options.memory);
  if (!quantized) return quantized.error();
  Matrix<float> x, y;
  for (std::size_t i = 0; i < crops.size(); ++i) {
    const int tokens = static_cast<int>(crops[i]->size());
    const auto rows = [&](const llama::DenseTensor& from, Matrix<float>& into) {
      into.resize(tokens, exact.cols());
      for (int t = 0; t < tokens; ++t) {
        const int id = (*crops[i])[static_cast<std::size_t>(t)];
        for (int c = 0; c < into.cols(); ++c) into(t, c) = from.view(id, c);
      }
    };
    rows(exact, x);
    for (int t = 0; t < tokens; ++t) basis.rotate(x.row(t));
    float_stream->write(static_cast<int>(i), x.ref());
    if (i >= in_both) continue;
    rows(stored, y);
    quantized->write(static_cast<int>(i), y.ref());
  }
  return Streams{std::move(float_stream).value(), std::move(quantized).value(),
                 static_cast<int>(samples.crops.size())};
}

// lm_head with the final norm's weight folded in if the basis says so: f16, or 8 bits.
template <llama::TensorSource S>
Result<void> finish_model(const S& source, const ModelBasis& basis, llama::Model& model,
                          ThreadPool& pool) {
  auto norm = llama::read_vector(source, "model.norm.weight");
  if (!norm) return norm.error();
  model.final_norm = std::move(norm).value();
  if (!basis.rotates() && source.config().tied_embeddings && model.scheme.head_bits == 16) {
    model.head = llama::AnyLinear(model.embedding);
    return {};
  }
  auto head = source.tensor(source.config().tied_embeddings ? "model.embed_tokens.weight"
                                                            : "lm_head.weight");
  if (!head) return head.error();
  const auto change = [&](MatrixRef<float> rows) {
    basis.change_head(rows, model.final_norm, pool);
  };
  if (model.scheme.head_bits == 8) {
    Matrix<float> weights = llama::as_matrix(head->view);
    change(weights.ref());
    auto packed = quantize(weights.ref(), int8_channel::value, Nearest{}, pool);
    if (!packed) return packed.error();
    model.head = llama::AnyLinear(std::move(packed).value());
    if (model.scheme.quantizes_activations()) model.head_input = {int8_token, false};
  } else {
    model.head =
        llama::AnyLinear(basis.rotates() ? llama::as_half(*head, change) : llama::as_half(*head));
  }
  basis.change_final_norm(model.final_norm);
  return {};
}

}  // namespace detail

// Errors: those of the source, not_finite (naming the layer), out_of_memory, interrupted,
// unsupported (a basis that the model's sizes do not allow), out_of_range (the prompt), those of
// the store.
template <llama::TensorSource S, BlockStore B>
Result<Calibration> calibrate(const S& source, const Scheme& scheme, const Recipe& recipe,
                              const Samples& samples, const CalibrateOptions& options, B& store,
                              ThreadPool& pool = ThreadPool::shared()) {
  const llama::Config& config = source.config();
  const auto basis = ModelBasis::make(config, recipe.basis, options.seed);
  if (!basis) return basis.error();
  Calibration result;
  llama::Model& model = result.model;
  model.config = config, model.scheme = scheme;
  if (basis->rotates()) model.config.tied_embeddings = false;

  auto embedding = source.tensor("model.embed_tokens.weight");
  if (!embedding) return embedding.error();
  model.embedding = basis->stored_rows(*embedding, pool);
  auto streams = detail::embed(samples, *embedding, model.embedding, *basis, options);
  if (!streams) return streams.error();
  auto recorder = PromptRecorder::make(config, options.prompt, *embedding, *basis, pool);
  if (!recorder) return recorder.error();
  embedding = llama::DenseTensor{};

  int longest = 0;
  for (int i = 0; i < streams->exact.samples(); ++i)
    longest = std::max(longest, streams->exact.length(i));
  const auto prompt_tokens = static_cast<int>(options.prompt.size());
  BlockCalibrator<> calibrator(config, scheme, recipe, *basis, longest, prompt_tokens, pool);
  model.kv = calibrator.policy();
  if (!recorder->empty())
    model.prompt = PromptCache(options.prompt, config.layers, config.kv_heads, config.head_dim);
  const int finished = store.finished();
  if (finished > 0) {
    if (auto loaded = store.load(*streams); !loaded) return loaded.error();
  }
  const auto stored_prompt = [&](const PromptCache& exact) {
    const float clip = recipe.kv_clip.constant.value_or(1.0f);
    KvPolicy policy = model.kv;
    policy.table.clear();
    policy.key_clip = policy.value_clip = {clip, clip};
    return rounded_prompt(exact, policy, options.prompt_bits);
  };
  for (int layer = 0; layer < config.layers; ++layer) {
    const auto run = [&]() -> Result<FinishedBlock> {
      if (layer < finished && recorder->empty()) return store.load(layer);
      const auto start = std::chrono::steady_clock::now();
      auto block = read_basis_block(source, layer, *basis, pool);
      if (!block) return block.error();
      auto exact = recorder->record(dense_view(*block));
      if (!exact) return exact.error();
      const BlockPrompt prompt{*exact, stored_prompt(*exact)};
      if (!recorder->empty()) put_layer(prompt.stored, layer, model.prompt);
      if (layer < finished) return store.load(layer);  // the prompt is not what stores keep
      auto done = calibrator.run(layer, std::move(block).value(), prompt, *streams);
      if (!done) return done.error();
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      done->report.seconds = taken.count();
      if (auto saved = store.save(layer, *done, *streams); !saved) return saved.error();
      return done;
    };
    auto done = run();
    if (!done) {
      Error error = done.error();
      error.message = "layer " + std::to_string(layer) + ": " + error.message;
      return error;
    }
    model.blocks.push_back(std::move(done->weights));
    model.kv.table.insert(model.kv.table.end(), done->kv.begin(), done->kv.end());
    result.blocks.push_back(std::move(done->report));
    if (options.progress && !options.progress(result.blocks.back(), config.layers))
      return Error{Errc::interrupted, "stopped"};
  }
  streams->quantized = Stream();  // the head needs the room
  if (!recipe.tuning.tunes_model()) streams->exact = Stream();
  if (auto done = detail::finish_model(source, *basis, model, pool); !done) return done.error();
  if (recipe.tuning.tunes_model()) {
    tune::PhaseState<float> begun;
    const auto found = store.load(begun);
    if (!found) return found.error();
    Result<void> kept;
    tune::PhaseMemory<float> memory{.every = options.end_to_end_kept,
                                    .begun = *found ? &begun : nullptr};
    if constexpr (!std::same_as<B,
                                NoStore>) {  // a state is a copy of all that is learned, and more
      memory.save = [&](const tune::PhaseState<float>& state) {
        kept = store.save(state);
        return kept.has_value();
      };
    }
    auto tuned = tune_model<>(model, samples, std::move(streams->exact), recipe.tuning,
                              options.seed, pool, options.end_to_end_progress, memory);
    if (!kept) return kept.error();
    if (!tuned) return tuned.error();
    result.end_to_end = std::move(tuned).value();
    if (result.end_to_end.interrupted) return Error{Errc::interrupted, "stopped"};
  }
  return result;
}

}  // namespace bisup
