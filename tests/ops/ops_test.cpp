// Every operation of every backend of this build, on the cases of tests/support/op_cases_*.cpp.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <ostream>

#include "support/device.h"
#include "support/op_case.h"

namespace megabyte::test {
namespace {

uint64_t seed_of(const std::string& name) { return std::hash<std::string>()(name); }

const Argument& argument(const OpCase& c, const std::string& name) {
  return *std::find_if(c.arguments.begin(), c.arguments.end(),
                       [&](const Argument& a) { return a.name == name; });
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// `values` with the derived arguments computed by the reference in double precision, then rounded
// to what `backend` is given.
void add_derived(const OpCase& c, Backend& backend, DType compute, Values& values) {
  if (!c.forward) return;
  const auto reference = make_backend("reference");
  const Values after = call_with(c, *reference, DType::f64, c.forward, values);
  for (const Argument& a : c.arguments) {
    if (a.use != Use::derived) continue;
    std::vector<double>& v = values[a.name] = after.at(a.name);
    for (double& x : v) x = rounded(x, dtype_of_role(a.role, backend, compute));
  }
}

// --- gradients: the reference backend in double precision against differences of its forward

struct GradientParam {
  const OpCase* c;
};
void PrintTo(const GradientParam& p, std::ostream* out) { *out << p.c->name; }

class OpGradient : public testing::TestWithParam<GradientParam> {};

TEST_P(OpGradient, IsTheSlope) {
  const OpCase& c = *GetParam().c;
  const auto reference = make_backend("reference");
  Values values = draw_values(c, *reference, DType::f64, seed_of(c.name));
  add_derived(c, *reference, DType::f64, values);
  const Values after = call_with(c, *reference, DType::f64, c.run, values);
  const auto objective = [&](const Values& inputs) {
    const Values out = call_with(c, *reference, DType::f64, c.forward, inputs);
    double sum = 0;
    for (const auto& [y, dy] : c.cotangents) sum += dot(out.at(y), values.at(dy));
    return sum;
  };
  for (const auto& pair : c.gradients) {
    const std::string &x = pair.first, &dx = pair.second;
    std::vector<double> gradient = after.at(dx);
    if (argument(c, dx).use == Use::adds)
      for (size_t i = 0; i < gradient.size(); ++i) gradient[i] -= values.at(dx)[i];
    for (uint64_t turn = 0; turn < 2; ++turn) {
      Random random(seed_of(c.name + x), turn);
      std::vector<double> direction(gradient.size());
      for (double& d : direction) d = random.normal();
      const auto moved = [&](double h) {
        Values inputs = values;
        std::vector<double>& v = inputs.at(x);
        for (size_t i = 0; i < v.size(); ++i) v[i] += h * direction[i];
        return objective(inputs);
      };
      const double h = 1e-5, slope = (moved(h) - moved(-h)) / (2 * h);
      const double size = std::sqrt(dot(gradient, gradient));
      EXPECT_NEAR(slope, dot(gradient, direction), 1e-7 * (1 + size))
          << "gradient of " << x << " in " << dx;
    }
  }
}

std::vector<GradientParam> gradient_params() {
  std::vector<GradientParam> params;
  for (const OpCase& c : all_op_cases())
    if (!c.gradients.empty()) params.push_back({&c});
  return params;
}

INSTANTIATE_TEST_SUITE_P(Reference, OpGradient, testing::ValuesIn(gradient_params()),
                         [](const auto& test) { return test.param.c->name; });

// --- comparison: every backend and dtype against the reference in double precision

struct Target {
  std::string device;
  DType dtype;
  double tolerance;  // of tensors in `dtype`, by |a - b| / |b|
};

// What this build and machine have.
std::vector<Target> targets() {
  std::vector<Target> all{
      {"reference", DType::f32, 1e-5},
#ifdef MEGABYTE_WITH_CPU
      {"cpu", DType::f32, 1e-5},
#endif
  };
#ifdef MEGABYTE_WITH_CPU
  if (make_backend("cpu", 1)->supports(DType::bf16)) all.push_back({"cpu", DType::bf16, 1e-2});
#endif
  if (why_no_cuda().empty()) {
    all.push_back({"cuda", DType::f32, 1e-5});
    all.push_back({"cuda", DType::bf16, 1e-2});
  }
  return all;
}

struct ComparisonParam {
  const OpCase* c;
  Target target;
};
std::string name_of(const ComparisonParam& p) {
  return p.c->name + "_" + p.target.device + "_" + std::string(name_of(p.target.dtype));
}
void PrintTo(const ComparisonParam& p, std::ostream* out) { *out << name_of(p); }

class OpComparison : public testing::TestWithParam<ComparisonParam> {};

bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// |a - b| / |b|, where numbers that are not finite must be the same in both.
double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (same(a[i], b[i])) {
      if (std::isfinite(b[i])) size += b[i] * b[i];
      continue;
    }
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return difference == 0 ? 0 : std::sqrt(difference / size);
}

TEST_P(OpComparison, AgreesWithTheReference) {
  const OpCase& c = *GetParam().c;
  const Target& target = GetParam().target;
  const auto backend = make_backend(target.device, 2), reference = make_backend("reference");
  Values values = draw_values(c, *backend, target.dtype, seed_of(c.name));
  add_derived(c, *backend, target.dtype, values);
  const Values expected = call_with(c, *reference, DType::f64, c.run, values);
  const Values actual = call_with(c, *backend, target.dtype, c.run, values);
  for (const Argument& a : c.arguments) {
    if (a.use == Use::scratch) continue;
    const std::vector<double>&got = actual.at(a.name), &want = expected.at(a.name);
    if (a.use == Use::input || a.use == Use::derived) {
      for (size_t i = 0; i < got.size(); ++i)
        ASSERT_TRUE(same(got[i], values.at(a.name)[i])) << a.name << " was an input";
    } else if (a.role == Role::tokens) {
      EXPECT_EQ(got, want) << a.name;
    } else {
      // What is kept in 32 bits is not rounded to 16 on the way.
      const DType dtype =
          c.rounds_between ? target.dtype : dtype_of_role(a.role, *backend, target.dtype);
      EXPECT_LE(distance(got, want), dtype == DType::bf16 ? target.tolerance : 1e-5) << a.name;
    }
  }
}

std::vector<ComparisonParam> comparison_params() {
  std::vector<ComparisonParam> params;
  for (const Target& target : targets())
    for (const OpCase& c : all_op_cases()) params.push_back({&c, target});
  return params;
}

INSTANTIATE_TEST_SUITE_P(Backends, OpComparison, testing::ValuesIn(comparison_params()),
                         [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace megabyte::test
