// What `megabyte compare` was asked for. It lies in request.json of the comparison's folder, so
// that
// --resume needs nothing else.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "compare/plan.h"
#include "compare/result.h"
#include "train/checkpoint.h"

namespace megabyte::cli {

// Paths by the name of their set of data; by "" where the plan names none.
using NamedPaths = std::map<std::string, std::vector<std::string>>;

struct CompareRequest {
  Plan plan;
  NamedPaths data, valid;  // absolute
  ComparisonBudget budget;
  uint64_t seed = 0;  // 0: the plan's
  std::string dtype;  // empty: chosen by the machine

  // A new run of an entry. Its data are still to be opened.
  TrainingState state(const PlanEntry& entry) const;
};

// --data or --valid: paths, or NAME=PATH where the plan has sets of data. UsageError that says so.
NamedPaths named_paths(const char* option, const std::vector<std::string>& given, const Plan& plan);

bool holds_request(const std::filesystem::path& folder);
void save_request(const std::filesystem::path& folder, const CompareRequest& request);
CompareRequest load_request(const std::filesystem::path& folder);  // Error if it is damaged

// Error that names the entry and the setting by which `now` is another run than the `saved` one,
// the budget and the learning rate included: continued with others, a run compares with none.
void check_same_entry(const std::string& name, const TrainingState& saved,
                      const TrainingState& now);

}  // namespace megabyte::cli
