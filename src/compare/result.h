// What a comparison has found out: each entry's training and scores.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "compare/plan.h"
#include "eval/evaluation.h"
#include "train/checkpoint.h"

namespace megabyte {

struct CurvePoint {  // a validation while the entry was trained
  int64_t bytes = 0;
  double flops = 0, seconds = 0;
  double bpb = 0;
};

struct MethodScore {
  std::string method;
  double bpb = 0;
  int64_t bytes = 0;          // scored
  double bytes_run = 0;       // through the model, for each
  double flops_per_byte = 0;  // forward
  double seconds = 0;
  std::optional<double> word_perplexity;
  std::vector<double> by_position;  // bits per byte by place in the patch; NaN where there is none
};

struct EntryResult {
  std::string name, label, machine, dtype;
  int64_t parameters = 0, context = 0, batch = 0;  // batch: rows of a step
  double lr = 0;
  uint64_t seed = 0;
  int64_t steps = 0, bytes = 0;
  double flops_per_byte = 0;  // of training, without what checkpointing computes again
  double seconds = 0;         // of steps
  size_t peak_memory = 0;     // bytes, as Backend::peak_memory(); 0: not known
  std::vector<CurvePoint> curve;
  std::vector<MethodScore> scores;

  double flops() const { return flops_per_byte * static_cast<double>(bytes); }
  const MethodScore* score(ScoringMethod method) const;  // null: not scored so
};

// What every entry of a comparison is given; one of them is above zero.
struct ComparisonBudget {
  double minutes = 0, flops = 0;
  int64_t bytes = 0;

  // Of a run: FLOPs become the nearest number of whole steps, one at least. What activation
  // checkpointing computes again is no work for the result, and does not count.
  void give(TrainSettings& settings, const Config& config) const;
  bool operator==(const ComparisonBudget&) const = default;
};
// Where one entry stands.
struct EntryState {
  const PlanEntry* entry;
  std::optional<EntryResult> result;  // when it is finished
  std::string error;                  // why it failed; empty: it did not
};

nlohmann::ordered_json to_json(const EntryResult& result);
EntryResult parse_entry_result(const nlohmann::json& json);  // json's exception if it is not one

// The validations in metrics.jsonl.
std::vector<CurvePoint> read_curve(const std::filesystem::path& metrics, double flops_per_byte);
MethodScore method_score(const Evaluation& evaluation, ScoringMethod method, bool word_perplexity);

nlohmann::ordered_json comparison_json(const Plan& plan, const ComparisonBudget& budget,
                                       const std::vector<EntryState>& entries);

}  // namespace megabyte
