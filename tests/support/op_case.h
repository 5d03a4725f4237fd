// One list of cases per operation, from which come (in the spirit of ggml's test-backend-ops) the
// gradient check of the reference backend and the comparison of every other backend with it.
//
// A case names its tensors; a name that it does not list is an optional tensor left out.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/random.h"
#include "ops/ops.h"

namespace megabyte::test {

// Which element type a tensor has, given the compute dtype (ops/ops.h).
enum class Role { compute, residual, residual_gradient, master, f64, tokens };

enum class Use {
  input,    // random; the operation must leave it as it is
  derived,  // an input that OpCase::forward computes from the others
  output,   // poisoned with NaN before the call
  scratch,  // the same; what it holds afterwards means nothing
  adds,     // random; the operation adds to it
  changes,  // random; the operation reads and rewrites it
};

using Fill = std::function<double(Random&, int64_t i)>;  // element i of a tensor

Fill normal(double scale = 1);
Fill between(double low, double high);
Fill below(int64_t bound);  // whole numbers
Fill constant(double x);
Fill identity(int64_t n);  // of an (n, n) matrix

struct Argument {
  std::string name;
  Role role;
  Shape shape;
  Use use = Use::input;
  Fill fill = normal();
};

class Tensors {
 public:
  Tensor operator[](std::string_view name) const;  // Tensor{} where the case has none
  void set(const std::string& name, const Tensor& t) { tensors_[name] = t; }

 private:
  std::map<std::string, Tensor, std::less<>> tensors_;
};

using Call = std::function<void(Backend&, const Tensors&)>;

struct OpCase {
  std::string name;  // also the end of the test's name: letters, digits, _
  std::vector<Argument> arguments;
  Call run;  // the operation
  // For gradients: fills the derived arguments; `run` then leaves in the second of each pair of
  // `gradients` the gradient, with respect to the first, of the sum over `cotangents` of first .
  // second.
  Call forward = {};
  std::vector<std::pair<std::string, std::string>> cotangents = {}, gradients = {};
  // Several operations in one: what lies between them is rounded to the compute dtype, and so every
  // result has the accuracy of that.
  bool rounds_between = false;
};

// The cases of all operations (op_cases_*.cpp).
std::vector<OpCase> memory_cases();
std::vector<OpCase> input_cases();
std::vector<OpCase> linear_cases();
std::vector<OpCase> norm_cases();
std::vector<OpCase> attention_cases();
std::vector<OpCase> loss_cases();
std::vector<OpCase> decode_cases();
const std::vector<OpCase>& all_op_cases();

// Contents of a case's tensors on the host.
using Values = std::map<std::string, std::vector<double>, std::less<>>;

DType dtype_of_role(Role role, Backend& backend, DType compute);
// Random contents for all but outputs (and derived arguments, which stay empty), as numbers that
// the dtypes of `backend` hold exactly.
Values draw_values(const OpCase& c, Backend& backend, DType compute, uint64_t seed);
double rounded(double x, DType dtype);
// Makes the tensors with these contents on `backend`, NaN where there are none, makes the call and
// returns what the tensors then hold.
Values call_with(const OpCase& c, Backend& backend, DType compute, const Call& call,
                 const Values& before);

}  // namespace megabyte::test
