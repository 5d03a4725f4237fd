#include "compare/result.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>

namespace megabyte {
namespace {

using nlohmann::ordered_json;

ordered_json to_json(const MethodScore& score) {
  ordered_json out{{"method", score.method},
                   {"bpb", score.bpb},
                   {"bytes", score.bytes},
                   {"bytes_run_per_byte", score.bytes_run},
                   {"forward_flops_per_byte", score.flops_per_byte},
                   {"seconds", score.seconds},
                   {"by_position", score.by_position}};  // NaN is written as null
  if (score.word_perplexity) out["word_perplexity"] = *score.word_perplexity;
  return out;
}

MethodScore parse_method_score(const nlohmann::json& in) {
  MethodScore score;
  in.at("method").get_to(score.method);
  in.at("bpb").get_to(score.bpb);
  in.at("bytes").get_to(score.bytes);
  in.at("bytes_run_per_byte").get_to(score.bytes_run);
  in.at("forward_flops_per_byte").get_to(score.flops_per_byte);
  in.at("seconds").get_to(score.seconds);
  if (in.contains("word_perplexity")) score.word_perplexity = in["word_perplexity"].get<double>();
  for (const nlohmann::json& bpb : in.at("by_position"))
    score.by_position.push_back(bpb.is_null() ? std::numeric_limits<double>::quiet_NaN()
                                              : bpb.get<double>());
  return score;
}

}  // namespace

void ComparisonBudget::give(TrainSettings& settings, const Config& config) const {
  settings.steps = 0;
  settings.minutes = minutes;
  settings.bytes = bytes;
  if (flops <= 0) return;
  const double step = training_flops_per_byte(config, settings, false) *
                      static_cast<double>(settings.rows() * config.context());
  settings.steps = std::max<int64_t>(1, std::llround(flops / step));
}

const MethodScore* EntryResult::score(ScoringMethod method) const {
  const auto found = std::ranges::find(scores, name_of(method), &MethodScore::method);
  return found == scores.end() ? nullptr : &*found;
}

ordered_json to_json(const EntryResult& r) {
  ordered_json curve = ordered_json::array(), scores = ordered_json::array();
  for (const CurvePoint& p : r.curve)
    curve.push_back(
        {{"bytes", p.bytes}, {"flops", p.flops}, {"seconds", p.seconds}, {"valid_bpb", p.bpb}});
  for (const MethodScore& score : r.scores) scores.push_back(to_json(score));
  return {{"name", r.name},
          {"label", r.label},
          {"parameters", r.parameters},
          {"context", r.context},
          {"rows_per_step", r.batch},
          {"lr", r.lr},
          {"seed", r.seed},
          {"dtype", r.dtype},
          {"machine", r.machine},
          {"steps", r.steps},
          {"bytes", r.bytes},
          {"training_flops_per_byte", r.flops_per_byte},
          {"flops", r.flops()},
          {"seconds", r.seconds},
          {"peak_memory", r.peak_memory},
          {"scores", scores},
          {"curve", curve}};
}

EntryResult parse_entry_result(const nlohmann::json& in) {
  EntryResult r;
  in.at("name").get_to(r.name);
  in.at("label").get_to(r.label);
  in.at("parameters").get_to(r.parameters);
  in.at("context").get_to(r.context);
  in.at("rows_per_step").get_to(r.batch);
  in.at("lr").get_to(r.lr);
  in.at("seed").get_to(r.seed);
  in.at("dtype").get_to(r.dtype);
  in.at("machine").get_to(r.machine);
  in.at("steps").get_to(r.steps);
  in.at("bytes").get_to(r.bytes);
  in.at("training_flops_per_byte").get_to(r.flops_per_byte);
  in.at("seconds").get_to(r.seconds);
  in.at("peak_memory").get_to(r.peak_memory);
  for (const nlohmann::json& score : in.at("scores")) r.scores.push_back(parse_method_score(score));
  for (const nlohmann::json& p : in.at("curve"))
    r.curve.push_back({.bytes = p.at("bytes"),
                       .flops = p.at("flops"),
                       .seconds = p.at("seconds"),
                       .bpb = p.at("valid_bpb")});
  return r;
}

std::vector<CurvePoint> read_curve(const std::filesystem::path& metrics, double flops_per_byte) {
  std::vector<CurvePoint> curve;
  std::ifstream in(metrics, std::ios::binary);
  for (std::string line; std::getline(in, line);) {
    const auto parsed = nlohmann::json::parse(line, nullptr, false);
    if (!parsed.is_object() || !parsed.contains("valid_bpb") || parsed["valid_bpb"].is_null())
      continue;
    const int64_t bytes = parsed.at("bytes");
    curve.push_back({.bytes = bytes,
                     .flops = flops_per_byte * static_cast<double>(bytes),
                     .seconds = parsed.at("seconds"),
                     .bpb = parsed.at("valid_bpb")});
  }
  return curve;
}

MethodScore method_score(const Evaluation& evaluation, ScoringMethod method, bool word_perplexity) {
  const Score& total = evaluation.total;
  MethodScore score{.method = std::string(name_of(method)),
                    .bpb = total.bits_per_byte(),
                    .bytes = total.bytes,
                    .bytes_run = total.runs_per_byte(),
                    .flops_per_byte = total.flops_per_byte(),
                    .seconds = evaluation.seconds,
                    .by_position = total.bits_per_byte_by_place()};
  if (word_perplexity && evaluation.words > 0) score.word_perplexity = evaluation.word_perplexity();
  return score;
}

ordered_json comparison_json(const Plan& plan, const ComparisonBudget& budget,
                             const std::vector<EntryState>& entries) {
  ordered_json out{{"plan", plan.name}, {"title", plan.title}};
  if (budget.minutes > 0)
    out["budget"] = {{"minutes", budget.minutes}};
  else if (budget.flops > 0)
    out["budget"] = {{"flops", budget.flops}};
  else
    out["budget"] = {{"bytes", budget.bytes}};
  out["entries"] = ordered_json::array();
  for (const EntryState& state : entries) {
    if (state.result)
      out["entries"].push_back(to_json(*state.result));
    else
      out["entries"].push_back(
          {{"name", state.entry->name},
           {"label", state.entry->label},
           {state.error.empty() ? "unfinished" : "error",
            state.error.empty() ? ordered_json(true) : ordered_json(state.error)}});
  }
  return out;
}

}  // namespace megabyte
