// A small model, some data, and how two runs of `megabyte train` are compared.
#pragma once

#include <string>
#include <vector>

#include "support/command.h"

namespace megabyte::test {

// A folder with data.txt (20 kB) and config.json (context 64), and room for models.
class TrainFolder {
 public:
  TrainFolder();

  std::string operator/(const std::string& name) const { return folder_ / name; }
  // train --data .. --config .. --out NAME, and more.
  std::vector<std::string> arguments(const std::string& out,
                                     const std::vector<std::string>& more = {}) const;
  CommandResult train(const std::string& out, const std::vector<std::string>& more = {}) const;

 private:
  TemporaryFolder folder_;
};

// The step that a model's checkpoint is of; -1 if there is none.
int64_t checkpoint_step(const std::string& model);
void expect_same_tensors(const std::string& file, const std::string& other);
// Expects that two models, their training states and their metrics (times aside) are the same.
void expect_same_run(const std::string& model, const std::string& other);
std::vector<std::string> lines_of(const std::string& file);

}  // namespace megabyte::test
