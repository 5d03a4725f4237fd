#include "io/json.h"

#include <set>
#include <vector>

#include "base/error.h"

namespace megabyte {
namespace {

constexpr int kMaxDepth = 64;

// "line 2, column 7: unexpected ']'; expected '}'" from nlohmann-json's longer message.
std::string plain_message(const std::string& what) {
  constexpr std::string_view kBefore = "parse error at ";
  const size_t at = what.find(kBefore);
  std::string message =
      at == std::string::npos ? what.substr(what.find("] ") + 2) : what.substr(at + kBefore.size());
  constexpr std::string_view kNoise = "syntax error while parsing ";
  if (const size_t noise = message.find(kNoise); noise != std::string::npos)
    message.erase(noise, kNoise.size());
  return printable(message);
}

}  // namespace

std::string printable(std::string text) {
  constexpr size_t kLongest = 200;
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) c = '?';
  return text;
}

std::string printable(const nlohmann::json& value) {
  return printable(value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
}

nlohmann::json parse_json(std::string_view text, const std::string& where) {
  using Event = nlohmann::json::parse_event_t;
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto watch = [&](int depth, Event event, nlohmann::json& value) {
    if (depth > kMaxDepth) fail("{}: JSON nested deeper than {} levels", where, kMaxDepth);
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(value.get<std::string>()).second)
      fail("{}: key '{}' stands twice in one object: remove one", where,
           printable(value.get<std::string>()));
    return true;
  };
  try {
    return nlohmann::json::parse(text, watch);
  } catch (const nlohmann::json::exception& e) {
    fail("{}: not valid JSON: {}", where, plain_message(e.what()));
  }
}

nlohmann::ordered_json parse_ordered_json(std::string_view text, const std::string& where) {
  parse_json(text, where);  // which is strict
  return nlohmann::ordered_json::parse(text);
}

std::string to_text(const nlohmann::ordered_json& value, int indent) {
  return value.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace megabyte
