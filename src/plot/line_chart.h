// Line charts as SVG: for docs, and for people who compare runs. Text stays text, colours can be
// told apart by the colour-blind, every line has its name beside it, and nothing overlaps.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace megabyte {

// How the numbers of an axis are written: 1.5, "1.5 MB" (powers of 1000), "64 Ki" (powers of 1024;
// ticks are at powers of two), "2m30s".
enum class Unit { plain, decimal, binary, time };

struct Axis {
  std::string label;
  bool log = false;
  Unit unit = Unit::plain;
  std::string symbol;  // of the unit, behind the prefix: "B", "FLOPs"
};

struct ChartPoint {
  double x, y;
};

struct ChartLine {
  std::string name;
  std::vector<ChartPoint>
      points;      // by x; those that are not finite (on a log axis: positive) are left out
  int color = -1;  // of the palette; -1: the line's place in the chart
  int dash = -1;   // 0 solid, 1 dashed, 2 dotted; -1: by how often the colour was used
};

struct LineChart {
  std::string title, subtitle;
  Axis x, y;
  std::vector<ChartLine> lines;
  double y_ceiling = 0;  // values above are cut off; 0: none is
};

std::string to_svg(const LineChart& chart);

// Where an axis from `low` to `high` (0 < low < high if it is logarithmic) has its ticks: about
// `most` of them at most, none outside.
std::vector<double> axis_ticks(const Axis& axis, double low, double high, int most);
std::string tick_text(const Axis& axis, double value);

// The places of labels that want to be at `wanted` (any order), at least `apart` from each other
// and inside [low, high] where they fit; moved as little as that takes, in their order.
std::vector<double> spread_labels(const std::vector<double>& wanted, double apart, double low,
                                  double high);

}  // namespace megabyte
