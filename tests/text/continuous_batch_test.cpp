// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/calibrate/random_model.hpp>
#include <bisup/llama/stored_prompt.hpp>
#include <bisup/text/continuous_batch.hpp>
#include <bisup/text/generate.hpp>
#include <bisup/text/tokenizer_json.hpp>
#include <bisup_test.hpp>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tiny_tokenizer.hpp"

namespace {

using namespace bisup;

// A model and what it answered to requests that were asked together.
struct Room {
  text::Tokenizer tokenizer =
      text::Tokenizer::from_json_text(tiny::byte_level().dump(), "tiny").value();
  llama::Model model;
  struct Heard {
    std::string shown;
    int done = 0;
    std::optional<Error> error = {};
    text::Reply reply = {};
  };
  std::map<int, Heard> heard;
  int listeners = 1000;  // those of higher numbers have left

  Room() {
    llama::Config c;
    c.hidden_size = 64, c.intermediate_size = 64, c.layers = 2, c.heads = 2, c.kv_heads = 1;
    c.head_dim = 64, c.vocab_size = tokenizer.vocab_size(), c.max_positions = 64;
    model = random_model(c, Scheme{}).value();
  }
  text::ContinuousBatch make(text::ContinuousBatchOptions options) {
    return text::ContinuousBatch::make(model, tokenizer, {}, options).value();
  }
  text::Request request(int number, std::vector<int> ids, int tokens = 8) {
    return {.ids = std::move(ids),
            .options = {.tokens = tokens},
            .emit =
                [this, number](std::string_view piece) {
                  heard[number].shown += piece;
                  return number < listeners;
                },
            .done =
                [this, number](Result<text::Reply> reply) {
                  Heard& mine = heard[number];
                  ++mine.done;
                  if (reply) mine.reply = std::move(reply).value();
                  if (!reply) mine.error = reply.error();
                }};
  }
  text::Generation alone(const std::vector<int>& ids, int tokens = 8) {
    auto session = llama::Session::make(model, 64, {});
    return text::generate(*session, ids, tokenizer, {.tokens = tokens},
                          [](std::string_view) { return true; })
        .value();
  }
};

std::vector<int> ids_of(int count, int seed) {
  std::vector<int> ids;
  for (int i = 0; i < count; ++i) ids.push_back(1 + (7 * i + 5 * seed) % 50);
  return ids;
}

TEST_CASE("requests that are answered together get the answers that each gets alone") {
  // Fewer at once than there are, and pieces that cut requests anywhere.
  for (const int piece : {1, 5, 256}) {
    Room room;
    auto batch = room.make({.capacity = 64, .together = 2, .kept = 1, .piece = piece});
    const int lengths[] = {1, 17, 3, 40, 2};
    for (int i = 0; i < 5; ++i) batch.add(room.request(i, ids_of(lengths[i], i), 3 + i));
    CHECK(batch.waiting() == 5);
    while (batch.step()) CHECK(batch.running() <= 2);
    for (int i = 0; i < 5; ++i) {
      CAPTURE(piece, i);
      const auto expected = room.alone(ids_of(lengths[i], i), 3 + i);
      const auto& heard = room.heard[i];
      CHECK(heard.done == 1);
      CHECK(heard.reply.generation.ids == expected.ids);
      CHECK(heard.reply.generation.finish == expected.finish);
      CHECK(heard.shown == room.tokenizer.decode(expected.ids));
    }
    CHECK_FALSE(batch.step());
  }
}

TEST_CASE("requests are answered behind the model's stored prompt") {
  Room room;
  ThreadPool pool(1);
  room.model.prompt = llama::store_prompt(room.model, ids_of(9, 2), DType::f32, pool).value();
  auto batch = room.make({.capacity = 20, .together = 2, .kept = 1, .piece = 4});
  for (int i = 0; i < 3; ++i) batch.add(room.request(i, ids_of(15, i), 40));
  while (batch.step()) {
  }
  for (int i = 0; i < 3; ++i)
    CHECK(room.heard[i].reply.generation.ids == room.alone(ids_of(15, i), 6).ids);
}

TEST_CASE("a long request does not hold up what is being said") {
  Room room;
  auto batch = room.make({.capacity = 64, .together = 2, .kept = 0, .piece = 4});
  batch.add(room.request(0, {1, 2}, 6));
  REQUIRE(batch.step());
  batch.add(room.request(1, ids_of(40, 1), 2));
  // A token each step, while the other reads four.
  for (int step = 0; step < 5; ++step) (void)batch.step();
  CHECK(room.heard[0].done == 1);
  CHECK(room.heard[0].reply.generation.ids.size() == 6);
  CHECK(room.heard[1].shown.empty());
  while (batch.step()) {
  }
  CHECK(room.heard[1].reply.generation.ids == room.alone(ids_of(40, 1), 2).ids);
}

TEST_CASE("a request goes on where an earlier one and its answer ended") {
  Room room;
  auto batch = room.make({.capacity = 64, .together = 1, .kept = 1});
  batch.add(room.request(0, ids_of(20, 3), 4));
  while (batch.step()) {
  }
  CHECK(room.heard[0].reply.known == 0);
  std::vector<int> next = ids_of(20, 3);
  const auto& said = room.heard[0].reply.generation.ids;
  next.insert(next.end(), said.begin(), said.end());
  next.push_back(9);
  batch.add(room.request(1, next, 4));
  while (batch.step()) {
  }
  CHECK(room.heard[1].reply.known == 23);  // all but the last token of the answer were read
  CHECK(room.heard[1].reply.generation.ids == room.alone(next, 4).ids);

  auto forgetful = room.make({.capacity = 64, .together = 1, .kept = 0});
  for (int i = 2; i < 4; ++i) {
    forgetful.add(room.request(i, ids_of(20, 3), 4));
    while (forgetful.step()) {
    }
    CHECK(room.heard[i].reply.known == 0);
  }
}

TEST_CASE("an answer that nobody waits for ends, before it is begun and while it is said") {
  Room room;
  auto batch = room.make({.capacity = 64, .together = 2, .kept = 0});
  for (int i = 0; i < 3; ++i) batch.add(room.request(i, ids_of(3, i), 20));
  REQUIRE(batch.step());
  room.listeners = 1;
  while (batch.step()) {
  }
  CHECK(room.heard[0].reply.generation.ids == room.alone(ids_of(3, 0), 20).ids);
  for (const int left : {1, 2}) {
    CHECK(room.heard[left].done == 1);
    CHECK(room.heard[left].reply.generation.finish == text::Finish::interrupted);
    CHECK(room.heard[left].reply.generation.ids.size() == (left == 1 ? 1 : 0));
  }
}

TEST_CASE("an answer ends where its context is full, and a request that does not fit is refused") {
  Room room;
  auto batch = room.make({.capacity = 12, .together = 3, .kept = 2});
  CHECK(batch.check(ids_of(12, 1)));
  CHECK(batch.check(ids_of(13, 1)).error().code == Errc::cache_full);
  CHECK(batch.check(std::vector<int>{1, room.model.config.vocab_size}).error().code ==
        Errc::out_of_range);
  CHECK(batch.check({}).error().code == Errc::too_short);
  CHECK_THROWS_AS(batch.add(room.request(9, ids_of(13, 1))), ContractViolation);
  // Round after round fills every place: what is kept has to go.
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 3; ++i) batch.add(room.request(i, ids_of(10, 10 * round + i), 40));
    while (batch.step()) {
    }
    for (int i = 0; i < 3; ++i) {
      CHECK_FALSE(room.heard[i].error);
      // Two that fit behind ten, and one to show.
      CHECK(room.heard[i].reply.generation.ids == room.alone(ids_of(10, 10 * round + i), 3).ids);
    }
  }
}

TEST_CASE("a model that answers with no numbers fails the request, and others can be asked") {
  Room room;
  room.model.final_norm[5] = std::numeric_limits<float>::quiet_NaN();
  auto batch = room.make({.capacity = 64, .together = 1, .kept = 1});
  for (int i = 0; i < 3; ++i) batch.add(room.request(i, {1, 2}));
  while (batch.step()) {
  }
  for (int i = 0; i < 3; ++i) {
    CHECK(room.heard[i].done == 1);
    REQUIRE(room.heard[i].error);
    CHECK(room.heard[i].error->code == Errc::not_finite);
  }
}

}  // namespace
