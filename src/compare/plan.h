// What `megabyte compare` trains: a plan is a JSON file that names models, how each is trained, and
// how all are scored (docs/comparison.md). Unknown keys and wrong values are Errors that name the
// file, the entry and the key.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "eval/windows.h"
#include "model/config.h"
#include "train/settings.h"

namespace megabyte {

struct PlanEntry {
  std::string name;   // letters, digits, '-', '_' and '.': also that of its folder
  std::string label;  // in tables and plots
  Config config;
  TrainSettings settings;  // without data, budget and element type
  std::vector<ScoringMethod> methods;
  std::string data;  // of Plan::data; empty where these have no names
};

struct Plan {
  std::string name, title, description;
  std::vector<std::string> data;     // names of the sets of data; none: one set without a name
  int64_t scored_bytes = 1'000'000;  // of the held-out data, its first
  bool word_perplexity = false;
  std::vector<PlanEntry> entries;
  nlohmann::ordered_json source;  // as it was read, but with no other file in it
};

// `where` is for messages; configs that are named as files are looked for in `folder`.
Plan parse_plan(const std::string& text, const std::string& where,
                const std::filesystem::path& folder);

// A plan that comes with the program, by its name, or a file. Error that lists the names.
Plan find_plan(const std::string& name_or_file);
std::vector<std::string> plan_names();

}  // namespace megabyte
