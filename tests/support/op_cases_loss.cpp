// Cases of the loss and the optimizer.
#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "support/op_case.h"

namespace megabyte::test {
namespace {

OpCase cross_entropy_case(const LossShape& s, double scale, bool losses, bool gradient) {
  using enum Use;
  const int64_t M = s.rows * s.length;
  OpCase c;
  c.name =
      fmt::format("cross_entropy_r{}_n{}_valid{}_v{}{}{}{}", s.rows, s.length, s.valid, s.vocab,
                  scale == 1 ? "" : "_large", losses ? "_losses" : "", gradient ? "_gradient" : "");
  c.arguments = {{"logits", Role::master, {M, s.vocab}, input, normal(scale)},
                 {"targets", Role::tokens, {M}, input, below(s.vocab)},
                 {"total", Role::f64, {1}, adds}};
  if (losses) c.arguments.push_back({"losses", Role::master, {M}, output});
  c.run = [s](Backend& b, const Tensors& t) {
    b.cross_entropy(s, t["logits"], t["targets"], t["losses"], t["dlogits"], t["total"]);
  };
  if (!gradient) return c;
  c.arguments.push_back({"dlogits", Role::compute, {M, s.vocab}, output});
  c.arguments.push_back({"sum", Role::f64, {1}, derived});
  c.arguments.push_back({"scale", Role::f64, {1}, input, constant(s.scale)});
  c.forward = [s](Backend& b, const Tensors& t) {
    b.zero(t["sum"]);
    b.cross_entropy(s, t["logits"], t["targets"], {}, {}, t["sum"]);
  };
  c.cotangents = {{"sum", "scale"}};
  c.gradients = {{"logits", "dlogits"}};
  return c;
}

OpCase adamw_case(const std::string& name, int64_t n, const AdamwStep& step, double norm_sq,
                  bool copy) {
  using enum Use;
  OpCase c;
  c.name = fmt::format("adamw_n{}_{}{}", n, name, copy ? "_copy" : "");
  c.arguments = {{"value", Role::master, {n}, changes},
                 {"grad", Role::master, {n}},
                 {"m", Role::master, {n}, changes},
                 {"v", Role::master, {n}, changes, between(0.01, 2)},
                 {"norm_sq", Role::f64, {1}, input, constant(norm_sq)}};
  if (copy) c.arguments.push_back({"copy", Role::compute, {n}, changes});
  c.run = [step](Backend& b, const Tensors& t) {
    b.adamw(step, t["value"], t["copy"], t["grad"], t["m"], t["v"], t["norm_sq"]);
  };
  return c;
}

}  // namespace

std::vector<OpCase> loss_cases() {
  using enum Use;
  std::vector<OpCase> cases;
  for (const LossShape& s : {LossShape{1, 1, 1, 1, 1}, LossShape{1, 1, 1, 256, 0.5},
                             LossShape{2, 5, 3, 257, 2}, LossShape{3, 4, 4, 7, 0.01},
                             LossShape{2, 6, 0, 11, 1}, LossShape{40, 8, 7, 256, 1.0 / 320}}) {
    cases.push_back(cross_entropy_case(s, 1, false, false));
    cases.push_back(cross_entropy_case(s, 1, true, false));
    cases.push_back(cross_entropy_case(s, 1, true, true));
  }
  cases.push_back(cross_entropy_case({2, 3, 3, 100, 1}, 100, true, true));

  for (const int64_t n : {1, 100, 70003}) {
    cases.push_back(
        {.name = fmt::format("sum_of_squares_n{}", n),
         .arguments = {{"x", Role::master, {n}}, {"total", Role::f64, {1}, adds}},
         .run = [](Backend& b, const Tensors& t) { b.sum_of_squares(t["x"], t["total"]); }});
    // lr, beta1, beta2, eps, decay, step, clip
    const AdamwStep first{0.01, 0.9, 0.98, 1e-8, 0.1, 1, 0},
        later{0.1, 0.9, 0.999, 1e-6, 0, 1000, 1};
    for (const bool copy : {false, true}) {
      cases.push_back(adamw_case("first", n, first, 4, copy));
      cases.push_back(adamw_case("below_clip", n, later, 0.5, copy));
      cases.push_back(adamw_case("above_clip", n, later, 50, copy));
      cases.push_back(adamw_case("nan", n, later, std::numeric_limits<double>::quiet_NaN(), copy));
      cases.push_back(adamw_case("inf", n, first, std::numeric_limits<double>::infinity(), copy));
    }
  }
  return cases;
}

}  // namespace megabyte::test
