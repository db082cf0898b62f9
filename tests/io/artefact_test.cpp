// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/round_to_nearest.hpp>
#include <bisup/core/random.hpp>
#include <bisup/io/artefact_reader.hpp>
#include <bisup/io/artefact_writer.hpp>
#include <bisup/llama/session.hpp>
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <utility>

#include <bisup_test.hpp>
#include "../llama/golden_models.hpp"
#include "scratch_folder.hpp"

namespace {

using namespace bisup;
namespace fs = std::filesystem;

std::vector<float> logits_of(const llama::Model& model) {
  auto session = llama::Session::make(model, 32);
  REQUIRE(session);
  const auto logits = session->next_logits(std::vector<int>{3, 1, 4, 1, 5, 9, 2, 6});
  return {logits.begin(), logits.end()};
}

fs::path saved(const ScratchFolder& folder, const llama::Model& model) {
  const fs::path path = folder.path() / "model.safetensors";
  const io::TokenizerFiles tokenizer{.tokenizer_json = "{}", .chat_template = "hello"};
  REQUIRE(io::save_artefact(path, model, tokenizer, {.float_weights = "f32"}));
  return path;
}

TEST_CASE("what is loaded computes the same bits as what was saved, on every kind of scheme") {
  const ScratchFolder folder;
  for (const char* name :
       {"llama", "qwen2_tied", "qwen3", "llama_mlp_bias", "mistral_window", "llama_rope_yarn"}) {
    for (const char* scheme : {"W4A4KV4-g64", "W3A16-channel-affine", "W8A8KV8-g32-atoken-head8",
                               "W16A8-g32", "W5A6-g128"}) {
      INFO(name << " " << scheme);
      const auto model = round_to_nearest(test::small_model(name), Scheme::parse(scheme).value());
      REQUIRE(model);
      const auto loaded = io::load_artefact(saved(folder, *model));
      if (!loaded) FAIL(loaded.error().describe());
      CHECK(loaded->model.config == model->config);
      CHECK(loaded->model.scheme == model->scheme);
      CHECK(loaded->tokenizer.chat_template == "hello");
      CHECK(logits_of(loaded->model) == logits_of(*model));
      CHECK(io::verify_artefact(*loaded));
    }
  }
}

// A model whose inputs are transformed and whose linears have keepers and branches.
llama::Model with_everything() {
  auto model =
      round_to_nearest(test::small_model("qwen2_tied"), Scheme::parse("W4A4-g32").value()).value();
  for (auto& block : model.blocks) {
    for (const auto& [name, linear, input] : llama::named_linears) {
      llama::AnyLinear& l = block.*linear;
      llama::InputForm& form = block.inputs.*input;
      const int in = l.in(), out = l.out(), kept = 32;
      std::vector<float> bias = l.bias();  // of queries, keys and values; the others learn theirs
      Random random(static_cast<std::uint64_t>(in + out));
      const auto gaussian = [&](int rows, int cols) {
        Matrix<float> m(rows, cols);
        for (int r = 0; r < rows; ++r) {
          for (float& v : m.row(r)) v = static_cast<float>(0.1 * random.normal());
        }
        return m;
      };
      if (bias.empty()) std::ranges::copy(gaussian(1, out).row(0), std::back_inserter(bias));
      l = llama::AnyLinear(quantize(gaussian(out, in - kept).ref(), l.packed()->format()).value(),
                           std::move(bias),
                           quantize(gaussian(out, kept).ref(), int8_channel::value).value());
      l.set_branch(llama::stored_branch(gaussian(4, in), gaussian(4, out),
                                        kept < out ? DType::i8 : DType::f16));
      form.keepers = kept;
      form.multiplier.assign(static_cast<std::size_t>(in), 0.75f);
      form.order.clear();
      for (int i = 0; i < in; ++i) form.order.push_back(in - 1 - i);
      form.rotation = Hadamard::make(widest_hadamard(in)).value();
    }
  }
  return model;
}

TEST_CASE("a branch in codes is refused with a scale that cannot be") {
  const ScratchFolder folder;
  for (const auto& [scale, code] : {std::pair{std::nanf(""), Errc::not_finite}, std::pair{-1.0f, Errc::malformed}}) {
    llama::Model model = with_everything();
    llama::Branch branch = *model.blocks[1].gate.branch();
    REQUIRE(branch.type() == DType::i8);
    branch.scale[2] = scale;
    model.blocks[1].gate.set_branch(std::move(branch));
    const auto refused = io::load_artefact(saved(folder, model));
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == code);
  }
}

TEST_CASE("transformed inputs, keepers and low-rank branches survive the file") {
  const ScratchFolder folder;
  const llama::Model model = with_everything();
  const auto loaded = io::load_artefact(saved(folder, model));
  if (!loaded) FAIL(loaded.error().describe());
  for (std::size_t i = 0; i < model.blocks.size(); ++i) {
    for (const auto& [name, input] : llama::named_inputs)
      CHECK(loaded->model.blocks[i].inputs.*input == model.blocks[i].inputs.*input);
  }
  CHECK(logits_of(loaded->model) == logits_of(model));
  CHECK(io::verify_artefact(*loaded));
}

TEST_CASE("an order that would read beyond a row, or one channel twice, is refused") {
  const ScratchFolder folder;
  for (const int wrong : {-1, 1 << 20, 0}) {  // 0 is there already, last
    llama::Model model = with_everything();
    model.blocks[1].inputs.mlp.order[1] = wrong;
    const auto loaded = io::load_artefact(saved(folder, model));
    REQUIRE_FALSE(loaded);
    CHECK(loaded.error().code == Errc::malformed);
    CHECK(loaded.error().message.find("model.layers.1.mlp.order") != std::string::npos);
  }
}

llama::Model with_prompt(llama::Model model, DType type) {
  const llama::Config& c = model.config;
  PromptCache prompt({5, 6, 7}, c.layers, c.kv_heads, c.head_dim, type);
  Random random(3);
  Matrix<float> keys(3, c.kv_heads * c.head_dim), values(3, c.kv_heads * c.head_dim);
  for (int layer = 0; layer < c.layers; ++layer) {
    for (int t = 0; t < 3; ++t) {
      for (float& x : keys.row(t)) x = static_cast<float>(random.normal());
      for (float& x : values.row(t)) x = static_cast<float>(random.normal());
    }
    prompt.set(layer, keys.ref(), values.ref());
  }
  model.prompt = std::move(prompt);
  return model;
}

TEST_CASE("the cache's policy and the stored prompt come back, and sessions use them") {
  const ScratchFolder folder;
  auto model = round_to_nearest(test::small_model("llama"), Scheme::parse("W4A8KV4-g32").value());
  REQUIRE(model);
  CHECK(model->kv == KvPolicy::of(model->scheme));
  const std::vector<float> plain = logits_of(*model);
  const llama::Config& c = model->config;
  KvPolicy policy{.sinks = 2,
                  .recent = 16,
                  .rotate_keys = true,
                  .key_clip = {0.9f, 0.8f},
                  .fit_scales = true,
                  .center_keys = true,
                  .exact_type = DType::bf16};
  CHECK(io::read_kv_policy(io::describe(policy), "").value() == policy);
  CHECK(io::read_kv_policy(io::Json::object(), "").value() == KvPolicy{});
  CHECK(io::read_kv_policy({{"exact", "f32"}}, "").value() == KvPolicy{.exact_type = DType::f32});
  CHECK(io::read_kv_policy({{"exact", 16}}, "").error().message.find("f16, bf16 or f32") !=
        std::string::npos);
  policy.table.assign(static_cast<std::size_t>(c.layers * c.kv_heads),
                      {.keys = {4}, .values = {2}, .value_clip = {1, 0.5f}});
  policy.table[1] = {};
  policy.table[2].keys = {.bits = 3, .zero = Zero::symmetric, .channels = true};
  for (const DType type : {DType::f16, DType::f32}) {
    model->kv = policy;
    const auto stored = with_prompt(*model, type);
    const auto loaded = io::load_artefact(saved(folder, stored));
    if (!loaded) FAIL(loaded.error().describe());
    CHECK(loaded->model.kv == policy);
    CHECK(loaded->model.prompt.ids().size() == 3);
    CHECK(loaded->model.prompt.type() == type);
    CHECK(logits_of(loaded->model) == logits_of(stored));
    CHECK(logits_of(loaded->model) != plain);
    CHECK(io::verify_artefact(*loaded));
  }
}

TEST_CASE("an artefact of the first schema has the policy of its scheme") {
  const ScratchFolder folder;
  const auto model =
      round_to_nearest(test::small_model("llama"), Scheme::parse("W4A8KV4-g32").value());
  const auto path = saved(folder, *model);
  std::string bytes = read_file(path);
  for (const auto& [from, to] :
       {std::pair("\\\"schema\\\":3", "\\\"schema\\\":1"), std::pair("\\\"kv\\\":", "\\\"kw\\\":"),
        std::pair("\\\"prompt\\\":", "\\\"prampt\\\":")}) {
    bytes.replace(bytes.find(from), std::string(from).size(), to);
  }
  write_file(path, bytes);
  const auto loaded = io::load_artefact(path);
  if (!loaded) FAIL(loaded.error().describe());
  CHECK(loaded->model.kv == KvPolicy{.keys = {4}, .values = {4}});
  CHECK(loaded->model.prompt.empty());
}

TEST_CASE("a policy that no cache can have, and a prompt that cannot be, are refused") {
  const ScratchFolder folder;
  auto model = round_to_nearest(test::small_model("llama"), Scheme::parse("W4A8KV4-g32").value());
  model->kv.recent = 7;
  const auto path = saved(folder, with_prompt(*model, DType::f16));
  const std::string good = read_file(path);
  struct Case {
    const char *from, *to;
    Errc code;
  };
  const Case cases[] = {
      {"\\\"keys\\\":{\\\"bits\\\":4}", "\\\"keys\\\":{\\\"bits\\\":5}", Errc::malformed},
      {"\\\"keys\\\":{\\\"bits\\\":4}", "\\\"keys\\\":[\\\"bits\\\",4]", Errc::malformed},
      {"\\\"recent\\\":7", "\\\"recent\\\":x", Errc::malformed},
      {"\\\"rotate_keys\\\":false", "\\\"rotate_keys\\\":12345", Errc::malformed},
      {"\\\"prompt\\\":[5,6,7]", "\\\"prompt\\\":[5,678]", Errc::malformed},
      {"\\\"prompt\\\":[5,6,7]", "\\\"prompt\\\":[5,  7]", Errc::wrong_shape},
      {"\"prompt.1.keys\"", "\"prompt.9.keys\"", Errc::missing},
  };
  for (const auto& c : cases) {
    INFO(c.from << " -> " << c.to);
    std::string bytes = good;
    REQUIRE(bytes.find(c.from) != std::string::npos);
    write_file(path, bytes.replace(bytes.find(c.from), std::string(c.from).size(), c.to));
    const auto loaded = io::load_artefact(path);
    REQUIRE_FALSE(loaded);
    CHECK(loaded.error().code == c.code);
    CHECK(loaded.error().where == path.string());
  }
}

TEST_CASE("the same model gives the same bytes") {
  const ScratchFolder folder;
  const auto model =
      round_to_nearest(test::small_model("llama"), Scheme::parse("W4A8-g32").value());
  REQUIRE(model);
  const std::string first = read_file(saved(folder, *model));
  CHECK(first == read_file(saved(folder, *model)));
}

TEST_CASE("a changed payload fails verification by the tensor's name") {
  const ScratchFolder folder;
  const auto model =
      round_to_nearest(test::small_model("llama"), Scheme::parse("W4A8-g32").value());
  const auto path = saved(folder, *model);
  std::string bytes = read_file(path);
  bytes[bytes.size() - 5] = static_cast<char>(bytes[bytes.size() - 5] ^ 1);
  write_file(path, bytes);
  const auto loaded = io::load_artefact(path);
  REQUIRE(loaded);
  const auto verified = io::verify_artefact(*loaded);
  REQUIRE_FALSE(verified);
  CHECK(verified.error().code == Errc::wrong_checksum);
  CHECK(verified.error().where == path.string());
}

// Replaces text inside the header by text of the same length, so that offsets stay right.
std::string altered(std::string bytes, const std::string& from, const std::string& to) {
  REQUIRE(from.size() == to.size());
  const auto at = bytes.find(from);
  REQUIRE(at != std::string::npos);
  return bytes.replace(at, from.size(), to);
}

TEST_CASE(
    "a later schema, other shapes and impossible formats are refused, each with the file's name") {
  const ScratchFolder folder;
  const auto model =
      round_to_nearest(test::small_model("llama"), Scheme::parse("W4A8-g32").value());
  const auto path = saved(folder, *model);
  const std::string good = read_file(path);
  struct Case {
    const char *from, *to;
    Errc code;
  };
  const Case cases[] = {
      {"\\\"schema\\\":3", "\\\"schema\\\":4", Errc::unknown_version},
      {"\\\"bits\\\":4", "\\\"bits\\\":9", Errc::malformed},
      {"\\\"bits\\\":4", "\\\"bits\\\":7", Errc::malformed},
      {"\\\"bits\\\":4", "\\\"bits\\\":8", Errc::wrong_shape},
      {"\\\"rows\\\":64", "\\\"rows\\\":65", Errc::wrong_shape},
      {"\\\"group\\\":32", "\\\"group\\\":33", Errc::malformed},
      {"\\\"layout\\\":\\\"panel16\\\"", "\\\"layout\\\":\\\"panel17\\\"", Errc::unsupported},
      {"\\\"scale\\\":\\\"f16\\\"", "\\\"scale\\\":\\\"f17\\\"", Errc::malformed},
      {"\\\"rope_factors\\\":[]", "\\\"rope_factors\\\":{}", Errc::malformed},
      {"W4A8-g32-head16", "W4A8-g33-head16", Errc::bad_scheme},
      {"\"bisup\"", "\"bosup\"", Errc::missing},
      {"\"config.json\"", "\"confug.json\"", Errc::missing},
      {"\"model.norm.weight\"", "\"model.narm.weight\"", Errc::missing},
      {"\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2", Errc::malformed},
      {"\"vocab_size\": 128", "\"vocab_size\": 129", Errc::wrong_shape},
  };
  for (const auto& c : cases) {
    INFO(c.from << " -> " << c.to);
    write_file(path, altered(good, c.from, c.to));
    const auto loaded = io::load_artefact(path);
    REQUIRE_FALSE(loaded);
    CHECK(loaded.error().code == c.code);
    CHECK(loaded.error().where == path.string());
  }
}

// A file's header and what follows it, so that a test can change the one and write both again.
struct Parts {
  io::Json header;
  std::string payload;

  explicit Parts(const std::string& bytes) {
    std::uint64_t size = 0;
    std::memcpy(&size, bytes.data(), sizeof size);
    header = io::Json::parse(bytes.substr(8, size));
    payload = bytes.substr(8 + size);
  }
  [[nodiscard]] io::Json description() const {
    return io::Json::parse(header["__metadata__"]["bisup"].get<std::string>());
  }
  [[nodiscard]] std::string with(const std::string& text) const {
    Parts changed = *this;
    changed.header["__metadata__"]["bisup"] = text;
    return changed.bytes();
  }
  [[nodiscard]] std::string bytes() const {
    std::string text = header.dump();
    text.resize((8 + text.size() + 63) / 64 * 64 - 8, ' ');
    const std::uint64_t size = text.size();
    return std::string(reinterpret_cast<const char*>(&size), sizeof size) + text + payload;
  }
};

struct Hostile {
  std::string what, bytes;
  Errc code;
};

std::vector<Hostile> hostile_artefacts(const std::string& good) {
  using io::Json;
  const Parts parts(good);
  const Json description = parts.description();
  const std::string linear = "model.layers.1.mlp.up_proj";
  std::vector<Hostile> files;
  const auto text = [&](const std::string& what, const std::string& changed, Errc code) {
    files.push_back({what, parts.with(changed), code});
  };
  // The value at a pointer into the description replaced, or removed if there is none.
  const auto set = [&](const std::string& at, const std::optional<Json>& value, Errc code) {
    Json d = description;
    const Json::json_pointer pointer(at);
    if (value) {
      d[pointer] = *value;
    } else {
      d[pointer.parent_pointer()].erase(pointer.back());
    }
    text(at + " = " + (value ? value->dump() : "nothing"), d.dump(), code);
  };
  const auto header = [&](const std::string& what, auto&& change, Errc code) {
    Parts changed = parts;
    change(changed.header);
    files.push_back({what, changed.bytes(), code});
  };
  const auto malformed = Errc::malformed, missing = Errc::missing, shape = Errc::wrong_shape;

  text("an empty description", "", malformed);
  text("a description that is not JSON", "bisup", malformed);
  text("a description cut off", description.dump().substr(0, 200), malformed);
  text("a description that is a list", "[]", malformed);
  text("a description that is null", "null", malformed);
  text("an empty object", "{}", malformed);
  text("deep nesting", std::string(100'000, '['), malformed);
  text("a key twice", R"({"schema":1,"schema":1})", malformed);
  set("/schema", std::nullopt, malformed);
  for (const Json& value : {Json("1"), Json(1.5), Json()}) set("/schema", value, malformed);
  for (const Json& value : {Json(0), Json(io::artefact_schema + 1), Json(-1)})
    set("/schema", value, Errc::unknown_version);
  for (const char* key : {"/scheme", "/recipe", "/float_weights"}) {
    set(key, std::nullopt, malformed);
    set(key, 4, malformed);
  }
  set("/scheme", "W4", Errc::bad_scheme);
  for (const char* key : {"/packed", "/inputs", "/head_input"}) set(key, std::nullopt, malformed);
  set("/packed", Json::array(), malformed);
  set("/packed", Json::object(), missing);  // then the weights would be floats, which it has not
  set("/inputs", Json::object(), malformed);
  set("/inputs", Json::array(), malformed);
  set("/inputs/3", description["inputs"][0], malformed);
  set("/inputs/1", Json(), malformed);
  set("/inputs/1/mlp", std::nullopt, malformed);
  for (const Json& value : {Json(4), Json::object(), Json::array()})
    set("/inputs/1/mlp", value, malformed);
  for (const Json& bits : {Json(1), Json(9), Json("8"), Json(1ull << 40)})
    set("/inputs/1/mlp/bits", bits, malformed);
  for (const Json& group : {Json(31), Json(-32), Json(64)})
    set("/inputs/1/mlp/group", group, malformed);
  set("/inputs/1/mlp/token_scales", 1, malformed);
  for (const Json& clip : {Json(0), Json(2.0), Json("1"), Json()})
    set("/inputs/1/mlp/clip", clip, malformed);
  set("/head_input", 8, malformed);
  const std::string packed = "/packed/" + linear;
  set(packed, std::nullopt, missing);
  for (const Json& value : {Json(), Json(4), Json::array(), Json::object()})
    set(packed, value, malformed);
  for (const Json& rows : {Json(0), Json(-1), Json(1ull << 40), Json("64")})
    set(packed + "/rows", rows, malformed);
  set(packed + "/rows", 65, shape);
  set(packed + "/cols", std::nullopt, malformed);
  set(packed + "/cols", 32, shape);
  for (const Json& bits : {Json(0), Json(1), Json(7), Json(9), Json(4.5)})
    set(packed + "/bits", bits, malformed);
  set(packed + "/bits", 3, shape);
  for (const Json& group : {Json(33), Json(-32), Json(1 << 30)})
    set(packed + "/group", group, malformed);
  set(packed + "/affine", std::nullopt, malformed);
  set(packed + "/affine", 1, malformed);
  set(packed + "/affine", true, missing);  // zero points that are not there
  set(packed + "/scale", "e8m0", malformed);
  set(packed + "/scale", "f32", shape);
  for (const Json& layout : {Json(), Json("planar")})
    set(packed + "/layout", layout, Errc::unsupported);
  set("/rope_factors", "1", malformed);
  set("/rope_factors", Json::array({1.0, "2"}), malformed);
  header(
      "no description", [](Json& h) { h["__metadata__"].erase("bisup"); }, missing);
  for (const char* part : {".codes", ".scales"}) {
    header(
        "another name for " + linear + part,
        [&](Json& h) {
          h["x"] = h[linear + part];
          h.erase(linear + part);
        },
        missing);
  }
  header(
      "codes of another type", [&](Json& h) { h[linear + ".codes"]["dtype"] = "I8"; }, shape);
  header(
      "codes with two extents",
      [&](Json& h) {
        h[linear + ".codes"]["shape"] = {2, h[linear + ".codes"]["shape"][0].get<int>() / 2};
      },
      shape);
  header(
      "a norm of another type", [](Json& h) { h["model.norm.weight"]["dtype"] = "U32"; },
      Errc::unsupported);
  header(
      "embeddings turned round",
      [](Json& h) {
        auto& s = h["model.embed_tokens.weight"]["shape"];
        std::swap(s[0], s[1]);
      },
      shape);
  return files;
}

TEST_CASE("a hostile artefact is an error that names it") {
  const ScratchFolder folder;
  const auto model =
      round_to_nearest(test::small_model("llama"), Scheme::parse("W4A8-g32").value());
  const auto path = saved(folder, *model);
  const std::string good = read_file(path);
  write_file(path, Parts(good).bytes());
  REQUIRE(io::load_artefact(path));  // taking it apart changes nothing
  const auto files = hostile_artefacts(good);
  CHECK(files.size() >= 80);
  for (const auto& [what, bytes, code] : files) {
    INFO(what);
    write_file(path, bytes);
    const auto loaded = io::load_artefact(path);
    REQUIRE_FALSE(loaded);
    CHECK(name(loaded.error().code) == std::string(name(code)));
    CHECK(loaded.error().where == path.string());
    CHECK_FALSE(loaded.error().message.empty());
    CHECK(loaded.error().message.size() < 500);
  }
}

TEST_CASE("checksums that are missing or no numbers fail verification, not loading") {
  const ScratchFolder folder;
  const auto model =
      round_to_nearest(test::small_model("llama"), Scheme::parse("W4A8-g32").value());
  const auto path = saved(folder, *model);
  const Parts parts(read_file(path));
  using io::Json;
  for (const Json& sums :
       {Json(), Json::array(), Json::object(), Json{{"model.norm.weight", "7"}}}) {
    Json description = parts.description();
    description["crc32c"] = sums;
    write_file(path, parts.with(description.dump()));
    const auto loaded = io::load_artefact(path);
    REQUIRE(loaded);
    CHECK_FALSE(io::verify_artefact(*loaded));
  }
}

TEST_CASE(
    "truncated anywhere, or with random bytes changed, it is an error or a model, never a crash") {
  const ScratchFolder folder;
  const auto model =
      round_to_nearest(test::small_model("llama"), Scheme::parse("W4A8-g32").value());
  const auto path = saved(folder, *model);
  const std::string good = read_file(path);
  Random random(5);
  for (int i = 0; i < 60; ++i) {
    write_file(path,
               good.substr(0, i < 20 ? static_cast<std::size_t>(i)
                                     : random.below(static_cast<std::uint32_t>(good.size()))));
    const auto loaded = io::load_artefact(path);
    REQUIRE_FALSE(loaded);
    CHECK(loaded.error().where == path.string());
  }
  int refused = 0;
  for (int i = 0; i < 200; ++i) {
    std::string bytes = good;
    for (int k = 0; k < 3; ++k) bytes[random.below(12000)] = static_cast<char>(random.bits());
    write_file(path, bytes);
    const auto loaded = io::load_artefact(path);
    refused += loaded ? 0 : 1;
    if (loaded) (void)io::verify_artefact(*loaded);
  }
  CHECK(refused > 100);  // most of the first 12,000 bytes are header
}

TEST_CASE("keepers that are not of 8 bits with one scale a row are refused") {
  // The body's 4 bits under the name of the keepers, which are as wide: a file without a fault.
  const ScratchFolder folder;
  const llama::Model model = with_everything();
  const std::string linear = "model.layers.1.mlp.up_proj";
  REQUIRE(model.blocks[1].up.keepers()->cols() * 2 == model.blocks[1].up.in());
  const auto path = saved(folder, model);
  Parts parts(read_file(path));
  io::Json description = parts.description();
  std::swap(description["packed"][linear], description["packed"][linear + ".keepers"]);
  for (const char* part : {".codes", ".scales"})
    std::swap(parts.header[linear + part], parts.header[linear + ".keepers" + part]);
  write_file(path, parts.with(description.dump()));
  const auto refused = io::load_artefact(path);
  REQUIRE_FALSE(refused);
  CHECK(name(refused.error().code) == std::string("unsupported"));
  CHECK(refused.error().message.find(linear) != std::string::npos);
}

}  // namespace
