// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/io/block_report_json.hpp>
#include <cmath>
#include <limits>

#include <bisup_test.hpp>

namespace {

using namespace bisup;
using io::Json;

BlockReport some_report() {
  BlockReport report;
  report.layer = 3, report.loss = 0.1, report.held_out_loss = 1.0 / 3;
  report.key_clip = 0.85f, report.value_clip = 0.7f, report.smoothing_gain = 0.8,
  report.merging_gain = 0.7, report.tuning_gain = 0.6;
  int i = 0;
  for (const char* name : {"attention", "output", "mlp", "down"}) {
    report.inputs[static_cast<std::size_t>(i)] = {
        name, 0.9f - 0.1f * static_cast<float>(i), 0.5 + i, 32 * i, {1.5f, 0.1f}, {0.3f}};
    ++i;
  }
  report.linears = {{"self_attn.q_proj", 1e-3, 2e-3, 0.01, 4, 5, false},
                    {"mlp.down_proj", 0.2, 0.2, 1, 0, 64, true}};
  report.seconds = 12.5, report.times = {{"rounding", 7.25}, {"clips", 0.5}};
  return report;
}

// Through the text, as it is stored.
Result<BlockReport> read(const Json& d) {
  return io::read_block_report(io::parse_json(d.dump(), "report").value(), "block.safetensors");
}

TEST_CASE("a report comes back whole") {
  const BlockReport report = some_report();
  const auto back = read(io::describe(report));
  REQUIRE(back);
  CHECK(io::describe(*back) == io::describe(report));
  CHECK(back->inputs[2].name == "mlp");
  CHECK(back->inputs[2].clip == report.inputs[2].clip);
  CHECK(back->inputs[1].largest_before == report.inputs[1].largest_before);
  CHECK(back->held_out_loss == report.held_out_loss);
  CHECK(back->linears[1].fell_back);
  CHECK(back->linears[1].nearest_rows == 64);
  CHECK(back->times[1].seconds == 0.5);
}

TEST_CASE("what JSON cannot hold comes back as no number") {
  BlockReport report = some_report();
  report.loss = std::numeric_limits<double>::quiet_NaN();
  report.inputs[0].largest_after[0] = std::numeric_limits<float>::infinity();
  const auto back = read(io::describe(report));
  REQUIRE(back);
  CHECK(std::isnan(back->loss));
  CHECK(std::isnan(back->inputs[0].largest_after[0]));
}

TEST_CASE("the summary has the numbers by name") {
  const Json line = io::summary(some_report());
  CHECK(line["layer"] == 3);
  CHECK(line["errors"]["self_attn.q_proj"] == 1e-3);
  CHECK(line["damping"]["mlp.down_proj"] == 1);
  CHECK(line["fell_back"] == Json::array({"mlp.down_proj"}));
  CHECK(line["clips"]["attention"] == 0.9f);
  CHECK(line["seconds"] == 12.5);
}

TEST_CASE("what is no report is refused") {
  const Json good = io::describe(some_report());
  CHECK_FALSE(read(Json::array()));
  for (const char* key : {"layer", "inputs", "linears", "times"}) {
    Json bad = good;
    bad.erase(key);
    CHECK_FALSE(read(bad));
    bad[key] = "x";
    CHECK_FALSE(read(bad));
  }
  for (const auto& [list, key, value] : {std::tuple{"inputs", "clip", Json("x")},
                                         {"inputs", "largest_before", Json(3)},
                                         {"linears", "error", Json::array()},
                                         {"linears", "dead_columns", Json(1.5)},
                                         {"times", "seconds", Json("x")}}) {
    Json bad = good;
    bad[list][0][key] = value;
    INFO(list << " " << key);
    const auto refused = read(bad);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().where == "block.safetensors");
    bad[list][0] = 7;
    CHECK_FALSE(read(bad));
  }
  Json three = good, five = good;
  three["inputs"].erase(3);
  CHECK_FALSE(read(three));
  five["inputs"].push_back(five["inputs"][0]);
  CHECK_FALSE(read(five));
}

}  // namespace
