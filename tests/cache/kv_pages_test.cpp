// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/cache/kv_pages.hpp>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

TEST_CASE("a page goes back when its last holder lets go") {
  KvPages pages(2, 64);
  CHECK(pages.bytes() == 128);
  std::byte* a = pages.take();
  CHECK(pages.in_use() == 1);
  pages.hold(a);
  CHECK(pages.shared(a));
  pages.drop(a);
  CHECK_FALSE(pages.shared(a));
  CHECK(pages.available() == 1);
  std::byte* gone = a;
  pages.release(a);
  CHECK(a == nullptr);
  CHECK(pages.available() == 2);
  CHECK_THROWS_AS(pages.drop(gone), ContractViolation);
  pages.release(a);  // nothing
}

TEST_CASE("who writes to a shared page writes to a copy") {
  KvPages pages(2, 64);
  std::byte* mine = nullptr;
  pages.own(mine);
  mine[3] = std::byte{7};
  std::byte* yours = mine;
  pages.hold(yours);
  pages.own(yours);
  CHECK(yours != mine);
  CHECK(yours[3] == std::byte{7});
  yours[3] = std::byte{8};
  CHECK(mine[3] == std::byte{7});
  std::byte* before = mine;
  pages.own(mine);  // it is mine alone already
  CHECK(mine == before);
  CHECK(pages.available() == 0);
  CHECK_THROWS_AS(pages.take(), ContractViolation);
}

}  // namespace
