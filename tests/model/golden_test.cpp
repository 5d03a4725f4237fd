// Golden cases: weights, input, and what a float64 statement of the model made of them (logits,
// loss, every gradient). The project's own lie in tests/fixtures; a sibling folder ../shared/golden
// is tested too when there is one. All go through the command line: `megabyte dump --grads`.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "io/safetensors.h"
#include "ops/ops.h"
#include "support/command.h"
#include "support/device.h"

namespace megabyte {
namespace {

namespace fs = std::filesystem;

struct Tolerance {
  std::string device, dtype;
  double logits, gradient,
      all_gradients;  // relative: |a - b| / |b|; of one tensor; of all as one vector
};

struct Golden {
  fs::path folder;
  Tolerance tolerance;
};

void PrintTo(const Golden& golden, std::ostream* out) { *out << golden.folder; }

std::vector<Golden> golden_cases() {
  std::vector<Tolerance> tolerances{
      {"reference", "f64", 1e-6, 1e-6, 1e-6},
      {"reference", "f32", 1e-5, 1e-4, 1e-4},
#ifdef MEGABYTE_WITH_CPU
      {"cpu", "f32", 1e-5, 1e-4, 1e-4},
#endif
  };
#ifdef MEGABYTE_WITH_CPU
  if (make_backend("cpu", 1)->supports(DType::bf16))
    tolerances.push_back({"cpu", "bf16", 1e-2, 1.5e-1, 3e-2});
#endif
  if (test::why_no_cuda().empty()) {
    tolerances.push_back({"cuda", "f32", 1e-5, 1e-4, 1e-4});
    tolerances.push_back({"cuda", "bf16", 1e-2, 1.5e-1, 3e-2});
  }
  std::set<fs::path> folders;
  const fs::path source = MEGABYTE_SOURCE_DIR;
  for (const fs::path& root : {source / "tests/fixtures", source / "../shared/golden"}) {
    if (!fs::is_directory(root)) continue;
    for (const auto& entry : fs::directory_iterator(root))
      if (fs::exists(entry.path() / "expected.safetensors")) folders.insert(entry.path());
  }
  std::vector<Golden> cases;
  for (const fs::path& folder : folders)
    for (const Tolerance& tolerance : tolerances) cases.push_back({folder, tolerance});
  return cases;
}

// Squared norms of a difference and of what is expected.
struct Distance {
  double difference = 0, expected = 0;
  void add(const std::vector<double>& got, const std::vector<double>& want) {
    for (size_t i = 0; i < want.size(); ++i) {
      difference += (got[i] - want[i]) * (got[i] - want[i]);
      expected += want[i] * want[i];
    }
  }
  // A NaN fails every comparison; an expected zero must be met to within rounding.
  bool within(double tolerance) const {
    return std::sqrt(difference) <= tolerance * std::max(std::sqrt(expected), 1e-6);
  }
  double relative() const { return std::sqrt(difference / std::max(expected, 1e-12)); }
};

class GoldenTest : public testing::TestWithParam<Golden> {};

TEST_P(GoldenTest, DumpAgrees) {
  const auto& [folder, tolerance] = GetParam();
  const auto shape = nlohmann::json::parse(test::read_file(folder / "case.json"));
  test::TemporaryFolder out;
  const std::string file = out / "dump.safetensors";
  const test::CommandResult run = test::run_megabyte(
      {"dump", "--model", folder.string(), "--input", (folder / "input.bin").string(), "--batch",
       std::to_string(shape.at("batch").get<int>()), "--out", file, "--grads", "--device",
       tolerance.device, "--dtype", tolerance.dtype});
  ASSERT_EQ(run.exit_code, 0) << run.err;

  const SafetensorsFile expected(folder / "expected.safetensors"), got(file);
  Distance all_gradients;
  for (const auto& [name, entry] : expected.tensors()) {
    ASSERT_TRUE(got.contains(name)) << name;
    EXPECT_EQ(got.entry(name).shape, entry.shape) << name;
    const std::vector<double> want = expected.read_doubles(name), have = got.read_doubles(name);
    ASSERT_EQ(have.size(), want.size()) << name;
    Distance distance;
    distance.add(have, want);
    const bool gradient = name.starts_with("grad.");
    EXPECT_TRUE(distance.within(gradient ? tolerance.gradient : tolerance.logits))
        << name << ": " << distance.relative();
    if (gradient) all_gradients.add(have, want);
  }
  EXPECT_GT(all_gradients.expected, 0);
  EXPECT_TRUE(all_gradients.within(tolerance.all_gradients)) << all_gradients.relative();
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenTest, testing::ValuesIn(golden_cases()), [](const auto& c) {
  std::string name = c.param.folder.parent_path().filename().string() + "_" +
                     c.param.folder.filename().string() + "_" + c.param.tolerance.device + "_" +
                     c.param.tolerance.dtype;
  std::replace_if(
      name.begin(), name.end(), [](char x) { return !std::isalnum(static_cast<unsigned char>(x)); },
      '_');
  return name;
});

}  // namespace
}  // namespace megabyte
