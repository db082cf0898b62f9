// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/evaluate/windows.hpp>
#include <cmath>
#include <vector>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

TEST_CASE("windows do not overlap, the rest is dropped, and min(2048, positions) is the default") {
  std::vector<int> ids(1000);
  for (int i = 0; i < 1000; ++i) ids[static_cast<std::size_t>(i)] = i;
  const auto windows = cut_windows(ids.size(), 512, {.context = 300});
  REQUIRE(windows);
  CHECK(windows->count == 3);
  CHECK(windows->at(ids, 2).front() == 600);
  CHECK(windows->at(ids, 2).size() == 300);
  CHECK(cut_windows(9000, 8192, {})->context == 2048);
  CHECK(cut_windows(9000, 512, {})->context == 512);
  CHECK(cut_windows(9000, 8192, {.windows = 2})->count == 2);
  CHECK(cut_windows(9000, 8192, {.windows = 20})->count == 4);
}

TEST_CASE(
    "less than a window, or a window the model cannot hold, is an error that says the numbers") {
  const auto short_text = cut_windows(511, 512, {});
  REQUIRE_FALSE(short_text);
  CHECK(short_text.error().code == Errc::too_short);
  CHECK(short_text.error().message.find("511") != std::string::npos);
  CHECK(cut_windows(0, 512, {}).error().code == Errc::too_short);
  CHECK(cut_windows(9000, 512, {.context = 513}).error().code == Errc::out_of_range);
  CHECK(cut_windows(9000, 512, {.context = 1}).error().code == Errc::out_of_range);
}

TEST_CASE("scoring from a position leaves the end of a window, and never nothing") {
  const auto windows = cut_windows(9000, 512, {.score_from = 256});
  REQUIRE(windows);
  CHECK(windows->scored(512) == 255);  // as llama.cpp scores windows
  CHECK(windows->scored(500) == 255);  // a prompt's tokens are left out at the front
  CHECK(windows->scored(100) == 99);
  CHECK(cut_windows(9000, 512, {})->scored(512) == 511);
  CHECK(cut_windows(9000, 512, {.score_from = 510})->scored(512) == 1);
  CHECK(cut_windows(9000, 512, {.score_from = 511}).error().code == Errc::out_of_range);
  CHECK(cut_windows(9000, 512, {.score_from = -1}).error().code == Errc::out_of_range);
}

TEST_CASE("the standard error is the deviation of window means over the root of their number") {
  const std::vector<double> means = {1, 2, 6};
  const auto m = mean_of_windows(means);
  CHECK(m.mean == Approx(3).epsilon(1e-15));
  CHECK(m.standard_error == Approx(std::sqrt((4.0 + 1 + 9) / 2 / 3)).epsilon(1e-15));
  CHECK(std::isnan(mean_of_windows(std::vector<double>{1}).standard_error));
}

TEST_CASE("log sum exp does not overflow and ignores what is far below") {
  CHECK(log_sum_exp(std::vector<float>{1000, 1000}) == Approx(1000 + std::log(2)).epsilon(1e-7));
  CHECK(log_sum_exp(std::vector<float>{0, 1, 2}) ==
        Approx(2 + std::log(1 + std::exp(-1) + std::exp(-2))).epsilon(1e-7));
  CHECK(log_sum_exp(std::vector<float>{-1000, 5}) == 5);
}

}  // namespace
