#include "codec/model_bytes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "codec/stream_coder.h"
#include "support/configs.h"
#include "support/errors.h"
#include "support/model_folder.h"
#include "support/models.h"

namespace megabyte {
namespace {

using testing::HasSubstr;

std::string error_of_unpacking(const std::vector<uint8_t>& bytes) {
  const auto backend = make_backend("exact", 1);
  return test::error_of([&] { unpack_model(bytes, *backend, "a.mbz"); });
}

TEST(ModelBytes, GiveAModelThatCodesAlikeAndHasTheSameBytes) {
  for (const std::string config : {"cross_patch", "vocab_257", "hourglass"}) {
    const test::WideModel wide(test::small_config(config), "exact", DType::f32);
    const std::vector<uint8_t> bytes = pack_model(wide.model);
    const auto backend = make_backend("exact", 1);
    const auto model = unpack_model(bytes, *backend, "a.mbz");
    EXPECT_EQ(model->config(), wide.model.config());
    EXPECT_EQ(pack_model(*model), bytes);
    EXPECT_EQ(self_test(*model), self_test(wide.model));
    // Matrices take a byte for each weight.
    EXPECT_LT(bytes.size(), 3 * static_cast<size_t>(parameter_count(model->config())));
  }
}

TEST(ModelBytes, DamageIsAnErrorAndTakesNoMemory) {
  const test::WideModel wide(test::small_config("cross_patch"), "exact", DType::f32);
  const std::vector<uint8_t> bytes = pack_model(wide.model);
  const auto cut = [&](size_t size) {
    return std::vector<uint8_t>(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
  };
  for (const size_t size : {size_t{0}, size_t{3}, size_t{100}, bytes.size() - 1})
    EXPECT_THAT(error_of_unpacking(cut(size)), HasSubstr("the model inside is damaged")) << size;
  std::vector<uint8_t> longer = bytes;
  longer.push_back(0);
  EXPECT_THAT(error_of_unpacking(longer), HasSubstr("the model inside is damaged"));
  std::vector<uint8_t> no_config = bytes;
  no_config[4] = 'x';
  EXPECT_THAT(error_of_unpacking(no_config), HasSubstr("a.mbz: the model inside"));

  // A config of a model that is far larger than the file.
  Config huge = wide.model.config();
  for (StageConfig& stage : huge.stages) stage.layers = 4000;
  const std::string text = to_json(huge);
  std::vector<uint8_t> absurd(4 + text.size() + 1000, 1);
  const auto length = static_cast<uint32_t>(text.size());
  std::memcpy(absurd.data(), &length, 4);
  std::memcpy(absurd.data() + 4, text.data(), text.size());
  EXPECT_THAT(error_of_unpacking(absurd), HasSubstr("the model inside is damaged"));

  // The first tensor in no known form; then with a number, or a scale, that is none.
  const size_t tensors = 4 + (bytes[0] | size_t{bytes[1]} << 8);
  std::vector<uint8_t> changed = bytes;
  changed[tensors] = 2;
  EXPECT_THAT(error_of_unpacking(changed), HasSubstr("the model inside is damaged"));
  changed = bytes;
  std::fill_n(changed.begin() + static_cast<std::ptrdiff_t>(tensors) + 1, 4, 0xff);
  EXPECT_THAT(error_of_unpacking(changed), HasSubstr("the model inside is damaged"));
}

}  // namespace
}  // namespace megabyte
