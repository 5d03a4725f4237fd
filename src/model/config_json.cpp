#include "model/config_json.h"

#include <fmt/ranges.h>

#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "base/error.h"

namespace megabyte {
namespace {

constexpr int64_t kFormatVersion = 1;

template <class Enum, size_t N>
using Words = std::array<std::pair<const char*, Enum>, N>;

constexpr Words<Activation, 2> kActivations{
    {{"relu", Activation::relu}, {"gelu", Activation::gelu}}};
constexpr Words<Positions, 3> kPositions{
    {{"none", Positions::none}, {"learned", Positions::learned}, {"rotary", Positions::rotary}}};
constexpr Words<AttentionKind, 2> kAttention{
    {{"softmax", AttentionKind::softmax}, {"linear", AttentionKind::linear}}};

constexpr const auto& words_of(Activation) { return kActivations; }
constexpr const auto& words_of(Positions) { return kPositions; }
constexpr const auto& words_of(AttentionKind) { return kAttention; }

enum class Presence { required, shown, hidden };  // shown: optional, but always written

// The one list of keys; reading, writing and --set follow it.
template <class Stage, class Visitor>
void visit_stage(Stage& stage, const Visitor& visit) {
  visit("length", stage.length, Presence::required);
  visit("dim", stage.dim, Presence::required);
  visit("layers", stage.layers, Presence::required);
  visit("heads", stage.heads, Presence::required);
  visit("ffn", stage.ffn, Presence::required);
  visit("positions", stage.positions, Presence::shown);
  visit("attention", stage.attention, Presence::hidden);
  visit("cross_patch", stage.cross_patch, Presence::hidden);
  visit("encoder_layers", stage.encoder_layers, Presence::hidden);
}

template <class Model, class Visitor>
void visit_model(Model& config, const Visitor& visit) {
  visit("vocab_size", config.vocab_size, Presence::shown);
  visit("activation", config.activation, Presence::shown);
  visit("norm_eps", config.norm_eps, Presence::shown);
  visit("tie_embeddings", config.tie_embeddings, Presence::shown);
  visit("latents", config.latents, Presence::hidden);
  visit("patch_encoder", config.patch_encoder, Presence::hidden);
  visit("stages", config.stages, Presence::required);
}

void visit_keys(const auto& object, const auto& visit) {
  if constexpr (requires { object.stages; })
    visit_model(object, visit);
  else
    visit_stage(object, visit);
}
void visit_keys(auto& object, const auto& visit) {
  if constexpr (requires { object.stages; })
    visit_model(object, visit);
  else
    visit_stage(object, visit);
}

// Reads values; knows the file and the path of keys that led here, for its errors.
class Reader {
 public:
  explicit Reader(std::string where) : where_(where.empty() ? "" : std::move(where) + ": ") {}

  template <class Object>
  void object(const nlohmann::json& json, const std::string& path, Object& out) const {
    if (!json.is_object()) wrong(json, path.empty() ? "the config" : path, "an object");
    std::vector<std::string> known;
    visit_keys(std::as_const(out),
               [&](const char* key, const auto&, Presence) { known.emplace_back(key); });
    for (const auto& item : json.items())
      if (std::find(known.begin(), known.end(), item.key()) == known.end())
        fail("{}unknown key '{}': known here are {}; a newer megabyte may know more", where_,
             join(path, printable(item.key())), fmt::join(known, ", "));
    visit_keys(out, [&](const char* key, auto& value, Presence presence) {
      const auto found = json.find(key);
      if (found != json.end())
        read(*found, join(path, key), value);
      else if (presence == Presence::required)
        fail("{}key '{}' is missing: add it", where_, join(path, key));
    });
  }

 private:
  static std::string join(const std::string& path, const std::string& key) {
    return path.empty() ? key : path + "." + key;
  }

  [[noreturn]] void wrong(const nlohmann::json& json, const std::string& path,
                          const std::string& expected) const {
    fail("{}{} must be {}, not {}", where_, path, expected, printable(json));
  }

  void read(const nlohmann::json& json, const std::string& path, int64_t& out) const {
    if (!json.is_number_integer() ||
        (json.is_number_unsigned() && json.get<uint64_t>() > INT64_MAX))
      wrong(json, path, "a whole number");
    out = json.get<int64_t>();
  }
  void read(const nlohmann::json& json, const std::string& path, double& out) const {
    if (!json.is_number()) wrong(json, path, "a number");
    out = json.get<double>();
  }
  void read(const nlohmann::json& json, const std::string& path, bool& out) const {
    if (!json.is_boolean()) wrong(json, path, "true or false");
    out = json.get<bool>();
  }
  template <class Enum>
  requires std::is_enum_v<Enum>
  void read(const nlohmann::json& json, const std::string& path, Enum& out) const {
    std::vector<std::string> names;
    for (const auto& [name, value] : words_of(out)) {
      if (json == name) {
        out = value;
        return;
      }
      names.push_back(fmt::format("\"{}\"", name));
    }
    wrong(json, path, fmt::format("{}", fmt::join(names, " or ")));
  }
  template <class T>
  void read(const nlohmann::json& json, const std::string& path, std::vector<T>& out) const {
    if (!json.is_array()) wrong(json, path, "a list");
    out.clear();
    for (size_t i = 0; i < json.size(); ++i)
      read(json[i], join(path, std::to_string(i)), out.emplace_back());
  }
  void read(const nlohmann::json& json, const std::string& path, StageConfig& out) const {
    object(json, path, out);
  }

  std::string where_;
};

using Json = nlohmann::ordered_json;

template <class Object>
Json write_object(const Object& object, bool all);

template <class T>
Json write(const T& value, bool all) {
  if constexpr (std::is_enum_v<T>) {
    for (const auto& [name, word] : words_of(value))
      if (word == value) return name;
    check(false, "every value of an enumeration has a word");
    return {};
  } else if constexpr (std::is_same_v<T, std::vector<StageConfig>>) {
    Json list = Json::array();
    for (const StageConfig& stage : value) list.push_back(write_object(stage, all));
    return list;
  } else {
    return value;
  }
}

template <class Object>
Json write_object(const Object& object, bool all) {
  Json json = Json::object(), defaults;
  const Object fresh;
  if (!all) defaults = write_object(fresh, true);
  visit_keys(object, [&](const char* key, const auto& value, Presence presence) {
    Json written = write(value, all);
    if (all || presence != Presence::hidden || written != defaults[key])
      json[key] = std::move(written);
  });
  return json;
}

}  // namespace

Config config_from_json(const nlohmann::json& json, const std::string& where) {
  nlohmann::json rest = json;
  constexpr const char* kVersion = "format_version";
  if (json.is_object() && json.contains(kVersion)) {
    const nlohmann::json& version = json[kVersion];
    if (!version.is_number_unsigned() || version.get<uint64_t>() == 0)
      fail("{}: {} must be a whole number from 1, not {}", where, kVersion, printable(version));
    if (version.get<uint64_t>() > kFormatVersion)
      fail(
          "{}: made by a newer megabyte: its format is {}, this one reads up to {}: update "
          "megabyte",
          where, version.get<uint64_t>(), kFormatVersion);
    rest.erase(kVersion);
  }
  Config config;
  Reader(where).object(rest, "", config);
  return config;
}

Json config_to_json(const Config& config, bool all) { return write_object(config, all); }

Json& json_child(Json& parent, const std::string& key, const std::string& path) {
  if (parent.is_object()) {
    if (parent.contains(key)) return parent[key];
    std::vector<std::string> known;
    for (const auto& item : parent.items()) known.push_back(item.key());
    fail("unknown key '{}': known here are {}", path, fmt::join(known, ", "));
  }
  if (!parent.is_array()) fail("'{}' has no parts: leave '.{}' away", path, key);
  for (size_t i = 0; i < parent.size(); ++i)
    if (key == std::to_string(i)) return parent[i];
  fail("there is no '{}': the list has {} entries, counted from 0", path, parent.size());
}

}  // namespace megabyte
