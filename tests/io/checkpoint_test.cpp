// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/io/checkpoint.hpp>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <bisup/io/safetensors_writer.hpp>
#include <bisup_test.hpp>

#include "gguf_builder.hpp"
#include "scratch_folder.hpp"

namespace {

using namespace bisup;
using namespace bisup::io;

llama::Config small_config(bool tied = false) {
  llama::Config c;
  c.architecture = "llama", c.hidden_size = 32, c.intermediate_size = 48, c.layers = 2, c.heads = 4;
  c.kv_heads = 2, c.head_dim = 8, c.vocab_size = 10, c.max_positions = 16, c.tied_embeddings = tied;
  return c;
}

std::string config_json(bool tied = false) {
  return std::string(R"({"model_type":"llama","hidden_size":32,"intermediate_size":48,"vocab_size":10,)"
                     R"("num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,)"
                     R"("max_position_embeddings":16,"tie_word_embeddings":)") + (tied ? "true}" : "false}");
}

// Every element of every tensor has a value of its own.
struct Model {
  std::vector<llama::NamedShape> names;
  std::map<std::string, std::vector<float>> values;
  explicit Model(bool tied = false) : names(llama::tensor_names(small_config(tied))) {
    float next = 0;
    for (const auto& [name, rows, cols, vector] : names) {
      auto& of = values[name];
      for (int i = 0; i < rows * cols; ++i) of.push_back(next++);
    }
  }
  [[nodiscard]] std::vector<Tensor> tensors() const {
    std::vector<Tensor> made;
    for (const auto& [name, rows, cols, vector] : names) {
      Tensor tensor{.name = name, .type = ElementType::f32, .shape = {rows, cols}};
      if (vector) tensor.shape = {cols};
      tensor.bytes = std::as_bytes(std::span(values.at(name)));
      made.push_back(std::move(tensor));
    }
    return made;
  }
};

void check_values(const Checkpoint& checkpoint, const Model& model) {
  for (const auto& [name, rows, cols, vector] : model.names) {
    INFO(name);
    REQUIRE(checkpoint.has(name));
    const auto tensor = checkpoint.tensor(name);
    REQUIRE(tensor);
    REQUIRE((tensor->rows() == rows && tensor->cols() == cols));
    int different = 0;
    for (int i = 0; i < rows * cols; ++i) {
      different += tensor->view(i / cols, i % cols) != model.values.at(name)[static_cast<std::size_t>(i)];
    }
    CHECK(different == 0);
  }
}

TEST_CASE("a folder, its file alone and its shards hold the same model") {
  const ScratchFolder folder;
  const Model model;
  const auto tensors = model.tensors();
  folder.write("config.json", config_json());
  REQUIRE(write_safetensors(folder.path() / "model.safetensors", tensors));
  for (const auto& path : {folder.path(), folder.path() / "model.safetensors"}) {
    const auto checkpoint = Checkpoint::open(path);
    REQUIRE(checkpoint);
    check_values(*checkpoint, model);
    CHECK(checkpoint->gguf() == nullptr);
    CHECK(checkpoint->stored_type("lm_head.weight") == "F32");
    CHECK_FALSE(checkpoint->has("model.layers.2.mlp.up_proj.weight"));
    CHECK(checkpoint->tensor("none").error().code == Errc::missing);
  }
  Json map = Json::object();
  for (std::size_t i = 0; i < tensors.size(); ++i) map[tensors[i].name] = i < 5 ? "a.safetensors" : "b.safetensors";
  REQUIRE(write_safetensors(folder.path() / "a.safetensors", std::span(tensors).first(5)));
  REQUIRE(write_safetensors(folder.path() / "b.safetensors", std::span(tensors).subspan(5)));
  std::filesystem::remove(folder.path() / "model.safetensors");
  folder.write("model.safetensors.index.json", Json{{"weight_map", map}}.dump());
  const auto sharded = Checkpoint::open(folder.path());
  REQUIRE(sharded);
  check_values(*sharded, model);
}

TEST_CASE("mapped tensors outlive the checkpoint") {
  const ScratchFolder folder;
  const Model model;
  folder.write("config.json", config_json());
  REQUIRE(write_safetensors(folder.path() / "model.safetensors", model.tensors()));
  llama::DenseTensor kept;
  {
    const auto checkpoint = Checkpoint::open(folder.path());
    REQUIRE(checkpoint);
    kept = checkpoint->tensor("lm_head.weight").value();
  }
  CHECK(kept.view(9, 31) == model.values.at("lm_head.weight").back());
}

TEST_CASE("a file without alignment is copied, not misread") {
  const ScratchFolder folder;
  const Model model;
  folder.write("config.json", config_json());
  REQUIRE(write_safetensors(folder.path() / "model.safetensors", model.tensors()));
  std::string bytes = folder.read("model.safetensors");
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  bytes.insert(8 + header, " ");
  ++header;
  std::memcpy(bytes.data(), &header, sizeof header);
  folder.write("model.safetensors", bytes);
  const auto checkpoint = Checkpoint::open(folder.path());
  REQUIRE(checkpoint);
  check_values(*checkpoint, model);
}

TEST_CASE("a tied model stores its embedding under either name") {
  for (const char* stored : {"model.embed_tokens.weight", "lm_head.weight"}) {
    const ScratchFolder folder;
    const Model model(true);
    auto tensors = model.tensors();
    tensors[0].name = stored;
    folder.write("config.json", config_json(true));
    REQUIRE(write_safetensors(folder.path() / "model.safetensors", tensors));
    const auto checkpoint = Checkpoint::open(folder.path());
    REQUIRE(checkpoint);
    check_values(*checkpoint, model);
    CHECK(checkpoint->tensor("lm_head.weight")->view.data == checkpoint->tensor("model.embed_tokens.weight")->view.data);
  }
}

GgufBuilder gguf_of(const Model& model) {
  GgufBuilder file;
  file.text("general.architecture", "llama").u32("llama.embedding_length", 32);
  file.u32("llama.feed_forward_length", 48).u32("llama.block_count", 2).u32("llama.context_length", 16);
  file.u32("llama.attention.head_count", 4).u32("llama.attention.head_count_kv", 2);
  file.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  for (const auto& [name, rows, cols, vector] : model.names) {
    const auto& values = model.values.at(name);
    std::string data;
    for (int r = 0; r < rows; ++r) {
      // As the conversion stores q and k: of a head's 8 rows 0, 4, 1, 5, 2, 6, 3, 7.
      const bool halves = name.find("q_proj") != name.npos || name.find("k_proj") != name.npos;
      const int from = halves ? r / 8 * 8 + r % 8 / 2 + r % 2 * 4 : r;
      for (int c = 0; c < cols; ++c) data += GgufBuilder::raw(values[static_cast<std::size_t>(from * cols + c)]);
    }
    std::vector<std::uint64_t> extents = {static_cast<std::uint64_t>(cols)};
    if (!vector) extents.push_back(static_cast<std::uint64_t>(rows));
    file.tensor(gguf_name(name), extents, 0, data);
  }
  return file;
}

TEST_CASE("a GGUF holds the same model, its query and key rows put back") {
  const ScratchFolder folder;
  const Model model;
  const auto checkpoint = Checkpoint::open(folder.write("m.gguf", gguf_of(model).bytes()));
  REQUIRE(checkpoint);
  check_values(*checkpoint, model);
  CHECK(checkpoint->gguf() != nullptr);
  CHECK(checkpoint->stored_type("model.norm.weight") == "F32");
}

TEST_CASE("names have their counterparts") {
  CHECK(gguf_name("model.layers.13.mlp.gate_proj.weight") == "blk.13.ffn_gate.weight");
  CHECK(gguf_name("model.layers.0.self_attn.k_proj.bias") == "blk.0.attn_k.bias");
  CHECK(gguf_name("model.embed_tokens.weight") == "token_embd.weight");
  for (const char* none : {"", "model", "model.layers.", "model.layers.3", "model.layers.3.x.weight"}) {
    CHECK(gguf_name(none).empty());
  }
  std::vector<bool> hit(32);
  for (int row = 0; row < 32; ++row) hit[static_cast<std::size_t>(interleaved_row(row, 16))] = true;
  CHECK(hit == std::vector<bool>(32, true));
}

TEST_CASE("what is missing, misshapen or unexpected is refused by name") {
  const ScratchFolder folder;
  folder.write("config.json", config_json());
  const auto refused = [&](const std::vector<Tensor>& tensors, Errc code, const std::string& word) {
    REQUIRE(write_safetensors(folder.path() / "model.safetensors", tensors));
    const auto checkpoint = Checkpoint::open(folder.path());
    REQUIRE_FALSE(checkpoint);
    INFO(checkpoint.error().describe());
    CHECK(checkpoint.error().code == code);
    CHECK(checkpoint.error().where.starts_with(folder.path().string()));
    CHECK(checkpoint.error().message.find(word) != std::string::npos);
  };
  const Model model;
  const auto whole = model.tensors();
  for (std::size_t i = 0; i < whole.size(); ++i) {
    auto tensors = whole;
    tensors.erase(tensors.begin() + static_cast<std::ptrdiff_t>(i));
    refused(tensors, Errc::missing, whole[i].name);
  }
  auto tensors = whole;
  tensors[0].shape = {32, 10};
  refused(tensors, Errc::wrong_shape, "[32, 10] where the config implies [10, 32]");
  tensors = whole, tensors[1].shape = {1, 32};
  refused(tensors, Errc::wrong_shape, "[1, 32] where the config implies [32]");
  tensors = whole, tensors[2].type = ElementType::i32;
  refused(tensors, Errc::unsupported, "I32");
  tensors = whole;
  tensors.push_back({"model.layers.0.mlp.up_proj.qweight", ElementType::i32, {1}, whole[0].bytes.first(4)});
  refused(tensors, Errc::unsupported, "qweight");
  tensors = whole;
  tensors.push_back({"model.layers.0.self_attn.q_proj.bias", ElementType::f32, {32}, whole[0].bytes.first(128)});
  refused(tensors, Errc::unsupported, "q_proj.bias");
  tensors = whole;
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", ElementType::f32, {4}, whole[0].bytes.first(16)});
  REQUIRE(write_safetensors(folder.path() / "model.safetensors", tensors));
  CHECK(Checkpoint::open(folder.path()));
}

TEST_CASE("a GGUF whose types are not read is refused when it is opened") {
  const ScratchFolder folder;
  Model model;
  model.names.erase(model.names.begin());
  auto file = gguf_of(model);
  file.tensor("token_embd.weight", {32, 10}, 20, std::string(180, 'q'));
  const auto checkpoint = Checkpoint::open(folder.write("m.gguf", file.bytes()));
  REQUIRE_FALSE(checkpoint);
  CHECK(checkpoint.error().code == Errc::unsupported);
  CHECK(checkpoint.error().message.find("IQ4_NL") != std::string::npos);
}

TEST_CASE("an index that does not fit its shards is refused") {
  const ScratchFolder folder;
  folder.write("config.json", config_json());
  const float one[] = {1.0f};
  const std::vector<Tensor> a = {{"a", ElementType::f32, {1}, std::as_bytes(std::span(one))}};
  REQUIRE(write_safetensors(folder.path() / "a.safetensors", a));
  REQUIRE(write_safetensors(folder.path() / "b.safetensors", a));
  auto both = a;
  both.push_back(a[0]), both[1].name = "c";
  REQUIRE(write_safetensors(folder.path() / "c.safetensors", both));
  for (const char* index :
       {"", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{}})", R"({"weight_map":{"a":1}})",
        R"({"weight_map":{"a":""}})", R"({"weight_map":{"a":".."}})", R"({"weight_map":{"a":"../a.safetensors"}})",
        R"({"weight_map":{"a":"/etc/passwd"}})", R"({"weight_map":{"a":"absent.safetensors"}})",
        R"({"weight_map":{"b":"a.safetensors"}})", R"({"weight_map":{"a":"a.safetensors","c":"b.safetensors"}})",
        R"({"weight_map":{"a":"a.safetensors","c":"c.safetensors"}})",
        R"({"weight_map":{"a":"a.safetensors","a":"a.safetensors"}})"}) {
    INFO(index);
    folder.write("model.safetensors.index.json", index);
    const auto checkpoint = Checkpoint::open(folder.path());
    REQUIRE_FALSE(checkpoint);
    CHECK(checkpoint.error().where.starts_with(folder.path().string()));
    // Two shards with one tensor are wrong themselves, not only as a part of this model.
    const bool doubled = std::string_view(index).find(R"("c":)") != std::string_view::npos;
    CHECK((checkpoint.error().message.find("is also in") != std::string::npos) == doubled);
  }
}

TEST_CASE("what is no model is refused by name") {
  const ScratchFolder folder;
  CHECK(Checkpoint::open(folder.path()).error().code == Errc::missing);
  CHECK(Checkpoint::open(folder.path() / "absent").error().code == Errc::cannot_open);
  CHECK(Checkpoint::open(folder.path() / "absent.gguf").error().code == Errc::cannot_open);
  CHECK(Checkpoint::open(folder.write("model.bin", "bytes")).error().code == Errc::unsupported);
  REQUIRE(write_safetensors(folder.path() / "model.safetensors", {}));
  const auto alone = Checkpoint::open(folder.path() / "model.safetensors");
  REQUIRE_FALSE(alone);
  CHECK(alone.error().where == (folder.path() / "config.json").string());
}

}  // namespace
