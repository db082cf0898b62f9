// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
// What count.py lets callgrind count: one block of SmolLM2-135M's shape, with random codes, reads a
// prompt and then one token, under schemes and with what recipes add at run time. Every call of
// measured() is one count; its name is printed first.

#include <bisup/cache/kv_cache.hpp>
#include <bisup/calibrate/random_model.hpp>
#include <bisup/calibrate/recipe.hpp>
#include <bisup/llama/block.hpp>
#include <bisup/llama/session.hpp>
#include <cstdio>
#include <functional>
#include <numeric>

// Not inlined, and called by a name that a profile shows as it is.
extern "C" __attribute__((noinline)) void measured(const std::function<void()>& work) { work(); }

namespace {

using namespace bisup;

constexpr int prompt_tokens = 64;

llama::Config shape() {
  llama::Config config;
  config.architecture = "llama";
  config.hidden_size = 576, config.intermediate_size = 1536;
  config.layers = 1, config.heads = 9, config.kv_heads = 3, config.head_dim = 64;
  config.vocab_size = 64, config.max_positions = 256;
  config.tied_embeddings = true;
  return config;
}

using Block = llama::BlockWeights<llama::AnyLinear>;
using Linears = std::vector<llama::AnyLinear*>;

Linears linears_of(Block& b) { return {&b.q, &b.k, &b.v, &b.o, &b.gate, &b.up, &b.down}; }

// QuaRot at run time: the input of the down projection is rotated.
void add_rotation(Block& block, const llama::Model& model, ThreadPool&) {
  block.inputs.down.rotation =
      Hadamard::make(widest_hadamard(model.config.intermediate_size)).value();
}

// Atom at run time: channels are reordered, and the last of them kept in 8 bits.
void add_keepers(Block& block, const llama::Model& model, ThreadPool& pool) {
  detail::RandomWeights random{1, pool};
  const Format format = model.scheme.weight_format();
  for (llama::AnyLinear* linear : linears_of(block)) {
    const int in = linear->in(), out = linear->out(), keepers = default_keepers(in);
    *linear = llama::AnyLinear(random.packed(out, in - keepers, format).value(), {},
                               random.packed(out, keepers, int8_channel::value).value());
  }
  llama::InputForms& forms = block.inputs;
  for (llama::InputForm* form : {&forms.attention, &forms.output, &forms.mlp, &forms.down}) {
    const int in = form == &forms.down ? model.config.intermediate_size : model.config.hidden_size;
    form->keepers = default_keepers(in);
    form->order.resize(static_cast<std::size_t>(in));
    std::iota(form->order.rbegin(), form->order.rend(), 0);
  }
}

// BiSup at run time: branches of the rank that its bits a weight allow here.
void add_branches(Block& block, const llama::Model&, ThreadPool& pool) {
  const Tuning tuning = find_recipe("bisup_quarot")->tuning;
  detail::RandomWeights random{2, pool};
  for (llama::AnyLinear* linear : linears_of(block)) {
    const int rank = tuning.rank_of(linear->in(), linear->out());
    linear->set_branch(llama::stored_branch(llama::as_matrix(random.dense(rank, linear->in()).view),
                                            llama::as_matrix(random.dense(rank, linear->out()).view),
                                            DType::i8));
  }
}

struct Case {
  const char *scheme, *with;
  void (*add)(Block&, const llama::Model&, ThreadPool&);
};
constexpr Case cases[] = {
    {"W8A8KV8-g128", "", nullptr},
    {"W4A16KV8-g64", "", nullptr},
    {"W4A8KV8-g32", "", nullptr},
    {"W4A8KV8-g64", "", nullptr},
    {"W4A8KV8-g64", " rotation", add_rotation},
    {"W4A8KV8-g64", " keepers", add_keepers},
    {"W4A8KV8-g64", " branches", add_branches},
    {"W4A4KV4-g64", "", nullptr},
    {"W3A3KV3-g64", "", nullptr},
    {"W2A8KV2-g64", "", nullptr},
};

void run(const Case& c, ThreadPool& pool) {
  llama::Model model = random_model(shape(), Scheme::parse(c.scheme).value(), pool).value();
  if (c.add != nullptr) c.add(model.blocks[0], model, pool);
  const BlockShape shape = model.block_shape();
  const llama::RopeTable rope(model.config, prompt_tokens + 2);
  llama::Scratch scratch;
  Matrix<float> x(prompt_tokens, shape.hidden);
  const auto forward = [&](KvCache& cache, int first, int count) {
    llama::forward(shape, model.blocks[0], rope, 0, llama::Batch(first, count), cache, scratch,
                   pool, x.ref().rows(0, count));
  };
  // The second time nothing is allocated any more.
  for (const bool counted : {false, true}) {
    Random random(3, 0);
    for (int t = 0; t < x.rows(); ++t) {
      for (float& value : x.row(t)) value = static_cast<float>(random.normal());
    }
    KvCache cache = KvCache::allocate(llama::cache_shape(model, prompt_tokens + 2), model.kv).value();
    const auto prefill = [&] { forward(cache, 0, prompt_tokens); };
    const auto decode = [&] { forward(cache, prompt_tokens, 1); };
    const auto name = [&](const char* what) { std::printf("%s%s %s\n", c.scheme, c.with, what); };
    if (!counted) {
      prefill(), decode();
    } else {
      name("prefill"), measured(prefill);
      name("decode"), measured(decode);
    }
  }
}

}  // namespace

int main() {
  ThreadPool pool(1);
  for (const Case& c : cases) run(c, pool);
}
