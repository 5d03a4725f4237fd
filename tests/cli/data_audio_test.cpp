// Sound from the command line: to bytes, through a model, and back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "convert/audio.h"
#include "support/command.h"
#include "support/media.h"

namespace megabyte::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using Words = std::vector<std::string>;

class DataAudioCommand : public DataCommand {
 protected:
  DataAudioCommand() {
    fs::create_directories(folder_ / "in");
    for (int i = 0; i < 3; ++i)
      write_wav(folder_ / ("in/" + std::to_string(i) + ".wav"), tone(i), 16000);
  }

  static std::vector<int16_t> tone(int i) {
    std::vector<int16_t> samples(1600);
    for (size_t t = 0; t < samples.size(); ++t)
      samples[t] = static_cast<int16_t>(9000 * std::sin(static_cast<double>(t) * 0.1 * (i + 1)));
    return samples;
  }
  std::vector<int16_t> wav(const std::string& name, int64_t rate = 16000) const {
    const std::string file = read_file(folder_ / name);
    return decode_audio(bytes_of(file), rate);
  }
};

TEST_F(DataAudioCommand, ThereAndBack) {
  const CommandResult made = data({"audio", folder_ / "in", "--out", folder_ / "a.bin"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("0.3 s of s16le at 16000 Hz from 3 files, 9.60 kB"));
  EXPECT_THAT(made.out, HasSubstr("--align 2"));
  EXPECT_EQ(read_file(folder_ / "a.bin").substr(0, 3200),
            read_file(folder_ / "in/0.wav").substr(44));
  const nlohmann::json manifest = nlohmann::json::parse(read_file(folder_ / "a.bin.json"));
  EXPECT_EQ(manifest.at("kind"), "audio");
  EXPECT_EQ(manifest.at("settings"),
            nlohmann::json::parse(R"({"rate": 16000, "format": "s16le"})"));
  EXPECT_EQ(manifest.at("items")[2].at("begin"), 6400);

  const CommandResult back = data({"to-wav", folder_ / "a.bin", "--out", folder_ / "a.wav"});
  ASSERT_EQ(back.exit_code, 0) << back.err;
  std::vector<int16_t> whole;
  for (int i = 0; i < 3; ++i)
    for (const int16_t x : tone(i)) whole.push_back(x);
  EXPECT_EQ(wav("a.wav"), whole);
}

TEST_F(DataAudioCommand, OneByteASample) {
  for (const std::string format : {"u8", "mulaw"}) {
    const std::string bin = folder_ / (format + ".bin");
    ASSERT_EQ(
        data({"audio", folder_ / "in/0.wav", "--format", format, "--rate", "8000", "--out", bin})
            .exit_code,
        0);
    EXPECT_NEAR(static_cast<double>(fs::file_size(bin)), 800, 2);
    // As a generated sample: the settings come from --like, in a folder of its own.
    fs::create_directories(folder_ / format);
    fs::copy_file(bin, folder_ / (format + "/sample-000.bin"));
    const CommandResult back =
        data({"to-wav", folder_ / format, "--like", bin, "--out", folder_ / (format + "-wav")});
    ASSERT_EQ(back.exit_code, 0) << back.err;
    const std::vector<int16_t> heard = wav(format + "-wav/sample-000.wav", 8000);
    for (size_t t = 100; t < 700; ++t) EXPECT_NEAR(heard[t], tone(0)[2 * t], 400) << t;
  }
}

TEST_F(DataAudioCommand, BrokenFilesAreNamedAndSkipped) {
  const std::string good = read_file(folder_ / "in/1.wav");
  write_file(folder_ / "in/1.wav", good.substr(0, 1000));
  const CommandResult result =
      data({"audio", folder_ / "in", "--out", folder_ / "a.bin", "--json"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("skipped " + (folder_ / "in/1.wav") + ": it is a WAV file"));
  const nlohmann::json summary = nlohmann::json::parse(result.out);
  EXPECT_EQ(summary.at("files"), 2);
  EXPECT_EQ(summary.at("bytes"), 6400);
  EXPECT_EQ(summary.at("skipped")[0].at("source"), "in/1.wav");
}

TEST_F(DataAudioCommand, BadUsageAndBadInputSayWhatToDo) {
  const std::string out = folder_ / "a.bin";
  EXPECT_THAT(complaint({"audio", folder_ / "in", "--out", out, "--rate", "0"}, 2),
              HasSubstr("--rate"));
  EXPECT_THAT(complaint({"audio", folder_ / "in", "--out", out, "--format", "mp3"}, 2),
              HasSubstr("--format"));
  EXPECT_FALSE(fs::exists(out));
  ASSERT_EQ(data({"audio", folder_ / "in", "--out", out}).exit_code, 0);
  EXPECT_THAT(complaint({"to-wav", out, out, "--out", folder_ / "b.wav"}, 1),
              HasSubstr("name a folder"));
  EXPECT_THAT(complaint({"to-wav", out, out, "--out", folder_ / "b"}, 1), HasSubstr("two inputs"));
  EXPECT_THAT(complaint({"to-wav", out, "--out", folder_ / "in/0.wav"}, 1),
              HasSubstr("--overwrite"));
  EXPECT_THAT(complaint({"to-png", out, "--out", folder_ / "b.png"}, 1),
              HasSubstr("made from audio, not from images"));
}

TEST_F(DataAudioCommand, AModelLearnsAndContinuesATone) {
  const std::string bin = folder_ / "a.bin", model = folder_ / "model";
  ASSERT_EQ(data({"audio", folder_ / "in", "--format", "u8", "--out", bin}).exit_code, 0);
  write_file(folder_ / "config.json", R"({"activation": "gelu", "stages": [
    {"length": 16, "dim": 32, "layers": 1, "heads": 2, "ffn": 64, "positions": "learned"},
    {"length": 4, "dim": 16, "layers": 1, "heads": 2, "ffn": 32, "positions": "learned"}]})");
  const CommandResult train =
      run_megabyte({"train", "--data", bin, "--align", "4", "--config", folder_ / "config.json",
                    "--out", model, "--steps", "30", "--batch", "4", "--threads", "1", "--quiet"});
  ASSERT_EQ(train.exit_code, 0) << train.err;
  const CommandResult drawn = run_megabyte(
      {"generate", "--model", model, "--prompt-file", bin, "--bytes", "400", "--threads", "1"});
  ASSERT_EQ(drawn.exit_code, 0) << drawn.err;
  const CommandResult heard =
      run_megabyte({"data", "to-wav", "-", "--like", bin, "--out", folder_ / "on.wav"}, drawn.out);
  ASSERT_EQ(heard.exit_code, 0) << heard.err;
  EXPECT_EQ(wav("on.wav").size(), 400u);
}

}  // namespace
}  // namespace megabyte::test
