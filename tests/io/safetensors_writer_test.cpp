// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/io/safetensors_writer.hpp>

#include <algorithm>
#include <string>
#include <vector>

#include <bisup/core/random.hpp>
#include <bisup/io/safetensors.hpp>
#include <bisup_test.hpp>

#include "scratch_folder.hpp"

namespace {

using namespace bisup;
using namespace bisup::io;

struct Samples {
  std::vector<std::vector<std::byte>> storage;
  std::vector<Tensor> tensors;

  void add(std::string name, ElementType type, std::vector<std::int64_t> shape, Random& random) {
    storage.emplace_back(byte_count(shape, bytes_of(type)).value());
    for (std::byte& byte : storage.back()) byte = static_cast<std::byte>(random.bits());
    tensors.push_back({std::move(name), type, std::move(shape), storage.back()});
  }
};

Samples samples() {
  Random random(3);
  Samples made;
  made.storage.reserve(8);
  made.add("odd", ElementType::u8, {37}, random);
  made.add("codes", ElementType::u8, {4, 64}, random);
  made.add("scales", ElementType::f16, {4, 3}, random);
  made.add("scalar", ElementType::f64, {}, random);
  made.add("empty", ElementType::f32, {0, 5}, random);
  made.add("float", ElementType::f32, {3, 3}, random);
  made.add("large", ElementType::bf16, {1000, 32}, random);
  return made;
}

void check_equal(const Safetensors& file, const Samples& expected) {
  REQUIRE(file.tensors().size() == expected.tensors.size());
  for (const Tensor& tensor : expected.tensors) {
    const Tensor* read = file.find(tensor.name);
    REQUIRE(read != nullptr);
    CHECK(read->type == tensor.type);
    CHECK(read->shape == tensor.shape);
    CHECK(std::ranges::equal(read->bytes, tensor.bytes));
  }
}

TEST_CASE("what is written is read back, byte for byte") {
  const ScratchFolder folder;
  const auto path = folder.path() / "out.safetensors";
  const auto expected = samples();
  const std::map<std::string, std::string> metadata = {{"recipe", "{\"a\":\"\\n\"}"},
                                                       {"quote\"", "\xc3\xa9"}};
  REQUIRE(write_safetensors(path, expected.tensors, metadata));
  const auto file = Safetensors::open(path);
  REQUIRE(file);
  check_equal(*file, expected);
  CHECK(file->metadata() == metadata);
  CHECK(folder.files() == 1);
}

TEST_CASE("tensors arrive in pieces and in any order") {
  const ScratchFolder folder;
  const auto path = folder.path() / "out.safetensors";
  const auto expected = samples();
  auto writer = SafetensorsWriter::create(path, expected.tensors);
  REQUIRE(writer);
  for (std::size_t round = 0, left = 1; left > 0; ++round) {
    left = 0;
    for (auto tensor = expected.tensors.rbegin(); tensor != expected.tensors.rend(); ++tensor) {
      const std::size_t first = std::min(round * 1000, tensor->bytes.size());
      const std::size_t count = std::min<std::size_t>(1000, tensor->bytes.size() - first);
      REQUIRE(writer->write(tensor->name, tensor->bytes.subspan(first, count)));
      left += count;
    }
  }
  CHECK_FALSE(std::filesystem::exists(path));
  REQUIRE(writer->commit());
  const auto file = Safetensors::open(path);
  REQUIRE(file);
  check_equal(*file, expected);
}

TEST_CASE("data begins at a cache line and every element at its own size") {
  const ScratchFolder folder;
  const auto path = folder.path() / "out.safetensors";
  for (int length = 0; length < 70; ++length) {  // whatever the header's length
    const auto expected = samples();
    REQUIRE(write_safetensors(path, expected.tensors,
                              {{"k", std::string(static_cast<std::size_t>(length), 'x')}}));
    const auto file = Safetensors::open(path);
    REQUIRE(file);
    for (const Tensor& tensor : file->tensors()) {
      const auto offset =
          static_cast<std::size_t>(tensor.bytes.data() - file->file()->bytes().data());
      INFO(tensor.name << " at " << offset);
      CHECK(offset % bytes_of(tensor.type) == 0);
      if (tensor.bytes.size() % 64 == 0) CHECK(offset % 64 == 0);
    }
  }
}

TEST_CASE("the same tensors make the same file") {
  const ScratchFolder folder;
  const auto expected = samples();
  REQUIRE(write_safetensors(folder.path() / "one", expected.tensors, {{"b", "1"}, {"a", "2"}}));
  REQUIRE(write_safetensors(folder.path() / "two", expected.tensors, {{"a", "2"}, {"b", "1"}}));
  CHECK(folder.read("one") == folder.read("two"));
}

TEST_CASE("a caller who promises and does not deliver breaks the contract") {
  const ScratchFolder folder;
  const auto path = folder.path() / "out.safetensors";
  const auto expected = samples();
  {
    auto writer = SafetensorsWriter::create(path, expected.tensors);
    REQUIRE(writer);
    CHECK_THROWS_AS(writer->write("unknown", {}), ContractViolation);
    CHECK_THROWS_AS(writer->write("odd", expected.tensors[1].bytes), ContractViolation);
    CHECK_THROWS_AS(writer->commit(), ContractViolation);
  }
  CHECK(folder.files() == 0);
  const std::vector<Tensor> twice = {expected.tensors[0], expected.tensors[0]};
  CHECK_THROWS_AS(SafetensorsWriter::create(path, twice), ContractViolation);
}

TEST_CASE("a writer that is dropped leaves the old file") {
  const ScratchFolder folder;
  folder.write("out.safetensors", "old");
  const auto expected = samples();
  {
    auto writer = SafetensorsWriter::create(folder.path() / "out.safetensors", expected.tensors);
    REQUIRE((writer && writer->write("codes", expected.tensors[1].bytes)));
  }
  CHECK(folder.read("out.safetensors") == "old");
  CHECK(folder.files() == 1);
}

}  // namespace
