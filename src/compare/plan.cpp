#include "compare/plan.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>

#include "base/error.h"
#include "compare/shipped_plans.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "model/presets.h"

namespace megabyte {
namespace {

namespace fs = std::filesystem;

// What the command line says, for all entries alike.
constexpr std::string_view kNotOfAnEntry[] = {"data",    "valid", "steps",      "bytes",
                                              "minutes", "dtype", "valid-every"};

std::vector<std::string> training_keys() {
  std::vector<std::string> keys;
  for_each_setting([&](const char* name, auto, bool) {
    if (std::ranges::find(kNotOfAnEntry, std::string_view(name)) == std::end(kNotOfAnEntry))
      keys.emplace_back(name);
  });
  return keys;
}

// An object whose keys are known; values are asked for by key, type and what must hold.
class Object {
 public:
  Object(const nlohmann::json& value, std::string where, const std::vector<std::string>& known)
      : value_(value), where_(std::move(where)) {
    if (!value.is_object()) fail("{} must be an object, not {}", where_, printable(value));
    for (const auto& item : value.items())
      if (std::ranges::find(known, item.key()) == known.end())
        fail("{}: unknown key '{}': known here are {}", where_, printable(item.key()),
             fmt::join(known, ", "));
  }

  bool has(const char* key) const { return value_.contains(key); }
  const nlohmann::json& at(const char* key) const {
    if (!has(key)) fail("{}: key '{}' is missing: add it", where_, key);
    return value_.at(key);
  }
  std::string text(const char* key) const {
    const nlohmann::json& value = at(key);
    if (!value.is_string()) wrong(key, "a text");
    return value.get<std::string>();
  }
  std::string text(const char* key, const std::string& otherwise) const {
    return has(key) ? text(key) : otherwise;
  }
  std::vector<std::string> texts(const char* key) const {
    if (!has(key)) return {};
    const nlohmann::json& list = at(key);
    if (!list.is_array() ||
        !std::ranges::all_of(list, [](const nlohmann::json& x) { return x.is_string(); }))
      wrong(key, "a list of texts");
    return list.get<std::vector<std::string>>();
  }
  [[noreturn]] void wrong(const char* key, std::string_view expected) const {
    fail("{}: '{}' must be {}, not {}", where_, key, expected, printable(value_.at(key)));
  }
  const std::string& where() const { return where_; }

 private:
  const nlohmann::json& value_;
  std::string where_;
};

template <class T>
void read_setting(const Object& object, const char* key, T& out) {
  const nlohmann::json& value = object.at(key);
  if constexpr (std::is_same_v<T, bool>) {
    if (!value.is_boolean()) object.wrong(key, "true or false");
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!value.is_string()) object.wrong(key, "a text");
  } else if constexpr (std::is_integral_v<T>) {
    if (!value.is_number_integer() || (std::is_unsigned_v<T> && !value.is_number_unsigned()))
      object.wrong(key, "a whole number");
  } else if constexpr (std::is_floating_point_v<T>) {
    if (!value.is_number()) object.wrong(key, "a number");
  } else if constexpr (std::is_same_v<T, std::vector<double>>) {
    if (value.is_number()) return void(out = {value.get<double>()});
    if (!value.is_array()) object.wrong(key, "a number or a list of them");
  } else {
    if (!value.is_array()) object.wrong(key, "a list");
  }
  try {
    value.get_to(out);
  } catch (const nlohmann::json::exception&) {
    object.wrong(key, "a list of the right values");
  }
}

bool names_setting(const Object& object, const char* name) {
  return object.has("training") && object.at("training").contains(name);
}

void read_training(const nlohmann::json& value, const std::string& where, TrainSettings& settings) {
  const Object object(value, where, training_keys());
  for_each_setting([&](const char* name, auto member, bool) {
    if (object.has(name)) read_setting(object, name, settings.*member);
  });
  if (object.has("warmup") && !object.has("warmup-limit")) settings.warmup_limit = 1;
}

std::vector<ScoringMethod> read_methods(const Object& object, const char* key) {
  std::vector<ScoringMethod> methods;
  for (const std::string& name : object.texts(key)) {
    try {
      methods.push_back(scoring_method(name));
    } catch (const Error& e) {
      fail("{}: '{}': {}", object.where(), key, e.what());
    }
  }
  return methods;
}

bool suits(ScoringMethod method, const Config& config) {
  try {
    WindowWalk(config, method, 1);
    return true;
  } catch (const Error&) {
    return false;
  }
}

class PlanReader {
 public:
  PlanReader(const std::string& where, const fs::path& folder) : where_(where), folder_(folder) {}

  Plan read(nlohmann::ordered_json source) {
    inline_configs(source);
    const nlohmann::json value = source;
    const Object object(value, where_,
                        {"title", "description", "data", "scoring", "preset", "config", "set",
                         "training", "entries"});
    Plan plan;
    plan.title = object.text("title");
    plan.description = object.text("description", "");
    plan.data = object.texts("data");
    check_names(plan.data, "data set");
    const nlohmann::json scoring =
        object.has("scoring") ? object.at("scoring") : nlohmann::json::object();
    const Object how(scoring, where_ + ": scoring", {"methods", "bytes", "word_perplexity"});
    std::vector<ScoringMethod> methods{ScoringMethod::basic, ScoringMethod::sliding};
    if (how.has("methods")) methods = read_methods(how, "methods");
    if (how.has("bytes")) read_setting(how, "bytes", plan.scored_bytes);
    if (plan.scored_bytes < 1) how.wrong("bytes", "above 0");
    if (how.has("word_perplexity")) read_setting(how, "word_perplexity", plan.word_perplexity);

    const nlohmann::json& entries = object.at("entries");
    if (!entries.is_array() || entries.empty())
      fail("{}: 'entries' must be a list of at least one model", where_);
    for (size_t i = 0; i < entries.size(); ++i)
      plan.entries.push_back(read_entry(entries[i], i, object, plan, methods));
    std::vector<std::string> names;
    for (const PlanEntry& entry : plan.entries) names.push_back(entry.name);
    check_names(names, "entry");
    plan.source = std::move(source);
    return plan;
  }

 private:
  // A config that is a file's name becomes what the file says, so that the plan stands by itself.
  void inline_configs(nlohmann::ordered_json& source) const {
    const auto replace = [&](nlohmann::ordered_json& object) {
      if (!object.is_object() || !object.contains("config") || !object["config"].is_string())
        return;
      const fs::path file = folder_ / object["config"].get<std::string>();
      object["config"] = nlohmann::ordered_json::parse(to_json(load_config(file)));
    };
    replace(source);
    if (source.is_object() && source.contains("entries") && source["entries"].is_array())
      for (auto& entry : source["entries"]) replace(entry);
  }

  void check_names(const std::vector<std::string>& names, std::string_view what) const {
    std::set<std::string> seen;
    for (const std::string& name : names) {
      const bool plain =
          !name.empty() && name[0] != '.' && std::ranges::all_of(name, [](unsigned char c) {
            return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
          });
      if (!plain)
        fail("{}: the {} name '{}' names files: use letters, digits, '-', '_' and '.'", where_,
             what, printable(name));
      if (!seen.insert(name).second)
        fail("{}: there are two of the {} name '{}': rename one", where_, what, name);
    }
  }

  // Of the entry, or else of the whole plan: a preset, a config, or the preset 'quickstart'.
  const Object& base_of(const Object& entry, const Object& plan) const {
    const Object& base = entry.has("preset") || entry.has("config") ? entry : plan;
    if (base.has("preset") && base.has("config"))
      fail("{}: give 'preset' or 'config', not both", base.where());
    if (!base.has("preset") && !base.has("config"))
      fail("{}: neither the entry nor the plan names a model: add 'preset' or 'config'",
           entry.where());
    return base;
  }

  PlanEntry read_entry(const nlohmann::json& value, size_t i, const Object& plan,
                       const Plan& so_far, const std::vector<ScoringMethod>& methods) const {
    const bool named = value.is_object() && value.contains("name") && value["name"].is_string();
    const std::string where =
        where_ + ": entry " +
        (named ? fmt::format("'{}'", printable(value["name"].get<std::string>()))
               : std::to_string(i));
    const Object object(
        value, where, {"name", "label", "preset", "config", "set", "training", "scoring", "data"});
    PlanEntry entry;
    entry.name = object.text("name");
    entry.label = object.text("label", entry.name);

    const Object& base = base_of(object, plan);
    const Preset* preset = nullptr;
    try {
      preset = &find_preset(base.text("preset", "quickstart"));
    } catch (const Error& e) {
      fail("{}: {}", base.where(), e.what());
    }
    entry.config = base.has("config")
                       ? parse_config(base.at("config").dump(), base.where() + ": config")
                       : preset->config;
    entry.settings = settings_of(*preset, !base.has("config"));
    if (plan.has("training"))
      read_training(plan.at("training"), plan.where() + ": training", entry.settings);
    if (object.has("training"))
      read_training(object.at("training"), where + ": training", entry.settings);

    const bool sets_short_windows =
        names_setting(plan, "short-length") || names_setting(object, "short-length");
    std::vector<std::string> assignments =
        &base == &plan ? plan.texts("set") : std::vector<std::string>{};
    for (const std::string& own : object.texts("set")) assignments.push_back(own);
    try {
      for (const std::string& assignment : assignments) set_key(entry.config, assignment);
      validate(entry.config, "its model");
      if (!sets_short_windows) fit_short_windows(entry.settings, entry.config);
      TrainSettings with_budget = entry.settings;
      with_budget.steps = 1;
      validate(with_budget);
    } catch (const Error& e) {
      fail("{}: {}", where, e.what());
    }

    if (object.has("scoring")) {
      entry.methods = read_methods(object, "scoring");
      for (const ScoringMethod method : entry.methods)
        if (!suits(method, entry.config))
          fail("{}: 'scoring' has {}, which needs patches of two bytes and more: leave it out",
               where, name_of(method));
    } else {
      std::ranges::copy_if(methods, std::back_inserter(entry.methods),
                           [&](ScoringMethod m) { return suits(m, entry.config); });
    }
    if (entry.methods.empty()) fail("{}: no scoring method is left for it: name one", where);

    entry.data = object.text("data", "");
    if (so_far.data.empty() != entry.data.empty() ||
        (!entry.data.empty() && std::ranges::find(so_far.data, entry.data) == so_far.data.end()))
      fail("{}: 'data' is {}, but the plan's 'data' {}", where,
           entry.data.empty() ? "missing" : fmt::format("'{}'", printable(entry.data)),
           so_far.data.empty() ? "names no sets"
                               : fmt::format("has {}", fmt::join(so_far.data, ", ")));
    return entry;
  }

  std::string where_;
  fs::path folder_;
};

}  // namespace

Plan parse_plan(const std::string& text, const std::string& where, const fs::path& folder) {
  return PlanReader(where, folder).read(parse_ordered_json(text, where));
}

std::vector<std::string> plan_names() {
  std::vector<std::string> names;
  for (const ShippedPlan& plan : shipped_plans()) names.emplace_back(plan.name);
  return names;
}

Plan find_plan(const std::string& name_or_file) {
  const fs::path file = name_or_file;
  for (const ShippedPlan& shipped : shipped_plans()) {
    if (name_or_file != shipped.name) continue;
    Plan plan = parse_plan(std::string(shipped.text), "plan " + name_or_file, {});
    plan.name = name_or_file;
    return plan;
  }
  if (!fs::exists(file))
    fail("there is no plan '{}', neither as a file nor among those that come with the program: {}",
         name_or_file, fmt::join(plan_names(), ", "));
  Plan plan = parse_plan(std::string(MappedFile(file).text()), name_or_file, file.parent_path());
  plan.name = file.stem().string();
  return plan;
}

}  // namespace megabyte
