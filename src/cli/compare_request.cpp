#include "cli/compare_request.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "io/mapped_file.h"

namespace megabyte::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr const char* kFile = "request.json";

}  // namespace

TrainingState CompareRequest::state(const PlanEntry& entry) const {
  TrainingState state{.config = entry.config, .settings = entry.settings};
  TrainSettings& settings = state.settings;
  const auto paths = [&](const NamedPaths& named) {
    const auto found = named.find(entry.data);
    return found == named.end() ? std::vector<std::string>{} : found->second;
  };
  settings.data = paths(data);
  settings.valid = paths(valid);
  settings.dtype = dtype;
  settings.valid_every = 0;  // by the share of the budget instead
  if (seed > 0) settings.seed = seed;
  budget.give(settings, state.config);
  return state;
}

NamedPaths named_paths(const char* option, const std::vector<std::string>& given,
                       const Plan& plan) {
  NamedPaths paths;
  for (const std::string& each : given) {
    std::string name, path = each;
    if (!plan.data.empty()) {
      const size_t equals = each.find('=');
      name = each.substr(0, std::min(equals, each.size()));
      if (equals == std::string::npos || std::ranges::find(plan.data, name) == plan.data.end())
        throw UsageError(
            fmt::format("{} {}: the plan '{}' has sets of data with names, {}: write {}=PATH",
                        option, each, plan.name, fmt::join(plan.data, " and "), plan.data[0]));
      path = each.substr(equals + 1);
    }
    paths[name].push_back(fs::absolute(path).string());
  }
  return paths;
}

bool holds_request(const fs::path& folder) { return fs::exists(folder / kFile); }

void save_request(const fs::path& folder, const CompareRequest& request) {
  const ordered_json json{{"data", request.data},
                          {"valid", request.valid},
                          {"minutes", request.budget.minutes},
                          {"flops", request.budget.flops},
                          {"bytes", request.budget.bytes},
                          {"seed", request.seed},
                          {"dtype", request.dtype},
                          {"plan_name", request.plan.name},
                          {"plan", request.plan.source}};
  write_file_atomically(folder / kFile, to_text(json) + "\n");
}

CompareRequest load_request(const fs::path& folder) {
  const fs::path file = folder / kFile;
  const MappedFile mapped(file);
  const ordered_json json = parse_ordered_json(mapped.text(), file.string());
  CompareRequest request;
  try {
    json.at("data").get_to(request.data);
    json.at("valid").get_to(request.valid);
    json.at("minutes").get_to(request.budget.minutes);
    json.at("flops").get_to(request.budget.flops);
    json.at("bytes").get_to(request.budget.bytes);
    json.at("seed").get_to(request.seed);
    json.at("dtype").get_to(request.dtype);
    request.plan = parse_plan(json.at("plan").dump(), file.string(), folder);
    json.at("plan_name").get_to(request.plan.name);
  } catch (const nlohmann::json::exception&) {
    fail("{} is not what megabyte compare writes: start anew with --overwrite, or in another --out",
         file.string());
  }
  return request;
}

void check_same_entry(const std::string& name, const TrainingState& saved,
                      const TrainingState& now) {
  constexpr std::string_view kAlsoFixed[] = {"steps", "bytes", "minutes", "lr", "warmup-limit"};
  const auto other = [&](const std::string& what) { fail("entry '{}': {}", name, what); };
  for_each_setting([&](const char* key, auto member, bool fixed) {
    if (!fixed && std::ranges::find(kAlsoFixed, std::string_view(key)) == std::end(kAlsoFixed))
      return;
    if (saved.settings.*member != now.settings.*member)
      other(fmt::format(
          "its run has {} {}, but now it would be {}: continue with the same, or start anew with "
          "--overwrite or another --out",
          key, nlohmann::json(saved.settings.*member).dump(),
          nlohmann::json(now.settings.*member).dump()));
  });
  try {
    check_same_run(saved, now);
  } catch (const UsageError& e) {
    other(e.what());
  }
}

}  // namespace megabyte::cli
