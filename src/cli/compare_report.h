// A comparison for people: a table and plots.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "compare/result.h"

namespace megabyte::cli {

std::string budget_text(const ComparisonBudget& budget);  // "2 minutes of training", "1 PFLOP"…

// Markdown: what was compared, a row for each entry, the plots.
std::string comparison_markdown(const Plan& plan, const ComparisonBudget& budget,
                                const std::vector<EntryState>& entries);

// Writes comparison.json, comparison.md and the plots comparison-bytes.svg, -flops.svg and
// -time.svg, each atomically. Entries that are not finished are named.
void write_comparison(const std::filesystem::path& folder, const Plan& plan,
                      const ComparisonBudget& budget, const std::vector<EntryState>& entries);

}  // namespace megabyte::cli
