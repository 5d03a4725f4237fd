// Between Config and the JSON of config.json; used by config.cpp only.
#pragma once

#include "io/json.h"
#include "model/config.h"

namespace megabyte {

// Keys and types are checked here, sizes by validate(). Errors begin with `where` unless empty.
Config config_from_json(const nlohmann::json& json, const std::string& where);
// Optional keys only where they differ from their defaults, or all of them.
nlohmann::ordered_json config_to_json(const Config& config, bool all);
// The member of an object or the entry of a list; Error that lists what there is. `path` is its
// whole name, for the message.
nlohmann::ordered_json& json_child(nlohmann::ordered_json& parent, const std::string& key,
                                   const std::string& path);

}  // namespace megabyte
