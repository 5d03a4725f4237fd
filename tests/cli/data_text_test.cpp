// Documents from the command line: gathered, learned with their ends, scored, written until they
// end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "support/command.h"
#include "support/training.h"

namespace megabyte::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using Words = std::vector<std::string>;

const std::string kPoem = "One byte, two bytes, three bytes, a patch.\n";

class DocumentsCommand : public testing::Test {
 protected:
  DocumentsCommand() {
    fs::create_directories(folder_ / "in/.git");
    fs::create_directories(folder_ / "in/build");
    for (int i = 0; i < 50; ++i) write_file(folder_ / ("in/" + std::to_string(i)), kPoem);
    write_file(folder_ / "in/.git/config", "hidden");
    write_file(folder_ / "in/build/made", "left out");
    write_file(folder_ / "in/binary", std::string("a\0b", 3));
    write_file(folder_ / "config.json", R"({"activation": "gelu", "stages": [
      {"length": 12, "dim": 32, "layers": 1, "heads": 2, "ffn": 64, "positions": "learned"},
      {"length": 4, "dim": 32, "layers": 1, "heads": 2, "ffn": 64, "positions": "learned"}]})");
  }

  CommandResult gather() const {
    return run_megabyte(
        {"data", "text", folder_ / "in", "--exclude", "build", "--out", folder_ / "poems.bin"});
  }
  CommandResult train(const std::string& data, const std::string& out, int steps,
                      const Words& more = {}) const {
    Words words{"train",
                "--data",
                data,
                "--config",
                folder_ / "config.json",
                "--out",
                out,
                "--lr",
                "0.01",
                "--batch",
                "4",
                "--threads",
                "1",
                "--quiet",
                "--steps",
                std::to_string(steps)};
    words.insert(words.end(), more.begin(), more.end());
    return run_megabyte(words);
  }

  TemporaryFolder folder_;
};

TEST_F(DocumentsCommand, TextIsGatheredAndTheRestNamed) {
  const CommandResult result = gather();
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("50 documents from 50 files"));
  EXPECT_THAT(result.out, HasSubstr("1 file skipped"));
  EXPECT_THAT(result.out, HasSubstr("--end-of-document"));
  EXPECT_THAT(result.err, HasSubstr("binary: it is no text in UTF-8: byte 0x00 at 1"));
  EXPECT_EQ(read_file(folder_ / "poems.bin").substr(0, 2 * kPoem.size()), kPoem + kPoem);
  const nlohmann::json manifest = nlohmann::json::parse(read_file(folder_ / "poems.bin.json"));
  EXPECT_EQ(manifest.at("kind"), "text");
  EXPECT_EQ(manifest.at("items").size(), 50u);
  EXPECT_EQ(manifest.at("items")[1].at("begin"), kPoem.size());
}

TEST_F(DocumentsCommand, AResultIsNoSource) {
  for (const char* more : {"--hidden", "--overwrite"}) {
    const CommandResult result =
        run_megabyte({"data", "text", folder_ / "in", "--exclude", "build", more, "--exclude",
                      "binary", "--out", folder_ / "in/all.txt"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(result.out, HasSubstr(more == std::string("--hidden") ? "51 documents" : "50 doc"));
  }
}

TEST_F(DocumentsCommand, AModelLearnsWhereDocumentsEnd) {
  ASSERT_EQ(gather().exit_code, 0);
  const std::string data = folder_ / "poems.bin", model = folder_ / "model";
  const CommandResult trained = train(data, model, 150, {"--end-of-document"});
  ASSERT_EQ(trained.exit_code, 0) << trained.err;
  EXPECT_EQ(nlohmann::json::parse(read_file(model + "/config.json")).at("vocab_size"), 257);

  const CommandResult drawn =
      run_megabyte({"generate", "--model", model, "--temperature", "0", "--bytes", "1000", "--out",
                    folder_ / "drawn", "--json"});
  ASSERT_EQ(drawn.exit_code, 0) << drawn.err;
  EXPECT_EQ(read_file(folder_ / "drawn/sample-000.bin"), kPoem);
  EXPECT_EQ(nlohmann::json::parse(drawn.err).at("ended"), 1);
  const CommandResult rest = run_megabyte(
      {"generate", "--model", model, "--temperature", "0", "--prompt", kPoem.substr(0, 21)});
  EXPECT_EQ(rest.out, kPoem.substr(21));

  // Each document by itself; of one that is cut off, the end is not scored.
  const auto score = [&](const std::string& file, const Words& more = {}) {
    Words words{"eval", "--model", model, "--data", file, "--json"};
    words.insert(words.end(), more.begin(), more.end());
    const CommandResult result = run_megabyte(words);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return nlohmann::json::parse(result.out);
  };
  const nlohmann::json all = score(data), one = score(folder_ / "in/0");
  EXPECT_EQ(all.at("documents"), 50);
  EXPECT_EQ(all.at("bytes"), 50 * kPoem.size());
  EXPECT_LT(all.at("bpb"), 0.3);
  EXPECT_NEAR(all.at("bpb"), one.at("bpb"), 1e-4);
  EXPECT_EQ(score(folder_ / "in").at("documents"), 53);
  const nlohmann::json two = score(data, {"--limit", std::to_string(kPoem.size() + 4)});
  EXPECT_EQ(two.at("documents"), 2);
  EXPECT_EQ(two.at("bytes"), kPoem.size() + 4);
  // A text that never ends here costs much where the model expects an end.
  write_file(folder_ / "twice", kPoem + kPoem);
  EXPECT_GT(score(folder_ / "twice").at("bpb"), one.at("bpb").get<double>() + 0.05);

  // The folder itself is the same to a model, and a resumed run knows its symbols.
  const CommandResult resumed = train(data, model, 152, {"--resume", "--end-of-document"});
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(checkpoint_step(model), 152);
}

TEST_F(DocumentsCommand, WithoutEndsNothingChanges) {
  ASSERT_EQ(gather().exit_code, 0);
  const std::string data = folder_ / "poems.bin";
  ASSERT_EQ(train(data, folder_ / "plain", 3).exit_code, 0);
  EXPECT_EQ(nlohmann::json::parse(read_file(folder_ / "plain/config.json")).at("vocab_size"), 256);
  const CommandResult other = train(data, folder_ / "plain", 4, {"--resume", "--end-of-document"});
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_THAT(other.err, HasSubstr("vocab_size"));
  const CommandResult both =
      train(data, folder_ / "both", 1, {"--end-of-document", "--align", "2"});
  EXPECT_EQ(both.exit_code, 2);
  EXPECT_THAT(both.err, HasSubstr("--align"));
  // A model with the symbol by its config, whatever asked for it.
  ASSERT_EQ(train(data, folder_ / "set", 1, {"--set", "vocab_size=257"}).exit_code, 0);
  ASSERT_EQ(train(data, folder_ / "set", 2, {"--resume", "--end-of-document"}).exit_code, 0);
}

}  // namespace
}  // namespace megabyte::test
