// Cases of products, activations and norms.
#include <fmt/format.h>

#include "support/op_case.h"

namespace megabyte::test {
namespace {

struct Product {
  int64_t M, K, N;
};
const Product kProducts[] = {{1, 1, 1},    {1, 33, 7},   {1, 256, 256}, {3, 16, 1},   {7, 65, 129},
                             {16, 31, 48}, {17, 31, 48}, {64, 128, 96}, {130, 96, 70}};
// Decoding: few rows, whose weights are read in one go where the summed index allows.
const Product kNarrow[] = {{1, 1024, 33}, {2, 8, 40},     {3, 200, 17},   {4, 72, 512},
                           {5, 40, 8},    {8, 512, 100},  {9, 264, 30},   {16, 2056, 24},
                           {20, 96, 25},  {32, 64, 16},   {33, 1032, 9},  {64, 320, 50},
                           {1, 2048, 64}, {64, 24, 2100}, {2, 4352, 104}, {13, 256, 1700},
                           {4, 1024, 40}, {3, 1000, 24},  {2, 2048, 16},  {16, 200, 24}};

struct Named {
  Activation activation;
  const char* name;
};
const Named kActivations[] = {
    {Activation::none, ""}, {Activation::relu, "_relu"}, {Activation::gelu, "_gelu"}};

OpCase forward_case(const Product& p, const Named& a, bool bias, bool pre, Role out) {
  using enum Use;
  OpCase c;
  c.name =
      fmt::format("linear_forward_m{}_k{}_n{}{}{}{}{}", p.M, p.K, p.N, a.name, bias ? "_bias" : "",
                  pre ? "_pre" : "", out == Role::compute ? "" : "_to_master");
  c.arguments = {{"x", Role::compute, {p.M, p.K}},
                 {"w", Role::compute, {p.N, p.K}},
                 {"y", out, {p.M, p.N}, output}};
  if (bias) c.arguments.push_back({"bias", Role::master, {p.N}});
  if (pre) c.arguments.push_back({"pre", Role::compute, {p.M, p.N}, output});
  c.run = [activation = a.activation](Backend& b, const Tensors& t) {
    b.linear_forward(t["x"], t["w"], t["bias"], activation, t["pre"], t["y"]);
  };
  return c;
}

// The activation of u, as a product with the identity.
void activate(Backend& b, const Tensors& t, Activation activation) {
  b.linear_forward(t["u"], t["eye"], {}, activation, t["pre"], t["hidden"]);
}

Tensor saved(const Tensors& t, Activation activation) {
  if (activation == Activation::none) return {};
  return activation == Activation::gelu ? t["pre"] : t["hidden"];
}

// y = hidden . w^T, hidden = act(u); the gradient of u.
OpCase backward_input_case(const Product& p, const Named& a) {
  using enum Use;
  return {.name = fmt::format("linear_backward_input_m{}_k{}_n{}{}", p.M, p.K, p.N, a.name),
          .arguments = {{"u", Role::compute, {p.M, p.K}},
                        {"eye", Role::compute, {p.K, p.K}, input, identity(p.K)},
                        {"w", Role::compute, {p.N, p.K}},
                        {"pre", Role::compute, {p.M, p.K}, derived},
                        {"hidden", Role::compute, {p.M, p.K}, derived},
                        {"y", Role::compute, {p.M, p.N}, derived},
                        {"dy", Role::compute, {p.M, p.N}},
                        {"dx", Role::compute, {p.M, p.K}, output}},
          .run =
              [activation = a.activation](Backend& b, const Tensors& t) {
                b.linear_backward_input(t["dy"], t["w"], activation, saved(t, activation), t["dx"]);
              },
          .forward =
              [activation = a.activation](Backend& b, const Tensors& t) {
                activate(b, t, activation);
                b.linear_forward(t["hidden"], t["w"], {}, Activation::none, {}, t["y"]);
              },
          .cotangents = {{"y", "dy"}},
          .gradients = {{"u", "dx"}}};
}

OpCase backward_weight_case(const Product& p, bool bias) {
  using enum Use;
  OpCase c{.name = fmt::format("linear_backward_weight_m{}_k{}_n{}{}", p.M, p.K, p.N,
                               bias ? "_bias" : ""),
           .arguments = {{"x", Role::compute, {p.M, p.K}},
                         {"w", Role::compute, {p.N, p.K}},
                         {"y", Role::compute, {p.M, p.N}, derived},
                         {"dy", Role::compute, {p.M, p.N}},
                         {"dw", Role::master, {p.N, p.K}, adds}},
           .run =
               [](Backend& b, const Tensors& t) {
                 b.linear_backward_weight(t["dy"], t["x"], t["dw"], t["dbias"]);
               },
           .forward =
               [](Backend& b, const Tensors& t) {
                 b.linear_forward(t["x"], t["w"], t["bias"], Activation::none, {}, t["y"]);
               },
           .cotangents = {{"y", "dy"}},
           .gradients = {{"w", "dw"}}};
  if (bias) {
    c.arguments.push_back({"bias", Role::master, {p.N}});
    c.arguments.push_back({"dbias", Role::master, {p.N}, adds});
    c.gradients.push_back({"bias", "dbias"});
  }
  return c;
}

OpCase backward_case(const Product& p, bool bias) {
  using enum Use;
  OpCase c = backward_weight_case(p, bias);
  c.name = fmt::format("linear_backward_m{}_k{}_n{}{}", p.M, p.K, p.N, bias ? "_bias" : "");
  c.arguments.push_back({"dx", Role::compute, {p.M, p.K}, output});
  c.run = [](Backend& b, const Tensors& t) {
    b.linear_backward(t["dy"], t["x"], t["w"], t["dw"], t["dbias"], t["dx"]);
  };
  c.gradients.emplace_back("x", "dx");
  return c;
}

FeedForward feed_forward_of(const Tensors& t, const std::string& prefix) {
  return {t[prefix + "up"], t[prefix + "up_bias"], t[prefix + "down"], t[prefix + "down_bias"]};
}

OpCase feed_forward_case(const Product& p, const Named& a) {
  using enum Use;
  OpCase c{.name = fmt::format("feed_forward_m{}_k{}_n{}{}", p.M, p.K, p.N, a.name),
           .arguments = {{"x", Role::compute, {p.M, p.K}},
                         {"up", Role::compute, {p.N, p.K}},
                         {"up_bias", Role::master, {p.N}},
                         {"down", Role::compute, {p.K, p.N}},
                         {"down_bias", Role::master, {p.K}},
                         {"hidden", Role::compute, {p.M, p.N}, output},
                         {"y", Role::compute, {p.M, p.K}, output}},
           .run = [activation = a.activation](Backend& b, const Tensors& t) {
             b.feed_forward(feed_forward_of(t, ""), activation, t["x"], t["pre"], t["hidden"],
                            t["y"]);
           }};
  if (a.activation == Activation::gelu)
    c.arguments.push_back({"pre", Role::compute, {p.M, p.N}, output});
  return c;
}

OpCase feed_forward_backward_case(const Product& p, const Named& a) {
  using enum Use;
  OpCase c = feed_forward_case(p, a);
  c.name = fmt::format("feed_forward_backward_m{}_k{}_n{}{}", p.M, p.K, p.N, a.name);
  c.rounds_between = true;
  c.forward = c.run;
  for (Argument& argument : c.arguments)
    if (argument.use == output) argument.use = derived;
  for (const Argument& more : {Argument{"dy", Role::compute, {p.M, p.K}},
                               Argument{"dx", Role::compute, {p.M, p.K}, output},
                               Argument{"dhidden", Role::compute, {p.M, p.N}, output},
                               Argument{"dup", Role::master, {p.N, p.K}, adds},
                               Argument{"dup_bias", Role::master, {p.N}, adds},
                               Argument{"ddown", Role::master, {p.K, p.N}, adds},
                               Argument{"ddown_bias", Role::master, {p.K}, adds}})
    c.arguments.push_back(more);
  c.run = [activation = a.activation](Backend& b, const Tensors& t) {
    b.feed_forward_backward(feed_forward_of(t, ""), activation, t["dy"], t["x"], t["pre"],
                            t["hidden"], t["dhidden"], feed_forward_of(t, "d"), t["dx"]);
  };
  c.cotangents = {{"y", "dy"}};
  c.gradients = {{"x", "dx"}};
  for (const std::string name : {"up", "up_bias", "down", "down_bias"})
    c.gradients.emplace_back(name, "d" + name);
  return c;
}

OpCase norm_linear_case(const Product& p, const Named& a, bool delta, bool bias) {
  using enum Use;
  OpCase c;
  c.name = fmt::format("norm_linear_m{}_k{}_n{}{}{}{}", p.M, p.K, p.N, a.name,
                       delta ? "_delta" : "", bias ? "_bias" : "");
  c.arguments = {{"x", Role::residual, {p.M, p.K}},
                 {"norm_weight", Role::master, {p.K}},
                 {"norm_bias", Role::master, {p.K}},
                 {"w", Role::compute, {p.N, p.K}},
                 {"norm", Role::compute, {p.M, p.K}, scratch},
                 {"y", Role::compute, {p.M, p.N}, output}};
  if (delta) {
    c.arguments.push_back({"delta", Role::compute, {p.M, p.K}});
    c.arguments.push_back({"sum", Role::residual, {p.M, p.K}, output});
  }
  if (bias) c.arguments.push_back({"bias", Role::master, {p.N}});
  c.run = [activation = a.activation](Backend& b, const Tensors& t) {
    b.norm_linear(t["x"], t["delta"], t["norm_weight"], t["norm_bias"], 1e-5, t["w"], t["bias"],
                  activation, t["sum"], t["norm"], t["y"]);
  };
  return c;
}

OpCase activation_case(int64_t rows, int64_t cols, const Named& a, bool in_place) {
  using enum Use;
  OpCase c{.name = fmt::format("activation_backward_m{}_n{}{}{}", rows, cols, a.name,
                               in_place ? "_in_place" : ""),
           .arguments = {{"u", Role::compute, {rows, cols}},
                         {"eye", Role::compute, {cols, cols}, input, identity(cols)},
                         {"pre", Role::compute, {rows, cols}, derived},
                         {"hidden", Role::compute, {rows, cols}, derived},
                         {"dy", Role::compute, {rows, cols}, in_place ? changes : input}},
           .run =
               [activation = a.activation, in_place](Backend& b, const Tensors& t) {
                 b.activation_backward(t["dy"], activation, saved(t, activation),
                                       in_place ? t["dy"] : t["dx"]);
               },
           .forward = [activation = a.activation](Backend& b,
                                                  const Tensors& t) { activate(b, t, activation); },
           .cotangents = {{"hidden", "dy"}},
           .gradients = {{"u", in_place ? "dy" : "dx"}}};
  if (!in_place) c.arguments.push_back({"dx", Role::compute, {rows, cols}, output});
  return c;
}

}  // namespace

std::vector<OpCase> linear_cases() {
  std::vector<OpCase> cases;
  for (const Product& p : kProducts) {
    for (const Named& a : kActivations)
      for (const bool bias : {false, true}) {
        cases.push_back(forward_case(p, a, bias, false, Role::compute));
        if (a.activation == Activation::gelu)
          cases.push_back(forward_case(p, a, bias, true, Role::compute));
      }
    cases.push_back(forward_case(p, kActivations[0], false, false, Role::master));
    for (const Named& a : kActivations) cases.push_back(backward_input_case(p, a));
    for (const bool bias : {false, true}) {
      cases.push_back(backward_weight_case(p, bias));
      cases.push_back(backward_case(p, bias));
    }
  }
  for (const Product& p : {kProducts[1], kProducts[6]})
    for (const Named& a : {kActivations[1], kActivations[2]}) {
      cases.push_back(feed_forward_case(p, a));
      cases.push_back(feed_forward_backward_case(p, a));
    }
  for (const Product& p : kNarrow) {
    for (const Named& a : kActivations)
      cases.push_back(forward_case(p, a, true, false, Role::compute));
    cases.push_back(forward_case(p, kActivations[0], false, false, Role::master));
    for (const bool delta : {false, true})
      for (const Named& a : kActivations) cases.push_back(norm_linear_case(p, a, delta, delta));
  }
  for (const bool in_place : {false, true})
    for (const Named& a : {kActivations[1], kActivations[2]}) {
      cases.push_back(activation_case(1, 1, a, in_place));
      cases.push_back(activation_case(41, 67, a, in_place));
    }
  return cases;
}

namespace {

const Dropout kDropout{.rate = 0.3f, .seed = 77, .stream = 5};

OpCase norm_forward_case(int64_t M, int64_t D, bool delta, const Dropout& dropout, bool stats,
                         bool in_place) {
  using enum Use;
  OpCase c;
  c.name = fmt::format("residual_norm_forward_m{}_d{}{}{}{}{}", M, D, delta ? "_delta" : "",
                       dropout.rate > 0 ? "_dropout" : "", stats ? "_stats" : "",
                       in_place ? "_in_place" : "");
  c.arguments = {{"x", Role::residual, {M, D}, in_place ? changes : input},
                 {"weight", Role::master, {D}},
                 {"bias", Role::master, {D}},
                 {"y", Role::compute, {M, D}, output}};
  if (delta) c.arguments.push_back({"delta", Role::compute, {M, D}});
  if (delta && !in_place) c.arguments.push_back({"sum", Role::residual, {M, D}, output});
  if (stats) {
    c.arguments.push_back({"xhat", Role::compute, {M, D}, output});
    c.arguments.push_back({"rstd", Role::master, {M}, output});
  }
  c.run = [=](Backend& b, const Tensors& t) {
    b.residual_norm_forward(t["x"], t["delta"], dropout, t["weight"], t["bias"], 1e-5,
                            in_place ? t["x"] : t["sum"], t["y"], t["xhat"], t["rstd"]);
  };
  return c;
}

// sum = x + dropout(delta) goes on in two ways: through the norm, with gradient dy, and, where
// `accumulate`, directly, with the gradient that dsum holds before.
OpCase norm_backward_case(int64_t M, int64_t D, bool delta, const Dropout& dropout,
                          bool accumulate) {
  using enum Use;
  OpCase c;
  c.name = fmt::format("residual_norm_backward_m{}_d{}{}{}{}", M, D, delta ? "_delta" : "",
                       dropout.rate > 0 ? "_dropout" : "", accumulate ? "_accumulate" : "");
  c.arguments = {{"x", Role::residual, {M, D}},
                 {"weight", Role::master, {D}},
                 {"bias", Role::master, {D}},
                 {"y", Role::compute, {M, D}, derived},
                 {"sum", Role::residual, {M, D}, derived},
                 {"xhat", Role::compute, {M, D}, derived},
                 {"rstd", Role::master, {M}, derived},
                 {"dy", Role::compute, {M, D}},
                 {"dsum", Role::residual_gradient, {M, D}, accumulate ? changes : output},
                 {"dweight", Role::master, {D}, adds},
                 {"dbias", Role::master, {D}, adds}};
  if (delta) {
    c.arguments.push_back({"delta", Role::compute, {M, D}});
    c.arguments.push_back({"ddelta", Role::compute, {M, D}, output});
  }
  c.run = [=](Backend& b, const Tensors& t) {
    b.residual_norm_backward(t["dy"], t["xhat"], t["rstd"], t["weight"], dropout, accumulate,
                             t["dsum"], t["ddelta"], t["dweight"], t["dbias"]);
  };
  c.forward = [=](Backend& b, const Tensors& t) {
    if (!t["delta"]) b.convert(t["x"], t["sum"]);
    b.residual_norm_forward(t["x"], t["delta"], dropout, t["weight"], t["bias"], 1e-5, t["sum"],
                            t["y"], t["xhat"], t["rstd"]);
  };
  c.cotangents = {{"y", "dy"}};
  if (accumulate) c.cotangents.push_back({"sum", "dsum"});
  c.gradients = {{"x", "dsum"}, {"weight", "dweight"}, {"bias", "dbias"}};
  if (delta) c.gradients.push_back({"delta", "ddelta"});
  return c;
}

}  // namespace

std::vector<OpCase> norm_cases() {
  std::vector<OpCase> cases;
  for (const auto& [M, D] :
       {std::pair<int64_t, int64_t>{1, 16}, {5, 33}, {64, 48}, {3, 1000}, {2300, 8}}) {
    for (const bool stats : {false, true}) {
      cases.push_back(norm_forward_case(M, D, false, {}, stats, false));
      cases.push_back(norm_forward_case(M, D, true, {}, stats, false));
      cases.push_back(norm_forward_case(M, D, true, kDropout, stats, true));
    }
    cases.push_back(norm_forward_case(M, D, true, kDropout, true, false));
    for (const bool accumulate : {false, true}) {
      cases.push_back(norm_backward_case(M, D, false, {}, accumulate));
      cases.push_back(norm_backward_case(M, D, true, {}, accumulate));
      cases.push_back(norm_backward_case(M, D, true, kDropout, accumulate));
    }
  }
  return cases;
}

}  // namespace megabyte::test
