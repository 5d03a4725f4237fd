#include "train/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "support/command.h"

namespace megabyte {
namespace {

TEST(Metrics, KeysOfALine) {
  Metrics metrics{.step = 3,
                  .bytes = 96,
                  .seconds = 1.5,
                  .loss = std::log(2.0) * 5,
                  .lr = 0.25,
                  .grad_norm = 0.5,
                  .bytes_per_s = 100};
  auto json = nlohmann::json::parse(metrics.to_json());
  EXPECT_EQ(json.size(), 8u);
  EXPECT_EQ(json.at("step"), 3);
  EXPECT_EQ(json.at("bytes"), 96);
  EXPECT_EQ(json.at("seconds"), 1.5);
  EXPECT_DOUBLE_EQ(json.at("loss"), std::log(2.0) * 5);
  EXPECT_DOUBLE_EQ(json.at("bpb"), 5);
  EXPECT_EQ(json.at("lr"), 0.25);
  EXPECT_EQ(json.at("grad_norm"), 0.5);
  EXPECT_EQ(json.at("bytes_per_s"), 100);
  metrics.valid_bpb = 4.5;
  metrics.loss = std::nan("");
  json = nlohmann::json::parse(metrics.to_json());
  EXPECT_EQ(json.at("valid_bpb"), 4.5);
  EXPECT_TRUE(json.at("loss").is_null());
}

TEST(Metrics, ResumingCutsWhatWasNotCommitted) {
  const test::TemporaryFolder folder;
  const std::string file = folder / "metrics.jsonl";
  const auto line = [](int64_t step) { return Metrics{.step = step}.to_json() + "\n"; };
  {
    MetricsLog log(file, 0);
    for (int64_t step = 1; step <= 5; ++step) log.write({.step = step});
  }
  const std::string whole = line(1) + line(2) + line(3) + line(4) + line(5);
  EXPECT_EQ(test::read_file(file), whole);
  test::write_file(file, whole + R"({"step":6,"by)");  // torn by a kill
  { const MetricsLog log(file, 6); }
  EXPECT_EQ(test::read_file(file), whole);
  {
    MetricsLog log(file, 3);
    log.write({.step = 40});
  }
  EXPECT_EQ(test::read_file(file), line(1) + line(2) + line(3) + line(40));
  { const MetricsLog log(file, 0); }
  EXPECT_EQ(test::read_file(file), "");
}

TEST(Metrics, AFolderThatIsNotThere) {
  const test::TemporaryFolder folder;
  EXPECT_THROW(MetricsLog(folder / "no/metrics.jsonl", 0), Error);
}

}  // namespace
}  // namespace megabyte
