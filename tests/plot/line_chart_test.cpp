#include "plot/line_chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace megabyte {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(LineChart, TicksAreRoundAndInside) {
  EXPECT_THAT(axis_ticks({}, 0.3, 4.1, 5), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(axis_ticks({.log = true}, 0.9, 1200, 5), ElementsAre(1, 10, 100, 1000));
  EXPECT_THAT(axis_ticks({.log = true, .unit = Unit::binary}, 1024, 65536, 8),
              ElementsAre(1024, 2048, 4096, 8192, 16384, 32768, 65536));
  EXPECT_THAT(axis_ticks({.log = true, .unit = Unit::time}, 5, 130, 8),
              ElementsAre(5, 10, 20, 30, 60, 120));
  EXPECT_THAT(axis_ticks({.log = true, .unit = Unit::time}, 0.1, 1, 8),
              ElementsAre(0.1, 0.2, 0.5, 1));
  for (const bool log : {false, true})
    for (const Unit unit : {Unit::plain, Unit::decimal, Unit::binary, Unit::time})
      for (const double low : {1e-3, 0.7, 1.9, 3e6})
        for (const double ratio : {1.02, 1.5, 4.0, 1e3, 1e9}) {
          const std::vector<double> ticks =
              axis_ticks({.log = log, .unit = unit}, low, low * ratio, 8);
          EXPECT_LE(ticks.size(), 10u) << low << " " << ratio;
          EXPECT_TRUE(std::ranges::is_sorted(ticks));
          for (const double tick : ticks) {
            EXPECT_GE(tick, low * (1 - 1e-6));
            EXPECT_LE(tick, low * ratio * (1 + 1e-6));
          }
          if (ratio >= 4 && unit == Unit::plain) {
            EXPECT_GE(ticks.size(), 3u) << low << " " << ratio;
          }
        }
}

TEST(LineChart, TickTexts) {
  EXPECT_EQ(tick_text({}, 2.5), "2.5");
  EXPECT_EQ(tick_text({.unit = Unit::decimal, .symbol = "B"}, 1.5e6), "1.5 MB");
  EXPECT_EQ(tick_text({.unit = Unit::decimal}, 1e12), "1 T");
  EXPECT_EQ(tick_text({.unit = Unit::binary}, 65536), "64 Ki");
  EXPECT_EQ(tick_text({.unit = Unit::time}, 30), "30s");
  EXPECT_EQ(tick_text({.unit = Unit::time}, 150), "2m30s");
  EXPECT_EQ(tick_text({.unit = Unit::time}, 7200), "2h");
}

TEST(LineChart, LabelsKeepApartAndInside) {
  EXPECT_THAT(spread_labels({10, 50}, 10, 0, 100), ElementsAre(10, 50));
  EXPECT_THAT(spread_labels({50, 50}, 10, 0, 100), ElementsAre(45, 55));
  EXPECT_THAT(spread_labels({52, 1, 2}, 10, 0, 100), ElementsAre(52, 0, 10));
  const std::vector<double> crowd = spread_labels({99, 98, 97, 60, 96}, 10, 0, 100);
  std::vector<double> sorted = crowd;
  std::ranges::sort(sorted);
  for (size_t i = 1; i < sorted.size(); ++i) EXPECT_GE(sorted[i] - sorted[i - 1], 10 - 1e-9);
  EXPECT_LE(sorted.back(), 100);
  EXPECT_LT(crowd[4], crowd[2]);  // the order stays
}

TEST(LineChart, EveryLineHasItsNameAndItsColour) {
  LineChart chart{.title = "a < b & c", .x = {.log = true}, .y = {.log = true}};
  for (int i = 0; i < 3; ++i)
    chart.lines.push_back({.name = "line " + std::to_string(i), .points = {{1, 2}, {10, 3.0 + i}}});
  const double nan = std::numeric_limits<double>::quiet_NaN();
  chart.lines.push_back({.name = "broken", .points = {{0, 1}, {2, nan}, {-1, 3}}});
  chart.lines.push_back({.name = "again", .points = {{1, 2}, {3, 4}}, .color = 0});
  const std::string svg = to_svg(chart);
  EXPECT_THAT(svg, HasSubstr("a &lt; b &amp; c"));
  EXPECT_EQ(count(svg, "<polyline"), 4u);  // nothing of the broken one can be shown
  EXPECT_THAT(svg, Not(HasSubstr("broken")));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_EQ(count(svg, ">line 1</text>"), 1u);
  EXPECT_EQ(count(svg, "stroke-dasharray"), 1u);  // the colour that is used again
  EXPECT_EQ(count(svg, "<text"), count(svg, "</text>"));
}

TEST(LineChart, NothingToShowIsStillAChart) {
  const std::string svg = to_svg({.title = "empty", .x = {.log = true}, .y = {.log = true}});
  EXPECT_THAT(svg, HasSubstr("</svg>"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(to_svg({.title = "a point", .lines = {{.name = "one", .points = {{0, 0}}}}}),
              Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace megabyte
