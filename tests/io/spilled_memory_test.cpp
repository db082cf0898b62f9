// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/io/spilled_memory.hpp>

#include <bisup_test.hpp>
#include "scratch_folder.hpp"

namespace {

using namespace bisup;

TEST_CASE("spilled streams hold what is written, and leave no file") {
  const ScratchFolder folder;
  const StreamMemory memory = io::spilled_memory(folder.path());
  {
    auto a = Stream::allocate({7, 300}, 96, DType::f32, memory), b = Stream::allocate({2}, 96, DType::bf16, memory);
    REQUIRE(a);
    REQUIRE(b);
    CHECK(folder.files() == 0);
    Matrix<float> x(300, 96), y;
    for (int t = 0; t < 300; ++t) {
      for (int c = 0; c < 96; ++c) x(t, c) = static_cast<float>(96 * t + c);
    }
    a->write(1, x.ref());
    b->write(0, x.ref().rows(0, 2));
    a->read(1, y);
    CHECK(std::equal(x.data(), x.data() + 300 * 96, y.data()));
    a->read(0, y);
    CHECK(std::all_of(y.data(), y.data() + 7 * 96, [](float v) { return v == 0; }));
  }
  CHECK(folder.files() == 0);
}

TEST_CASE("a folder that is not there and a disk that is too small are errors") {
  const ScratchFolder folder;
  const auto nowhere = io::spilled_memory(folder.path() / "absent")(100);
  REQUIRE_FALSE(nowhere);
  CHECK(nowhere.error().code == Errc::cannot_write);
  CHECK(nowhere.error().where == (folder.path() / "absent").string());
#ifdef __linux__
  const auto huge = io::spilled_memory(folder.path())(std::size_t{1} << 60);
  REQUIRE_FALSE(huge);
  CHECK(huge.error().code == Errc::cannot_write);
  CHECK(folder.files() == 0);
#endif
}

}  // namespace
