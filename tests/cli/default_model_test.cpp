#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "support/command.h"
#include "support/model_folder.h"

namespace megabyte {
namespace {

namespace fs = std::filesystem;

using test::CommandResult;
using test::run_megabyte;
using test::TemporaryFolder;
using test::write_file;

// The program as it is installed, with or without a model.
class DefaultModel : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(folder_ / "prefix/bin");
    fs::copy_file(MEGABYTE_BINARY, program_);
    write_file(folder_ / "text", std::string(300, 'a'));
  }
  std::string run(const std::vector<std::string>& words) const {
    const CommandResult result = run_megabyte(words, "", program_);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_NE(result.err.find("model in the box: " + model_ + "\n"), std::string::npos)
        << result.err;
    return result.out;
  }
  static std::string run_named(std::vector<std::string> words, const std::string& model) {
    words.insert(words.end(), {"--model", model});
    const CommandResult result = run_megabyte(words);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.err.find("in the box"), std::string::npos) << result.err;
    return result.out;
  }

  TemporaryFolder folder_;
  const std::string program_ = folder_ / "prefix/bin/megabyte";
  std::string model_ = folder_ / "prefix/share/megabyte/model";
};

TEST_F(DefaultModel, CommandsTakeItWhereNoneIsNamed) {
  test::save_random_model("cross_patch", model_);
  const std::vector<std::string> generate{"generate", "--device",      "exact", "--bytes",
                                          "1500",     "--temperature", "0.5"};
  const std::string text = run(generate);
  EXPECT_EQ(text, run_named(generate, model_));
  write_file(folder_ / "text", text);  // what the model expects, so that it is not only stored
  const std::vector<std::string> compress{"compress", folder_ / "text", "-o", "-"};
  EXPECT_EQ(run(compress), run_named(compress, model_));
  run({"compress", folder_ / "text"});
  run({"verify", folder_ / "text.mbz"});
  EXPECT_EQ(run({"decompress", folder_ / "text.mbz", "-o", "-"}), text);
  EXPECT_NE(run({"eval", "--data", folder_ / "text"}).find("1500 bytes"), std::string::npos);
}

// The program with two models in the box. What is compressed is what the fast one expects.
class FastModel : public DefaultModel {
 protected:
  void SetUp() override {
    DefaultModel::SetUp();
    test::save_random_model("vocab_257", default_);
    model_ += "-fast";
    test::save_random_model("cross_patch", model_);
    text_ = run_named({"generate", "--device", "exact", "--bytes", "1500", "--temperature", "0.5"},
                      model_);
    write_file(folder_ / "text", text_);
    run({"compress", "--fast", folder_ / "text"});
  }
  CommandResult said(const std::vector<std::string>& words) const {
    return run_megabyte(words, "", program_);
  }

  const std::string default_ = model_;
  std::string text_;
};

TEST_F(FastModel, ArchivesKnowTheirModel) {
  EXPECT_EQ(test::read_file(folder_ / "text.mbz"),
            run_named({"compress", folder_ / "text", "-o", "-"}, model_));
  run({"verify", folder_ / "text.mbz"});
  EXPECT_EQ(run({"decompress", folder_ / "text.mbz", "-o", "-"}), text_);
  const std::string listed = said({"list", folder_ / "text.mbz"}).out;
  EXPECT_NE(listed.find("not inside, that of " + model_ + ";"), std::string::npos) << listed;
  // One that is named is the only one tried.
  const CommandResult other = said({"verify", folder_ / "text.mbz", "--model", default_});
  EXPECT_EQ(other.exit_code, 1);
  EXPECT_EQ(other.err.find(model_), std::string::npos) << other.err;
}

TEST_F(FastModel, AnArchiveOfNeitherIsRefusedAndBothAreNamed) {
  fs::remove_all(model_);
  test::save_random_model("rotary", model_);
  const CommandResult result = said({"decompress", folder_ / "text.mbz", "--force"});
  EXPECT_EQ(result.exit_code, 1);
  for (const std::string& words :
       {std::string("another model"), default_ + " ", model_ + " ", std::string("--model")})
    EXPECT_NE(result.err.find(words), std::string::npos) << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  const std::string listed = said({"list", folder_ / "text.mbz"}).out;
  EXPECT_NE(listed.find("not inside;"), std::string::npos) << listed;
}

TEST_F(FastModel, WhereItIsNotThereTheFolderIsNamed) {
  fs::remove_all(model_);
  const CommandResult result = said({"compress", "--fast", folder_ / "text", "--force"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find(model_), std::string::npos) << result.err;
}

TEST_F(FastModel, ItIsEitherTheFastOneOrOneThatIsNamed) {
  const CommandResult result = said({"compress", "--fast", "--model", model_, folder_ / "text"});
  EXPECT_EQ(result.exit_code, 2) << result.err;
}

TEST_F(DefaultModel, QuietCommandsDoNotNameIt) {
  test::save_random_model("cross_patch", model_);
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"compress", folder_ / "text", "--quiet"},
        {"verify", folder_ / "text.mbz", "--quiet"},
        {"decompress", folder_ / "text.mbz", "--quiet", "--force"}})
    EXPECT_EQ(run_megabyte(words, "", program_).err, "");
}

TEST_F(DefaultModel, TheOneBesideTheProgramInABuildComesFirst) {
  test::save_random_model("vocab_257", model_);
  model_ = folder_ / "prefix/bin/share/megabyte/model";
  test::save_random_model("cross_patch", model_);
  run({"generate", "--bytes", "1"});
}

TEST_F(DefaultModel, WithoutOneTheCommandsSayWhatToDo) {
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"generate", "--bytes", "1"},
        {"eval", "--data", folder_ / "text"},
        {"compress", folder_ / "text"}}) {
    const CommandResult result = run_megabyte(words, "", program_);
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_NE(result.err.find(model_), std::string::npos) << result.err;
    EXPECT_NE(result.err.find("--model"), std::string::npos) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(result.out, "");
  }
  EXPECT_FALSE(fs::exists(folder_ / "text.mbz"));
}

}  // namespace
}  // namespace megabyte
