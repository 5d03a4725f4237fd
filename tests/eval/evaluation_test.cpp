#include "eval/evaluation.h"

#include <gtest/gtest.h>

#include "model/cost.h"
#include "support/command.h"
#include "support/model_folder.h"

namespace megabyte {
namespace {

TEST(Evaluation, APartOfTheDataIsScoredAsThatPartAlone) {
  const test::TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 150; ++i) text += static_cast<char>('a' + i * 7 % 26);
  test::write_file(folder / "a", text.substr(0, 100));
  test::write_file(folder / "b", text.substr(100));
  test::write_file(folder / "tail", text.substr(60, 40));

  const auto backend = make_backend("reference");
  Hierarchy model(test::small_config("cross_patch"), *backend, DType::f32, false);
  model.parameters().initialize(7, 0.4);
  const ByteDataset both({folder / "a", folder / "b"}), tail({folder / "tail"}), b({folder / "b"});
  const Evaluation part = evaluate(model, both, {60, 150}, {});
  const Evaluation first = evaluate(model, tail, tail.all(), {});
  const Evaluation second = evaluate(model, b, b.all(), {});
  EXPECT_EQ(part.total.bytes, 90);
  EXPECT_EQ(part.documents, 2);
  ASSERT_EQ(part.files.size(), 2u);
  EXPECT_NEAR(part.total.nats, first.total.nats + second.total.nats, 1e-3);
  EXPECT_DOUBLE_EQ(part.total.flops, first.total.flops + second.total.flops);

  const Evaluation limited = evaluate(model, both, {60, 150}, {.limit = 40});
  EXPECT_NEAR(limited.total.nats, first.total.nats, 1e-3);
  EXPECT_EQ(limited.files.size(), 1u);
}

TEST(Evaluation, FlopsAreThoseOfTheWindowsThatRun) {
  const test::TemporaryFolder folder;
  const auto backend = make_backend("reference");
  Hierarchy model(test::small_config("cross_patch"), *backend, DType::f32, false);
  model.parameters().initialize(7, 0.4);
  const int64_t context = model.config().context();
  test::write_file(folder / "a", std::string(static_cast<size_t>(2 * context + 1), 'x'));
  const ByteDataset data({folder / "a"});
  const Evaluation result = evaluate(model, data, data.all(), {});
  const double whole = count_cost(model.config(), context).forward() * static_cast<double>(context);
  EXPECT_DOUBLE_EQ(result.total.flops, 2 * whole + count_cost(model.config(), 1).forward());
}

}  // namespace
}  // namespace megabyte
