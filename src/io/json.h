// Strict JSON: what the file formats are read with.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace megabyte {

// Parses one JSON value. Syntax errors (one line, with line and column), a key that stands twice
// in one object and nesting beyond 64 levels are Errors that begin with `where`.
nlohmann::json parse_json(std::string_view text, const std::string& where);

// The same with the keys in the order in which they stand there.
nlohmann::ordered_json parse_ordered_json(std::string_view text, const std::string& where);

// JSON as text, indented. Strings may be names of files, which are bytes of any kind; JSON is
// UTF-8, so what is not becomes U+FFFD.
std::string to_text(const nlohmann::ordered_json& value, int indent = 2);

// For messages, which stay short and on one line: text from a file; a value as it was written.
std::string printable(std::string text);
std::string printable(const nlohmann::json& value);

}  // namespace megabyte
