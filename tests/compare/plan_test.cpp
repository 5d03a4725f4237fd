#include "compare/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "model/presets.h"
#include "support/command.h"
#include "support/errors.h"

namespace megabyte {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Plan parse(const std::string& text) { return parse_plan(text, "plan.json", {}); }

std::string error_of(const std::string& text) {
  return test::error_of([&] { parse(text); });
}

TEST(Plan, EveryShippedPlanIsWhole) {
  EXPECT_GE(plan_names().size(), 8u);
  for (const std::string& name : plan_names()) {
    SCOPED_TRACE(name);
    const Plan plan = find_plan(name);
    EXPECT_EQ(plan.name, name);
    EXPECT_GE(plan.entries.size(), 2u);
    EXPECT_FALSE(plan.title.empty());
    EXPECT_FALSE(plan.description.empty());
    for (const PlanEntry& entry : plan.entries) {  // short windows divide the context
      const int64_t context = entry.config.context();
      EXPECT_EQ(context % entry.settings.window(context, 0), 0) << name << ": " << entry.name;
    }
    const Plan again = parse(plan.source.dump());  // as a resumed comparison reads it
    ASSERT_EQ(again.entries.size(), plan.entries.size());
    for (size_t i = 0; i < plan.entries.size(); ++i)
      EXPECT_EQ(again.entries[i].config, plan.entries[i].config);
  }
}

// A preset's short windows are of its own context.
TEST(Plan, AConfigHasNoShortWindowsButItsOwn) {
  const Plan plan = parse(R"({"title": "t", "entries": [
      {"name": "preset", "preset": "quickstart"},
      {"name": "config", "config": {"stages": [{"length": 300, "dim": 32, "layers": 1, "heads": 2,
                                                "ffn": 64, "positions": "rotary"}]}},
      {"name": "own", "preset": "quickstart", "training": {"short-length": 64}},
      {"name": "divided", "preset": "quickstart", "set": ["stages.0.length=32"]},
      {"name": "undivided", "preset": "quickstart", "set": ["stages.0.length=100"]}]})");
  EXPECT_EQ(plan.entries[0].settings.short_length, 128);
  EXPECT_EQ(plan.entries[1].settings.short_length, 0);
  EXPECT_EQ(plan.entries[2].settings.short_length, 64);
  EXPECT_EQ(plan.entries[3].settings.short_length, 128);
  EXPECT_EQ(plan.entries[4].settings.short_length, 0);
}

TEST(Plan, EntriesInheritModelTrainingAndScoring) {
  const Plan plan = parse(R"({"title": "t", "preset": "tiny", "set": ["stages.0.layers=2"],
    "training": {"lr": 0.5, "warmup": 7}, "scoring": {"methods": ["basic", "strided"], "bytes": 99},
    "entries": [
      {"name": "a"},
      {"name": "b", "label": "B", "set": ["stages.1.layers=1"], "training": {"lr": 0.25}},
      {"name": "c", "preset": "small", "scoring": ["sliding"]},
      {"name": "d", "config": {"stages": [
        {"length": 8, "dim": 16, "layers": 1, "heads": 2, "ffn": 32, "positions": "none"}]}}]})");
  ASSERT_EQ(plan.entries.size(), 4u);
  EXPECT_EQ(plan.scored_bytes, 99);
  const PlanEntry &a = plan.entries[0], &b = plan.entries[1], &c = plan.entries[2],
                  &d = plan.entries[3];
  EXPECT_EQ(a.label, "a");
  EXPECT_EQ(a.config.stages[0].layers, 2);
  EXPECT_EQ(a.settings.lr, 0.5);
  EXPECT_EQ(a.settings.warmup, 7);
  EXPECT_EQ(a.settings.warmup_limit, 1);  // as with --warmup
  EXPECT_EQ(a.settings.batch, find_preset("tiny").batch);
  EXPECT_THAT(a.methods, ElementsAre(ScoringMethod::basic, ScoringMethod::strided));
  EXPECT_EQ(b.label, "B");
  EXPECT_EQ(b.config.stages[0].layers, 2);
  EXPECT_EQ(b.config.stages[1].layers, 1);
  EXPECT_EQ(b.settings.lr, 0.25);
  EXPECT_EQ(c.config, find_preset("small").config);  // --set of the plan is for its own model
  EXPECT_EQ(c.settings.batch, find_preset("small").batch);
  EXPECT_THAT(c.methods, ElementsAre(ScoringMethod::sliding));
  EXPECT_THAT(d.methods, ElementsAre(ScoringMethod::basic));  // it has no patches to stride over
}

TEST(Plan, ConfigsMayBeFiles) {
  const test::TemporaryFolder folder;
  test::write_file(folder / "model.json", to_json(find_preset("tiny").config));
  test::write_file(folder / "plan.json",
                   R"({"title": "t", "entries": [{"name": "a", "config": "model.json"}]})");
  const Plan plan = find_plan(folder / "plan.json");
  EXPECT_EQ(plan.name, "plan");
  EXPECT_EQ(plan.entries[0].config, find_preset("tiny").config);
  EXPECT_TRUE(plan.source["entries"][0]["config"].is_object());
}

TEST(Plan, ErrorsNameThePlaceAndTheKey) {
  const auto entry = [](const std::string& keys) {
    return R"({"title": "t", "entries": [{"name": "x", )" + keys + "}]}";
  };
  EXPECT_THAT(error_of("{"), HasSubstr("plan.json: not valid JSON"));
  EXPECT_THAT(error_of("[]"), HasSubstr("must be an object"));
  EXPECT_THAT(error_of(R"({"title": "t"})"), HasSubstr("'entries' is missing"));
  EXPECT_THAT(error_of(R"({"title": "t", "entries": []})"), HasSubstr("at least one model"));
  EXPECT_THAT(error_of(R"({"title": 3, "entries": [{}]})"), HasSubstr("'title' must be a text"));
  EXPECT_THAT(error_of(R"({"titel": "t", "entries": [{}]})"), HasSubstr("unknown key 'titel'"));
  EXPECT_THAT(error_of(entry(R"("presett": "tiny")")),
              HasSubstr("entry 'x': unknown key 'presett': known here are name"));
  EXPECT_THAT(error_of(entry(R"("preset": "tinny")")), HasSubstr("did you mean tiny"));
  EXPECT_THAT(error_of(entry(R"("label": "L")")), HasSubstr("add 'preset' or 'config'"));
  EXPECT_THAT(error_of(entry(R"("preset": "tiny", "config": {})")), HasSubstr("not both"));
  EXPECT_THAT(error_of(entry(R"("preset": "tiny", "set": ["stages.0.dim=3"])")),
              HasSubstr("entry 'x': its model: stages.0.dim 3"));
  EXPECT_THAT(error_of(entry(R"("preset": "tiny", "set": "layers=3")")),
              HasSubstr("'set' must be a list of texts"));
  EXPECT_THAT(error_of(entry(R"("preset": "tiny", "training": {"lr": "fast"})")),
              HasSubstr("entry 'x': training: 'lr' must be a number"));
  EXPECT_THAT(error_of(entry(R"("preset": "tiny", "training": {"dropout": "some"})")),
              HasSubstr("'dropout' must be a number or a list of them"));
  EXPECT_THAT(error_of(entry(R"("preset": "tiny", "training": {"batch": 1.5})")),
              HasSubstr("'batch' must be a whole number"));
  EXPECT_THAT(error_of(entry(R"("preset": "tiny", "training": {"steps": 3})")),
              HasSubstr("unknown key 'steps'"));
  EXPECT_THAT(error_of(entry(R"("preset": "tiny", "training": {"lr": 0})")), HasSubstr("--lr"));
  EXPECT_THAT(error_of(entry(R"("preset": "tiny", "scoring": ["best"])")),
              HasSubstr("unknown scoring method 'best'"));
  EXPECT_THAT(error_of(entry(R"("preset": "paper-text-transformer", "scoring": ["strided"])")),
              HasSubstr("strided"));
  EXPECT_THAT(error_of(entry(R"("preset": "tiny", "data": "raster")")), HasSubstr("names no sets"));
  EXPECT_THAT(error_of(R"({"title": "t", "preset": "tiny", "entries": [{"name": "../x"}]})"),
              HasSubstr("use letters, digits"));
  EXPECT_THAT(error_of(R"({"title": "t", "preset": "tiny", "entries": [{"name": "x"},
                           {"name": "x"}]})"),
              HasSubstr("two of the entry name 'x'"));
  EXPECT_THAT(error_of(R"({"title": "t", "preset": "tiny", "data": ["a", "b"],
                           "entries": [{"name": "x", "data": "c"}]})"),
              HasSubstr("has a, b"));
  EXPECT_THAT(error_of(R"({"title": "t", "preset": "tiny", "scoring": {"bytes": 0},
                           "entries": [{"name": "x"}]})"),
              HasSubstr("'bytes' must be above 0"));
  try {
    find_plan("no-such-plan");
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("text-small"));
  }
}

}  // namespace
}  // namespace megabyte
