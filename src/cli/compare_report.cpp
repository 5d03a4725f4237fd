#include "cli/compare_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <set>

#include "cli/numbers.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "plot/line_chart.h"

namespace megabyte::cli {
namespace {

struct Plot {
  const char *file, *title;
  Axis x;
  double (*at)(const CurvePoint&);
};

const Plot kPlots[] = {
    {"comparison-bytes.svg",
     "Bits per byte over the bytes read",
     {.label = "bytes read in training", .log = true, .unit = Unit::decimal, .symbol = "B"},
     [](const CurvePoint& p) { return static_cast<double>(p.bytes); }},
    {"comparison-flops.svg",
     "Bits per byte over the FLOPs of training",
     {.label = "FLOPs of training", .log = true, .unit = Unit::decimal, .symbol = "FLOP"},
     [](const CurvePoint& p) { return p.flops; }},
    {"comparison-time.svg",
     "Bits per byte over the time of training",
     {.label = "time of training", .log = true, .unit = Unit::time},
     [](const CurvePoint& p) { return p.seconds; }}};

// In a cell of a table.
std::string cell(std::string text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c == '\n' || c == '\r' ? ' ' : c;
  }
  return out;
}

std::vector<ScoringMethod> methods_of(const std::vector<EntryState>& entries) {
  std::vector<ScoringMethod> methods;
  for (const EntryState& state : entries)
    for (const ScoringMethod method : state.entry->methods)
      if (std::ranges::find(methods, method) == methods.end()) methods.push_back(method);
  return methods;
}

// The fewest bits per byte of all entries, to the digits that are shown.
std::map<ScoringMethod, double> best_of(const std::vector<EntryState>& entries) {
  std::map<ScoringMethod, double> best;
  for (const EntryState& state : entries)
    for (const ScoringMethod method : methods_of(entries))
      if (const MethodScore* score = state.result ? state.result->score(method) : nullptr) {
        const auto [found, fresh] = best.emplace(method, score->bpb);
        if (!fresh) found->second = std::min(found->second, score->bpb);
      }
  return best;
}

std::string shown(const MethodScore* score, double best) {
  if (score == nullptr) return "–";
  const bool wins = std::round(score->bpb * 1000) == std::round(best * 1000);
  return wins ? fmt::format("**{:.3f}**", score->bpb) : fmt::format("{:.3f}", score->bpb);
}

void add_results(std::string& out, const std::vector<EntryState>& entries, bool words) {
  const std::vector<ScoringMethod> methods = methods_of(entries);
  const std::map<ScoringMethod, double> best = best_of(entries);
  const auto add = std::back_inserter(out);
  out += "| model | parameters | context | learning rate |";
  for (const ScoringMethod method : methods) fmt::format_to(add, " {} |", name_of(method));
  if (words) out += " word perplexity |";
  out += " bytes read | FLOPs | FLOPs a byte | time | bytes/s |\n|---|---|---|---|";
  for (size_t i = 0; i < methods.size() + (words ? 1 : 0); ++i) out += "---|";
  out += "---|---|---|---|---|\n";
  for (const EntryState& state : entries) {
    if (!state.result) continue;
    const EntryResult& r = *state.result;
    fmt::format_to(add, "| {} | {} | {} | {:g} |", cell(r.label),
                   scaled(static_cast<double>(r.parameters)), r.context, r.lr);
    for (const ScoringMethod method : methods) {
      const auto found = best.find(method);
      fmt::format_to(add, " {} |", shown(r.score(method), found == best.end() ? 0 : found->second));
    }
    if (words) {
      double least = 0;  // of the entry's methods
      for (const MethodScore& score : r.scores)
        if (score.word_perplexity && (least == 0 || *score.word_perplexity < least))
          least = *score.word_perplexity;
      out += least > 0 ? fmt::format(" {:.4g} |", least) : " – |";
    }
    fmt::format_to(add, " {} | {} | {} | {} | {} |\n", scaled(static_cast<double>(r.bytes), "B"),
                   scaled(r.flops(), "FLOP"), scaled(r.flops_per_byte, "FLOP"),
                   human_duration(r.seconds),
                   scaled(static_cast<double>(r.bytes) / std::max(r.seconds, 1e-9), "B/s"));
  }
}

void add_costs(std::string& out, const std::vector<EntryState>& entries) {
  const auto add = std::back_inserter(out);
  out +=
      "| model | scored by | bytes run a byte | forward FLOPs a byte | time |\n"
      "|---|---|---|---|---|\n";
  for (const EntryState& state : entries) {
    if (!state.result) continue;
    for (const MethodScore& score : state.result->scores)
      fmt::format_to(add, "| {} | {} | {:.2f} | {} | {:.1f} s |\n", cell(state.result->label),
                     score.method, score.bytes_run, scaled(score.flops_per_byte, "FLOP"),
                     score.seconds);
  }
}

std::string plot(const Plot& kind, const Plan& plan, const std::vector<EntryState>& entries) {
  LineChart chart{.title = kind.title,
                  .subtitle = plan.title,
                  .x = kind.x,
                  .y = {.label = "held-out bits per byte", .log = true}};
  double lowest = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (!entries[i].result) continue;
    const EntryResult& result = *entries[i].result;
    ChartLine line{.name = result.label, .color = static_cast<int>(i)};
    for (const CurvePoint& p : result.curve) {
      line.points.push_back({kind.at(p), p.bpb});
      if (std::isfinite(p.bpb) && p.bpb > 0) lowest = lowest == 0 ? p.bpb : std::min(lowest, p.bpb);
    }
    if (!line.points.empty()) line.name += fmt::format(" {:.3f}", line.points.back().y);
    chart.lines.push_back(std::move(line));
  }
  chart.y_ceiling = 2.5 * lowest;  // the first steps say nothing about models
  return to_svg(chart);
}

}  // namespace

std::string budget_text(const ComparisonBudget& budget) {
  if (budget.minutes > 0) return fmt::format("{} of training", human_duration(60 * budget.minutes));
  if (budget.flops > 0) return fmt::format("{} of training", scaled(budget.flops, "FLOP"));
  return fmt::format("{} read", scaled(static_cast<double>(budget.bytes), "B"));
}

std::string comparison_markdown(const Plan& plan, const ComparisonBudget& budget,
                                const std::vector<EntryState>& entries) {
  std::string out = fmt::format("# {}\n\n", plan.title);
  const auto add = std::back_inserter(out);
  if (!plan.description.empty()) out += plan.description + "\n\n";
  std::set<std::string> machines;
  int64_t scored = 0;
  uint64_t seed = 0;
  bool words = false;
  for (const EntryState& state : entries)
    if (state.result) {
      machines.insert(state.result->machine + ", " + state.result->dtype);
      seed = state.result->seed;
      for (const MethodScore& score : state.result->scores) {
        scored = std::max(scored, score.bytes);
        words |= score.word_perplexity.has_value();
      }
    }
  fmt::format_to(add, "Plan `{}`, {} for each model, seed {}.", plan.name, budget_text(budget),
                 seed);
  if (scored > 0)
    fmt::format_to(add, " Scores are bits per byte of the same {} held-out bytes{}.", scored,
                   words ? ", word perplexity that of the best method" : "");
  for (const std::string& machine : machines) fmt::format_to(add, " Machine: {}.", machine);
  out += "\n\n";
  const bool any = std::ranges::any_of(entries, [](const auto& e) { return e.result.has_value(); });
  if (any) add_results(out, entries, words);
  for (const EntryState& state : entries)
    if (!state.result)
      fmt::format_to(add, "\n{} {}\n", state.entry->label,
                     state.error.empty() ? "is not finished." : "failed: " + state.error);
  if (!any) return out;
  out += "\n";
  for (const Plot& each : kPlots) fmt::format_to(add, "![{}]({})\n\n", each.title, each.file);
  out += "What scoring costs:\n\n";
  add_costs(out, entries);
  return out;
}

void write_comparison(const std::filesystem::path& folder, const Plan& plan,
                      const ComparisonBudget& budget, const std::vector<EntryState>& entries) {
  for (const Plot& each : kPlots)
    write_file_atomically(folder / each.file, plot(each, plan, entries));
  write_file_atomically(folder / "comparison.md", comparison_markdown(plan, budget, entries));
  write_file_atomically(folder / "comparison.json",
                        to_text(comparison_json(plan, budget, entries)) + "\n");
}

}  // namespace megabyte::cli
