#include "plot/line_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <map>
#include <numeric>

namespace megabyte {
namespace {

constexpr std::array<const char*, 8> kColors{"#1b6ca8", "#c0392b", "#2e8b57", "#d98200",
                                             "#7b4fa3", "#0e8f9c", "#8c564b", "#5f6670"};
constexpr std::array<const char*, 3> kDashes{"", "8 4", "2 4"};
constexpr double kWidth = 900, kHeight = 480, kLeft = 78, kBottom = 58;
constexpr double kLabelSize = 13, kLabelApart = 17;

// Of text in a sans-serif face; a little more than it takes.
double text_width(std::string_view text, double size) {
  double width = 0;
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if ((u & 0xc0) == 0x80) continue;  // a later byte of a character
    const bool narrow = std::string_view(" .,:;'|!()[]ijlftI/-").find(c) != std::string_view::npos;
    const bool wide = (c >= 'A' && c <= 'Z') || c == 'm' || c == 'w' || u >= 0x80;
    width += narrow ? 0.4 : wide ? 0.76 : 0.6;
  }
  return width * size;
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else if (static_cast<unsigned char>(c) >= 0x20)
      out += c;
  }
  return out;
}

bool shown(const LineChart& chart, const ChartPoint& p) {
  return std::isfinite(p.x) && std::isfinite(p.y) && (!chart.x.log || p.x > 0) &&
         (!chart.y.log || p.y > 0);
}

double scale(const Axis& axis, double value) { return axis.log ? std::log10(value) : value; }

struct Range {
  double low = 0, high = 1;  // of values

  void include(double value, bool first) {
    low = first ? value : std::min(low, value);
    high = first ? value : std::max(high, value);
  }
  // A little room at the ends given, and never nothing.
  void widen(const Axis& axis, double below, double above) {
    if (axis.log) {
      const double ratio = std::max(high / low, 1.05);
      low /= std::pow(ratio, below);
      high *= std::pow(ratio, above);
    } else {
      const double span = std::max(high - low, std::max(std::abs(high), 1e-9) * 0.05);
      low -= below * span;
      high += above * span;
    }
  }
};

// 1, 2, 5, 10, 20 … at most `most` in [low, high].
double nice_step(double span, int most) {
  const double raw = span / most;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  for (const double times : {1.0, 2.0, 2.5, 5.0})
    if (times * power >= raw * (1 - 1e-9)) return times * power;
  return 10 * power;
}

std::vector<double> linear_ticks(double low, double high, int most) {
  const double step = nice_step(high - low, most);
  std::vector<double> ticks;
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; ++i)
    ticks.push_back(i * step);
  return ticks;
}

// Powers of `base`, every so many that at most `most` are left; `between`: the multiples that stand
// between them if there is room.
std::vector<double> power_ticks(double base, const std::vector<double>& between, double low,
                                double high, int most) {
  const auto first = static_cast<int>(std::floor(std::log(low) / std::log(base))) - 1;
  const auto last = static_cast<int>(std::ceil(std::log(high) / std::log(base))) + 1;
  const int every = std::max(1, (last - first - 2 + most - 1) / most);
  std::vector<double> ticks;
  for (int power = first; power <= last; ++power) {
    if (((power % every) + every) % every != 0) continue;
    for (const double times : between) {
      const double value = times * std::pow(base, power);
      if (value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) ticks.push_back(value);
    }
  }
  return ticks;
}

std::vector<double> log_ticks(const Axis& axis, double low, double high, int most) {
  if (axis.unit == Unit::binary) return power_ticks(2, {1}, low, high, most);
  std::vector<double> best;
  for (const std::vector<double>& between : std::vector<std::vector<double>>{
           {1}, {1, 3}, {1, 2, 5}, {1, 1.5, 2, 3, 5, 7}, {1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8}}) {
    std::vector<double> ticks = power_ticks(10, between, low, high, most);
    if (best.empty() || ticks.size() <= static_cast<size_t>(most)) best = std::move(ticks);
  }
  if (best.size() >= 4) return best;
  return linear_ticks(low, high, most);  // a narrow piece of the axis
}

std::string digits(double value) { return fmt::format("{:.4g}", value); }

}  // namespace

std::vector<double> axis_ticks(const Axis& axis, double low, double high, int most) {
  if (axis.log && axis.unit == Unit::time) {
    std::vector<double> ticks;
    for (const double t :
         {0.1,  0.2,  0.5,   1.0,   2.0,   5.0,   10.,    20.,    30.,    60.,     120.,
          300., 600., 1200., 1800., 3600., 7200., 14400., 36000., 86400., 172800., 432000.})
      if (t >= low && t <= high) ticks.push_back(t);
    while (ticks.size() > static_cast<size_t>(most)) {
      std::vector<double> fewer;
      for (size_t i = (ticks.size() - 1) % 2; i < ticks.size(); i += 2) fewer.push_back(ticks[i]);
      ticks = fewer;
    }
    if (ticks.size() >= 3) return ticks;
  }
  return axis.log ? log_ticks(axis, low, high, most) : linear_ticks(low, high, most);
}

std::string tick_text(const Axis& axis, double value) {
  const auto unit = [&](std::string_view prefix) {
    const std::string rest = fmt::format("{}{}", prefix, axis.symbol);
    return rest.empty() ? "" : " " + rest;
  };
  if (axis.unit == Unit::time) {
    if (value < 60) return digits(value) + "s";
    const auto s = static_cast<int64_t>(std::llround(value));
    const int64_t hours = s / 3600, minutes = s / 60 % 60, seconds = s % 60;
    std::string text = hours > 0 ? fmt::format("{}h", hours) : "";
    if (minutes > 0 || (hours > 0 && seconds > 0)) text += fmt::format("{}m", minutes);
    if (seconds > 0) text += fmt::format("{}s", seconds);
    return text;
  }
  if (axis.unit == Unit::plain) return digits(value) + unit("");
  const double step = axis.unit == Unit::binary ? 1024 : 1000;
  constexpr std::array<std::string_view, 9> kDecimal{"", "k", "M", "G", "T", "P", "E", "Z", "Y"};
  constexpr std::array<std::string_view, 9> kBinary{"",   "Ki", "Mi", "Gi", "Ti",
                                                    "Pi", "Ei", "Zi", "Yi"};
  size_t i = 0;
  while (std::abs(value) >= step * 0.99995 && i + 1 < kDecimal.size()) {
    value /= step;
    ++i;
  }
  return digits(value) + unit((axis.unit == Unit::binary ? kBinary : kDecimal)[i]);
}

std::vector<double> spread_labels(const std::vector<double>& wanted, double apart, double low,
                                  double high) {
  std::vector<size_t> order(wanted.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return wanted[a] < wanted[b]; });
  // Groups of labels that touch stand around the mean of where they want to be.
  struct Group {
    size_t first, count;
    double sum;  // of (wanted - place in the group)
  };
  std::vector<Group> groups;
  const auto begin_of = [&](const Group& g) {
    const double room = high - low - apart * static_cast<double>(g.count - 1);
    return std::clamp(g.sum / static_cast<double>(g.count), low, low + std::max(room, 0.0));
  };
  for (size_t i = 0; i < order.size(); ++i) {
    groups.push_back({i, 1, wanted[order[i]]});
    while (groups.size() > 1) {
      const Group last = groups.back();
      Group& before = groups[groups.size() - 2];
      if (begin_of(before) + apart * static_cast<double>(before.count) <= begin_of(last)) break;
      before.sum += last.sum - apart * static_cast<double>(before.count * last.count);
      before.count += last.count;
      groups.pop_back();
    }
  }
  std::vector<double> places(wanted.size());
  for (const Group& g : groups)
    for (size_t i = 0; i < g.count; ++i)
      places[order[g.first + i]] = begin_of(g) + apart * static_cast<double>(i);
  return places;
}

std::string to_svg(const LineChart& chart) {
  double label_width = 0;
  Range xs, ys;
  bool any = false;
  std::vector<std::vector<ChartPoint>> lines;
  for (const ChartLine& line : chart.lines) {
    std::vector<ChartPoint>& points = lines.emplace_back();
    std::copy_if(line.points.begin(), line.points.end(), std::back_inserter(points),
                 [&](const ChartPoint& p) { return shown(chart, p); });
    for (const ChartPoint& p : points) {
      xs.include(p.x, !any);
      ys.include(p.y, !any);
      any = true;
    }
    label_width = std::max(label_width, text_width(line.name, kLabelSize));
  }
  if (!any) xs = ys = {1, 10};
  if (chart.y_ceiling > ys.low) ys.high = std::min(ys.high, chart.y_ceiling);
  xs.widen(chart.x, 0, 0.01);
  ys.widen(chart.y, 0.06, 0.04);

  const double top = chart.subtitle.empty() ? 46 : 64;
  const double right = std::min(label_width + 46, kWidth / 2), width = kWidth - kLeft - right,
               height = kHeight - top - kBottom;
  const auto place_x = [&](double x) {
    return kLeft + width * (scale(chart.x, x) - scale(chart.x, xs.low)) /
                       (scale(chart.x, xs.high) - scale(chart.x, xs.low));
  };
  const auto place_y = [&](double y) {
    return top + height * (scale(chart.y, ys.high) - scale(chart.y, y)) /
                     (scale(chart.y, ys.high) - scale(chart.y, ys.low));
  };

  std::string out;
  const auto text = [&](double x, double y, std::string_view words, std::string_view anchor,
                        std::string_view color, double size, std::string_view more = "") {
    fmt::format_to(
        std::back_inserter(out),
        "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" fill=\"{}\" font-size=\"{}\"{}>{}"
        "</text>\n",
        x, y, anchor, color, size, more, escaped(words));
  };
  fmt::format_to(std::back_inserter(out),
                 "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
                 "height=\"{1}\" font-family=\"Helvetica, Arial, sans-serif\">\n"
                 "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
                 "<clipPath id=\"inside\"><rect x=\"{2:.1f}\" y=\"{3:.1f}\" width=\"{4:.1f}\" "
                 "height=\"{5:.1f}\"/></clipPath>\n",
                 kWidth, kHeight, kLeft, top - 4, width + 5, height + 8);
  text(kLeft, 28, chart.title, "start", "#222", 17, " font-weight=\"bold\"");
  if (!chart.subtitle.empty()) text(kLeft, 48, chart.subtitle, "start", "#666", 13);

  for (const double tick : axis_ticks(chart.y, ys.low, ys.high, 9)) {
    const double y = place_y(tick);
    fmt::format_to(std::back_inserter(out),
                   "<path d=\"M{:.1f} {:.1f}h{:.1f}\" stroke=\"#e4e4e4\"/>\n", kLeft, y, width);
    text(kLeft - 8, y + 4, tick_text(chart.y, tick), "end", "#444", 12);
  }
  double free_from = 0;  // labels of the x axis that would touch the one before are left out
  for (const double tick : axis_ticks(chart.x, xs.low, xs.high, static_cast<int>(width / 62))) {
    const double x = place_x(tick);
    fmt::format_to(std::back_inserter(out),
                   "<path d=\"M{:.1f} {:.1f}v{:.1f}\" stroke=\"#eeeeee\"/>\n", x, top, height);
    const std::string words = tick_text(chart.x, tick);
    const double half = text_width(words, 12) / 2;
    if (x - half < free_from) continue;
    free_from = x + half + 4;
    text(x, top + height + 19, words, "middle", "#444", 12);
  }
  fmt::format_to(std::back_inserter(out),
                 "<path d=\"M{0:.1f} {1:.1f}v{2:.1f}h{3:.1f}\" fill=\"none\" stroke=\"#888\"/>\n",
                 kLeft, top, height, width);
  text(kLeft + width / 2, kHeight - 14, chart.x.label, "middle", "#222", 13);
  text(18, top + height / 2, chart.y.label, "middle", "#222", 13,
       fmt::format(" transform=\"rotate(-90 18 {:.1f})\"", top + height / 2));

  std::map<size_t, size_t> uses;  // of a colour
  std::vector<size_t> named;      // lines that have a name beside them
  std::vector<double> ends;
  std::vector<std::string> colors(chart.lines.size()), dashes(chart.lines.size());
  for (size_t i = 0; i < chart.lines.size(); ++i) {
    const ChartLine& line = chart.lines[i];
    const size_t color = (line.color >= 0 ? static_cast<size_t>(line.color) : i) % kColors.size();
    const size_t used = uses[color]++;
    const size_t dash = (line.dash >= 0 ? static_cast<size_t>(line.dash) : used) % kDashes.size();
    colors[i] = kColors[color];
    if (*kDashes[dash] != '\0') dashes[i] = fmt::format(" stroke-dasharray=\"{}\"", kDashes[dash]);
    if (lines[i].empty()) continue;
    std::string path;
    for (const ChartPoint& p : lines[i])
      path += fmt::format("{}{:.1f},{:.1f}", path.empty() ? "" : " ", place_x(p.x), place_y(p.y));
    fmt::format_to(std::back_inserter(out),
                   "<polyline clip-path=\"url(#inside)\" fill=\"none\" stroke-width=\"2.2\" "
                   "stroke-linejoin=\"round\" stroke=\"{}\"{} points=\"{}\"/>\n",
                   colors[i], dashes[i], path);
    if (lines[i].size() <= 40)
      for (const ChartPoint& p : lines[i])
        if (p.y <= ys.high)
          fmt::format_to(std::back_inserter(out),
                         "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.6\" fill=\"{}\"/>\n",
                         place_x(p.x), place_y(p.y), colors[i]);
    named.push_back(i);
    ends.push_back(std::max(place_y(lines[i].back().y), top));
  }

  // Each name stands at the right, at the height where its line ends or near it, with a thin line
  // to it.
  const std::vector<double> places = spread_labels(ends, kLabelApart, top, top + height);
  for (size_t k = 0; k < named.size(); ++k) {
    const ChartPoint& end = lines[named[k]].back();
    const double x = place_x(end.x), edge = kLeft + width;
    fmt::format_to(std::back_inserter(out),
                   "<path d=\"M{:.1f} {:.1f}L{:.1f} {:.1f}L{:.1f} {:.1f}\" fill=\"none\" "
                   "stroke=\"{}\" stroke-width=\"0.8\" stroke-opacity=\"0.7\"/>\n",
                   std::min(x + 4, edge + 4), ends[k], edge + 8, ends[k], edge + 26, places[k],
                   colors[named[k]]);
    text(edge + 30, places[k] + 4.5, chart.lines[named[k]].name, "start", colors[named[k]],
         kLabelSize);
  }
  return out + "</svg>\n";
}

}  // namespace megabyte
