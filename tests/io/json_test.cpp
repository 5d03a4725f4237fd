#include "io/json.h"

#include "support/errors.h"

namespace megabyte {
namespace {

using testing::HasSubstr;
using testing::SizeIs;
using testing::StartsWith;

std::string json_complaint(const std::string& text) {
  return test::error_of([&] { parse_json(text, "file.json"); });
}

TEST(JsonTest, ParsesValues) {
  EXPECT_EQ(parse_json("{\"a\": [1, 2.5, \"x\", true, null]}", "")["a"][1], 2.5);
}

TEST(JsonTest, SyntaxErrorsHaveLineAndColumn) {
  EXPECT_THAT(json_complaint("{\n  \"a\": 1,\n}"),
              StartsWith("file.json: not valid JSON: line 3, column 1"));
  EXPECT_THAT(json_complaint(""), HasSubstr("line 1, column 1"));
  EXPECT_THAT(json_complaint("{\"a\": NaN}"), HasSubstr("invalid literal"));
  EXPECT_THAT(json_complaint("{} {}"), HasSubstr("line 1, column 4"));
  EXPECT_THAT(json_complaint("1e999"), HasSubstr("1e999"));
}

TEST(JsonTest, MessagesStayShortAndPlain) {
  EXPECT_THAT(json_complaint("[\"" + std::string(100'000, 'x')), SizeIs(testing::Lt(300u)));
  EXPECT_THAT(json_complaint("[\"\x1b[2J\xff"), Not(HasSubstr("\x1b")));
  EXPECT_EQ(printable(std::string("a\nb\x7f")), "a?b?");
}

TEST(JsonTest, KeysStandOnce) {
  EXPECT_THAT(json_complaint("{\"a\": 1, \"a\": 1}"), HasSubstr("'a' stands twice"));
  EXPECT_THAT(json_complaint("[{\"b\": {\"a\": 1, \"c\": {}, \"a\": 2}}]"),
              HasSubstr("'a' stands twice"));
  EXPECT_NO_THROW(parse_json("[{\"a\": {\"a\": 1}}, {\"a\": 1}]", ""));
}

TEST(JsonTest, NestingEnds) {
  EXPECT_THAT(json_complaint(std::string(100'000, '[')), HasSubstr("nested deeper"));
  EXPECT_THAT(json_complaint(std::string(1'000, '{')), HasSubstr("not valid JSON"));
}

}  // namespace
}  // namespace megabyte
