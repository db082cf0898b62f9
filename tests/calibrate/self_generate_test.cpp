// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bisup/calibrate/self_generate.hpp>
#include <bisup/llama/session.hpp>
#include <limits>
#include <set>

#include <bisup_test.hpp>
#include <calibrate/tiny_llama.hpp>

namespace {

using namespace bisup;

llama::Model tiny_model() {
  return llama::read_model(test::tiny_source()).value();
}

TEST_CASE("sequences have their lengths, and a seed gives them again") {
  const auto model = tiny_model();
  const SelfGenerateOptions options{.sequences = 3, .length = 24, .seed = 5};
  ThreadPool one(1), two(2);
  const auto ids = self_generate(model, options, one);
  REQUIRE(ids);
  CHECK(ids->size() == 3 * 24);
  CHECK(*ids == *self_generate(model, options, two));
  CHECK(*ids != *self_generate(model, {.sequences = 3, .length = 24, .seed = 6}));
  for (const int id : *ids) CHECK((id >= 0 && id < model.config.vocab_size));
  CHECK(std::set<int>{(*ids)[0], (*ids)[24], (*ids)[48]}.size() > 1);
}

TEST_CASE("what is written does not depend on how many are written at once") {
  const auto model = tiny_model();
  SelfGenerateOptions options{.sequences = 5, .length = 16, .together = 1, .seed = 7};
  const auto alone = self_generate(model, options);
  REQUIRE(alone);
  std::vector<long> written;
  options.together = 3;
  options.progress = [&](long done, long all) {
    CHECK(all == 80);
    written.push_back(done);
    return true;
  };
  CHECK(*self_generate(model, options) == *alone);
  REQUIRE(written.size() == 32);  // steps of 3 and of 2
  CHECK((written[0] == 3 && written[15] == 48 && written[16] == 50 && written.back() == 80));
}

TEST_CASE("each text begins anywhere, goes on greedily for a few tokens and is then sampled") {
  auto model = tiny_model();
  // Texts that end often: at every fourth token of the vocabulary.
  model.config.eos_ids.clear();
  for (int id = 0; id < model.config.vocab_size; id += 4) model.config.eos_ids.push_back(id);
  const int length = 100, greedy = 3;
  const auto ids =
      self_generate(model, {.sequences = 1, .length = length, .greedy = greedy, .seed = 1});
  REQUIRE(ids);
  auto session = llama::Session::make(model, length).value();
  int texts = 1, sampled = 0;
  for (int t = 0, since = 0; t + 1 < length; ++t) {
    const int id = (*ids)[static_cast<std::size_t>(t)],
              next = (*ids)[static_cast<std::size_t>(t + 1)];
    const auto logits = session.next_logits(std::span(&id, 1));
    if (id % 4 == 0) {
      ++texts, since = 0;
      continue;
    }
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    INFO("token " << t << ", " << since << " after the first");
    if (since++ < greedy) {
      REQUIRE(next == static_cast<int>(best));
    } else {
      sampled += next != static_cast<int>(best);
    }
  }
  CHECK(texts > 3);
  CHECK(sampled > 0);
}

TEST_CASE("a stopped and a broken model are errors") {
  auto model = tiny_model();
  const auto stopped =
      self_generate(model, {.sequences = 3, .length = 4, .progress = [](long done, long all) {
                              CHECK(all == 12);
                              return done < 7;
                            }});
  REQUIRE_FALSE(stopped);
  CHECK(stopped.error().code == Errc::interrupted);
  model.final_norm.assign(model.final_norm.size(), std::numeric_limits<float>::quiet_NaN());
  const auto broken = self_generate(model, {.sequences = 1, .length = 4});
  REQUIRE_FALSE(broken);
  CHECK(broken.error().code == Errc::not_finite);
}

}  // namespace
