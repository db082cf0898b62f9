// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bisup/calibrate/samples.hpp>
#include <numeric>
#include <set>

#include <bisup_test.hpp>

namespace {

using namespace bisup;

// A text whose ids are their own places.
std::vector<int> places(int count) {
  std::vector<int> ids(static_cast<std::size_t>(count));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

TEST_CASE("crops are pieces of the text, and none crosses the split") {
  for (const int size : {120, 121, 999, 5000}) {
    const int split = size - static_cast<int>(0.15 * size);
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      const auto samples =
          cut_samples(places(size), size, {.samples = 24, .length = 60, .seed = seed});
      REQUIRE(samples);
      REQUIRE(samples->crops.size() == 24);
      REQUIRE(samples->held_out.size() == 4);
      REQUIRE(samples->tokens() == 24 * 60);
      for (const auto* part : {&samples->crops, &samples->held_out}) {
        for (const auto& crop : *part) {
          for (std::size_t i = 1; i < crop.size(); ++i) REQUIRE(crop[i] == crop[i - 1] + 1);
        }
      }
      for (const auto& crop : samples->crops) REQUIRE((crop.size() == 60 && crop.back() < split));
      for (const auto& crop : samples->held_out)
        REQUIRE((crop.size() <= 60 && crop.front() >= split));
    }
  }
}

TEST_CASE("every place of a part can begin a crop") {
  const auto samples = cut_samples(places(120), 120, {.samples = 3000, .length = 17});
  REQUIRE(samples);
  std::set<int> seen;
  for (const auto& crop : samples->crops) seen.insert(crop.front());
  CHECK(seen.size() == 102 - 17 + 1);
  CHECK(samples->held_out.size() == 8);
}

TEST_CASE("crops of a text that is as long leave nothing of it unread") {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    const auto samples =
        cut_samples(places(2400), 2400, {.samples = 34, .length = 60, .seed = seed});
    REQUIRE(samples);
    std::set<int> read;
    int forward = 0;
    for (std::size_t i = 0; i < samples->crops.size(); ++i) {
      read.insert(samples->crops[i].begin(), samples->crops[i].end());
      forward += i > 0 && samples->crops[i].front() > samples->crops[i - 1].front();
    }
    // 34 x 60 = 2040 = 85 % of 2400: 34 crops begin 1981 / 34 < 60 apart, so that only what is
    // before the first and behind the last, 59 tokens at most, is left out.
    CHECK(read.size() >= 2040 - 59);
    CHECK(forward < 30);  // of 33, in any order; 16.5 on average, standard deviation 1.7
  }
}

TEST_CASE("the end-to-end stage has what lies between all other crops") {
  const auto text = places(2400);
  // Crops of 60 tokens lie at least 198 apart before the split, at 2040 tokens, and 360 behind it
  // hold one held-out crop.
  for (const int longest : {60, 100, 5000}) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      const SampleOptions options{.samples = 10,
                                  .length = 60,
                                  .end_to_end = 2400,
                                  .end_to_end_length = longest,
                                  .seed = seed};
      const auto samples = cut_samples(text, 2400, options);
      const auto without = cut_samples(text, 2400, {.samples = 10, .length = 60, .seed = seed});
      REQUIRE((samples && without));
      CHECK(samples->crops == without->crops);
      CHECK(samples->held_out == without->held_out);
      std::vector<int> lengths;
      std::set<int> read;
      long tokens = 0;
      for (const auto* part : {&samples->crops, &samples->held_out, &samples->end_to_end}) {
        for (const auto& crop : *part) {
          REQUIRE(crop.back() - crop.front() == static_cast<int>(crop.size()) - 1);
          CHECK((crop.front() >= 2040 || crop.back() < 2040));
          read.insert(crop.begin(), crop.end());
          tokens += static_cast<long>(crop.size());
        }
      }
      for (const auto& crop : samples->end_to_end) {
        lengths.push_back(static_cast<int>(crop.size()));
        REQUIRE((lengths.back() >= 60 && lengths.back() <= longest));
      }
      CHECK(lengths == end_to_end_lengths(2400, options));
      CHECK(static_cast<long>(read.size()) == tokens);  // no token twice
      CHECK(samples->end_to_end_tokens() == tokens - 11 * 60);
      // Each of the 11 + 2 gaps leaves out less than the shortest crop.
      CHECK(tokens > 2400 - 13 * 60);
      CHECK(samples->tokens() == 600);
      // No gap between crops that begin 198 or 199 apart is longer than 139.
      if (longest == 5000) CHECK(*std::max_element(lengths.begin(), lengths.end()) >= 137);
    }
  }
}

TEST_CASE("the end-to-end stage has about as many tokens as are wanted and of the whole text") {
  for (const int wanted : {0, 60, 300, 700}) {
    const SampleOptions options{.samples = 10, .length = 60, .end_to_end = wanted};
    const auto samples = cut_samples(places(2400), 2400, options);
    REQUIRE(samples);
    CHECK(ssize(samples->end_to_end) == ssize(end_to_end_lengths(2400, options)));
    const long tokens = samples->end_to_end_tokens();
    if (wanted == 0) CHECK(tokens == 0);
    if (wanted == 60) CHECK(samples->end_to_end.size() == 1);
    if (wanted < 300) continue;
    // A whole number of crops that have 60 to 300 tokens, 138 most of them.
    CHECK((tokens > wanted - 300 && tokens < wanted + 300));
    CHECK((samples->end_to_end.front().front() < 800 && samples->end_to_end.back().front() > 1000));
  }
}

TEST_CASE("a text of little more than its samples has hardly anything between them") {
  // 34 samples overlap already, and 5 of 6 places behind the split are held out.
  int between = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const SampleOptions options{.samples = 34, .length = 60, .end_to_end = 3000, .seed = seed};
    const auto few = cut_samples(places(2400), 2400, options);
    REQUIRE(few);
    REQUIRE(few->end_to_end.size() <= 1);
    between += static_cast<int>(few->end_to_end.size());
  }
  CHECK(between < 100);
  // Where the held-out part is shorter than a crop, nothing lies between.
  const SampleOptions options{.samples = 1, .length = 170, .end_to_end = 900};
  const auto least = cut_samples(places(200), 200, options);
  REQUIRE(least);
  CHECK((least->end_to_end.empty() && end_to_end_lengths(200, options).empty()));
  CHECK(end_to_end_lengths(0, options).empty());
}

TEST_CASE("a seed gives its crops again, another one others") {
  const auto text = places(4000);
  const auto a = cut_samples(text, 4000, {.samples = 12, .length = 64, .seed = 1}),
             b = cut_samples(text, 4000, {.samples = 12, .length = 64, .seed = 1}),
             c = cut_samples(text, 4000, {.samples = 12, .length = 64, .seed = 2});
  CHECK(a->crops == b->crops);
  CHECK(a->held_out == b->held_out);
  CHECK(a->crops != c->crops);
}

TEST_CASE("held-out crops of a short text are as long as its last part") {
  const auto samples = cut_samples(places(200), 200, {.samples = 1, .length = 100});
  REQUIRE(samples);
  CHECK(samples->held_out.size() == 1);
  CHECK(samples->held_out.front().size() == 30);
}

TEST_CASE("a text without room for a crop and ids outside the vocabulary are errors") {
  for (const int size : {0, 1, 59, 70, 105}) {  // 60 / 0.85 = 70.6; 15 % of 105 are 15 < 16 tokens
    const auto samples = cut_samples(places(size), 4000, {.samples = 2, .length = 60});
    REQUIRE_FALSE(samples);
    CHECK(samples.error().code == Errc::too_short);
    CHECK(samples.error().message.find(std::to_string(size) + " tokens") != std::string::npos);
  }
  CHECK(cut_samples(places(107), 4000, {.samples = 2, .length = 60}));
  for (const int id : {-1, 300}) {
    auto ids = places(300);
    ids[7] = id;
    const auto samples = cut_samples(ids, 300, {.samples = 2, .length = 60});
    REQUIRE_FALSE(samples);
    CHECK(samples.error().code == Errc::out_of_range);
  }
}

TEST_CASE("whole sequences are samples, the last of them held out") {
  const auto samples = whole_samples(places(50), 10, 2);
  REQUIRE(samples.crops.size() == 3);
  REQUIRE(samples.held_out.size() == 2);
  for (int i = 0; i < 5; ++i) {
    const auto& sample = i < 3 ? samples.crops[static_cast<std::size_t>(i)]
                               : samples.held_out[static_cast<std::size_t>(i - 3)];
    CHECK((sample.size() == 10 && sample.front() == 10 * i && sample.back() == 10 * i + 9));
  }
  CHECK_THROWS_AS(whole_samples(places(50), 10, 5), ContractViolation);
  CHECK_THROWS_AS(whole_samples(places(49), 10, 2), ContractViolation);
}

TEST_CASE("mixed samples are those of both, in an order that the seed says") {
  Samples one, other;
  for (int i = 0; i < 20; ++i) one.crops.push_back({i, i}), other.crops.push_back({100 + i, i});
  one.held_out = {{1, 2}}, other.held_out = {{3, 4}, {5, 6}};
  const Samples both = mixed(one, other, 4);
  auto all = one.crops;
  all.insert(all.end(), other.crops.begin(), other.crops.end());
  CHECK(both.crops != all);
  CHECK(both.crops == mixed(one, other, 4).crops);
  CHECK(both.crops != mixed(one, other, 5).crops);
  // 20 of 40 taken by chance have 10 +- 1.6 of the one.
  const auto half = std::count_if(both.crops.begin(), both.crops.begin() + 20,
                                  [](const auto& c) { return c[0] < 100; });
  CHECK((half > 2 && half < 18));
  auto sorted = both.crops;
  std::sort(sorted.begin(), sorted.end());
  std::sort(all.begin(), all.end());
  CHECK(sorted == all);
  CHECK(both.held_out.size() == 3);
}

TEST_CASE("crops behind a prompt do not say again what it says") {
  const Samples samples{{{1, 7, 8, 9}, {7, 8, 9}}, {{1, 5}}, {{1, 7, 6}}};
  const std::vector<int> prompt = {1, 7};
  const Samples behind = after_prompt(samples, prompt, 1);
  CHECK(behind.crops == std::vector<std::vector<int>>{{8, 9}, {7, 8, 9}});
  CHECK(behind.held_out == std::vector<std::vector<int>>{{5}});
  CHECK(behind.end_to_end == std::vector<std::vector<int>>{{6}});
  CHECK(after_prompt(samples, prompt).held_out == samples.held_out);
  CHECK(after_prompt(samples, {}, 1).crops == samples.crops);
}

}  // namespace
