#include <gtest/gtest.h>

#include "support/command.h"

namespace megabyte {
namespace {

using test::run_megabyte;

TEST(MainCommand, HelpListsEveryCommandOnOneLine) {
  const auto run = run_megabyte({"--help"});
  EXPECT_EQ(run.exit_code, 0);
  for (const std::string command : {"train", "eval", "generate", "compress", "decompress", "verify",
                                    "list", "data", "quantize", "dump", "info", "bench"})
    EXPECT_NE(run.out.find("\n  " + command + " "), std::string::npos) << command;
  EXPECT_LT(run.out.size(), 1500u) << "details belong to the commands' own help";
}

TEST(MainCommand, BadUsageExitsWithTwo) {
  for (const std::vector<std::string>& words : {std::vector<std::string>{},
                                                {"frobnicate"},
                                                {"--frobnicate"},
                                                {"eval", "--frobnicate"},
                                                {"data"},
                                                {"data", "frobnicate"},
                                                {"train"}}) {
    const auto run = run_megabyte(words);
    EXPECT_EQ(run.exit_code, 2);
    EXPECT_TRUE(run.out.empty()) << run.out;
    EXPECT_FALSE(run.err.empty());
  }
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"frobnicate"}, {"data", "frobnicate"}})
    EXPECT_NE(run_megabyte(words).err.find("there is no command 'frobnicate'"), std::string::npos);
}

TEST(MainCommand, TellsItsVersion) {
  const auto run = run_megabyte({"--version"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_EQ(run.out, "0.1.0\n");
}

}  // namespace
}  // namespace megabyte
