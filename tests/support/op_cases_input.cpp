// Cases of memory operations and of the input side.
#include <fmt/format.h>

#include "support/op_case.h"

namespace megabyte::test {

std::vector<OpCase> memory_cases() {
  using enum Use;
  std::vector<OpCase> cases;
  const std::pair<Role, const char*> roles[] = {
      {Role::compute, "compute"}, {Role::residual, "residual"}, {Role::master, "master"}};
  for (const int64_t n : {1, 37, 70001})
    for (const auto& [from, from_name] : roles)
      for (const auto& [to, to_name] : roles)
        cases.push_back(
            {.name = fmt::format("convert_{}_to_{}_n{}", from_name, to_name, n),
             .arguments = {{"src", from, {n}}, {"dst", to, {n}, output}},
             .run = [](Backend& b, const Tensors& t) { b.convert(t["src"], t["dst"]); }});
  for (const int64_t n : {1, 129, 70001}) {
    cases.push_back({.name = fmt::format("zero_n{}", n),
                     .arguments = {{"x", Role::compute, {n}, output}},
                     .run = [](Backend& b, const Tensors& t) { b.zero(t["x"]); }});
    cases.push_back({.name = fmt::format("add_n{}", n),
                     .arguments = {{"a", Role::residual, {n}},
                                   {"b", Role::compute, {n}},
                                   {"out", Role::residual, {n}, output}},
                     .run = [](Backend& b, const Tensors& t) { b.add(t["a"], t["b"], t["out"]); }});
    cases.push_back({.name = fmt::format("add_to_compute_n{}", n),
                     .arguments = {{"a", Role::compute, {n}},
                                   {"b", Role::residual, {n}},
                                   {"out", Role::compute, {n}, output}},
                     .run = [](Backend& b, const Tensors& t) { b.add(t["a"], t["b"], t["out"]); }});
    cases.push_back({.name = fmt::format("add_in_place_n{}", n),
                     .arguments = {{"a", Role::residual, {n}, changes}, {"b", Role::compute, {n}}},
                     .run = [](Backend& b, const Tensors& t) { b.add(t["a"], t["b"], t["a"]); }});
  }
  for (const Role role : {Role::compute, Role::tokens})
    cases.push_back({.name = role == Role::tokens ? "copy_rows_tokens" : "copy_rows",
                     .arguments = {{"src", role, {47}, input, below(256)},
                                   {"dst", role, {60}, changes, below(256)}},
                     .run = [](Backend& b, const Tensors& t) {
                       b.copy_rows(t["src"], 11, t["dst"].slice(2, 58), 13, 4, 10);
                     }});
  return cases;
}

namespace {

OpCase embed_case(const EmbedShape& s, int64_t vocab, bool positions, bool backward) {
  using enum Use;
  const int64_t D = s.patch * s.dim, rows = s.sequences * s.length;
  const int64_t more = 2;  // rows of the table of positions that a shorter batch leaves unused
  OpCase c;
  c.name =
      fmt::format("embed_{}_s{}_n{}_p{}_e{}{}{}", backward ? "backward" : "forward", s.sequences,
                  s.length, s.patch, s.dim, positions ? "_positions" : "", s.shift ? "_shift" : "");
  c.arguments = {{"tokens", Role::tokens, {rows * s.patch}, input, below(vocab)},
                 {"table", Role::compute, {vocab, s.dim}},
                 {"out", Role::residual, {rows, D}, backward ? derived : output}};
  if (positions)
    c.arguments.push_back({"positions", Role::compute, {s.length * s.patch + more, s.dim}});
  if (s.shift) c.arguments.push_back({"pad", Role::master, {D}});
  const Call forward = [s](Backend& b, const Tensors& t) {
    b.embed_forward(s, t["tokens"], t["table"], t["positions"], t["pad"], t["out"]);
  };
  c.run = forward;
  if (!backward) return c;
  c.forward = forward;
  c.arguments.push_back({"dout", Role::residual_gradient, {rows, D}});
  c.arguments.push_back({"dtable", Role::master, {vocab, s.dim}, adds});
  if (positions)
    c.arguments.push_back({"dpositions", Role::master, {s.length * s.patch + more, s.dim}, adds});
  if (s.shift) c.arguments.push_back({"dpad", Role::master, {D}, adds});
  c.run = [s](Backend& b, const Tensors& t) {
    b.embed_backward(s, t["tokens"], t["dout"], t["dtable"], t["dpositions"], t["dpad"]);
  };
  c.cotangents = {{"out", "dout"}};
  c.gradients = {{"table", "dtable"}};
  if (positions) c.gradients.push_back({"positions", "dpositions"});
  if (s.shift) c.gradients.push_back({"pad", "dpad"});
  return c;
}

OpCase place_case(const PlaceShape& s, Role role, bool positions, bool backward) {
  using enum Use;
  const int64_t rows = s.sequences * s.length;
  OpCase c;
  c.name = fmt::format("place_{}_{}_s{}_n{}_d{}{}{}", backward ? "backward" : "forward",
                       role == Role::compute ? "compute" : "residual", s.sequences, s.length, s.dim,
                       positions ? "_positions" : "", s.shift ? "_shift" : "");
  c.arguments = {{"in", role, {rows, s.dim}},
                 {"out", Role::residual, {rows, s.dim}, backward ? derived : output}};
  if (positions) c.arguments.push_back({"positions", Role::compute, {s.length + 1, s.dim}});
  if (s.shift) c.arguments.push_back({"pad", Role::master, {s.dim}});
  const Call forward = [s](Backend& b, const Tensors& t) {
    b.place_forward(s, t["in"], t["positions"], t["pad"], t["out"]);
  };
  c.run = forward;
  if (!backward) return c;
  c.forward = forward;
  const Role gradient = role == Role::residual ? Role::residual_gradient : role;
  c.arguments.push_back({"dout", Role::residual_gradient, {rows, s.dim}});
  c.arguments.push_back({"din", gradient, {rows, s.dim}, output});
  if (positions) c.arguments.push_back({"dpositions", Role::master, {s.length + 1, s.dim}, adds});
  if (s.shift) c.arguments.push_back({"dpad", Role::master, {s.dim}, adds});
  c.run = [s](Backend& b, const Tensors& t) {
    b.place_backward(s, t["dout"], t["din"], t["dpositions"], t["dpad"]);
  };
  c.cotangents = {{"out", "dout"}};
  c.gradients = {{"in", "din"}};
  if (positions) c.gradients.push_back({"positions", "dpositions"});
  if (s.shift) c.gradients.push_back({"pad", "dpad"});
  return c;
}

}  // namespace

std::vector<OpCase> input_cases() {
  using enum Use;
  std::vector<OpCase> cases;
  for (const bool backward : {false, true})
    for (const bool positions : {false, true})
      for (const bool shift : {false, true}) {
        for (const EmbedShape& s :
             {EmbedShape{1, 1, 1, 1, shift}, EmbedShape{2, 5, 3, 4, shift},
              EmbedShape{3, 7, 1, 33, shift}, EmbedShape{9, 16, 4, 48, shift}})
          cases.push_back(embed_case(s, s.dim == 48 ? 256 : 300, positions, backward));
        for (const Role role : {Role::compute, Role::residual})
          for (const PlaceShape& s : {PlaceShape{1, 1, 3, shift}, PlaceShape{3, 5, 33, shift},
                                      PlaceShape{9, 16, 96, shift}})
            cases.push_back(place_case(s, role, positions, backward));
      }
  struct Window {
    int64_t rows, length, channels, width;
  };
  for (const auto& [rows, length, channels, width] :
       {Window{1, 1, 1, 3}, Window{2, 5, 3, 1}, Window{3, 4, 7, 7}, Window{5, 37, 19, 5}}) {
    const Shape in{rows * length, channels}, out{rows * length, channels * width};
    const Call forward = [length = length, width = width](Backend& b, const Tensors& t) {
      b.unfold(t["in"], length, width, t["out"]);
    };
    const std::string shape = fmt::format("r{}_n{}_c{}_w{}", rows, length, channels, width);
    cases.push_back({.name = "unfold_" + shape,
                     .arguments = {{"in", Role::residual, in}, {"out", Role::compute, out, output}},
                     .run = forward});
    cases.push_back({.name = "unfold_backward_" + shape,
                     .arguments = {{"in", Role::residual, in},
                                   {"out", Role::compute, out, derived},
                                   {"dout", Role::compute, out},
                                   {"din", Role::residual_gradient, in, adds}},
                     .run =
                         [length = length, width = width](Backend& b, const Tensors& t) {
                           b.unfold_backward(t["dout"], length, width, t["din"]);
                         },
                     .forward = forward,
                     .cotangents = {{"out", "dout"}},
                     .gradients = {{"in", "din"}}});
  }
  return cases;
}

}  // namespace megabyte::test
