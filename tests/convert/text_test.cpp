#include "convert/text.h"

#include "support/errors.h"
#include "support/media.h"

namespace megabyte {
namespace {

using testing::HasSubstr;

std::string text_complaint(const std::string& text) {
  return test::error_of([&] { check_text(test::bytes_of(text)); });
}

TEST(TextTest, Utf8IsText) {
  for (const std::string text :
       {"plain\n\t\x7f", "\xc2\x80 \xdf\xbf", "\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf",
        "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", "\xef\xbb\xbfwith a byte order mark"})
    EXPECT_NO_THROW(check_text(test::bytes_of(text))) << text;
}

TEST(TextTest, AllElseIsNamed) {
  EXPECT_THAT(text_complaint(""), HasSubstr("empty"));
  EXPECT_THAT(text_complaint(std::string("ab\0c", 4)), HasSubstr("byte 0x00 at 2"));
  EXPECT_THAT(text_complaint("caf\xe9 au lait"), HasSubstr("byte 0xe9 at 3"));
  for (const std::string text : {"\x80", "\xc3", "\xc3(", "\xe2\x82", "\xe2(\xac", "\xf0\x9f\x98",
                                 "\xff", "\xf8\x88\x80\x80\x80", "\xc0\xaf", "\xc1\xbf",
                                 "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf",       // not the shortest
                                 "\xed\xa0\x80", "\xed\xbf\xbf",           // surrogates
                                 "\xf4\x90\x80\x80", "\xf5\x80\x80\x80"})  // beyond U+10FFFF
    EXPECT_THAT(text_complaint("ab" + text), HasSubstr(" at 2")) << text;
}

}  // namespace
}  // namespace megabyte
