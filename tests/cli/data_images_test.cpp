// Pictures from the command line: to bytes, through a model, and back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "convert/image_bytes.h"
#include "support/command.h"
#include "support/media.h"

namespace megabyte::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using Words = std::vector<std::string>;

class DataImagesCommand : public DataCommand {
 protected:
  DataImagesCommand() {
    fs::create_directories(folder_ / "in/deep");
    for (int i = 0; i < 4; ++i)
      write_png(folder_ / ("in/" + std::to_string(i) + ".png"), random_image(8, 8, i));
    write_file(folder_ / "in/deep/4.PPM", ppm_of(random_image(8, 8, 4)));
    write_file(folder_ / "in/notes.txt", "no picture");
    write_file(folder_ / "in/.5.png", "hidden");
  }

  CommandResult images(const Words& more) const {
    Words words{"images", folder_ / "in", "--out", folder_ / "out.bin", "--size", "8"};
    words.insert(words.end(), more.begin(), more.end());
    return data(words);
  }
  Image png(const std::string& name) const {
    const std::string file = read_file(folder_ / name);
    return decode_image(bytes_of(file));
  }
};

TEST_F(DataImagesCommand, ThereAndBackInBothOrders) {
  for (const std::string scan : {"patch", "raster"}) {
    const CommandResult made = images({"--scan", scan, "--overwrite"});
    ASSERT_EQ(made.exit_code, 0) << made.err;
    EXPECT_THAT(made.out, HasSubstr("5 images of 8 x 8 pixels from 5 files, 960 B"));
    EXPECT_THAT(made.out, HasSubstr("--align 192"));
    EXPECT_EQ(made.err, "");
    const CommandResult back =
        data({"to-png", folder_ / "out.bin", "--out", folder_ / scan, "--json"});
    EXPECT_EQ(back.exit_code, 2);  // it has nothing to tell a program
    ASSERT_EQ(data({"to-png", folder_ / "out.bin", "--out", folder_ / scan}).exit_code, 0);
    for (int i = 0; i < 5; ++i)
      EXPECT_EQ(png(scan + "/out-00" + std::to_string(i) + ".png").rgb, random_image(8, 8, i).rgb);
  }
  const std::string raster = read_file(folder_ / "out.bin");
  EXPECT_EQ(raster.substr(0, 192), ppm_of(random_image(8, 8, 0)).substr(11));
}

TEST_F(DataImagesCommand, TurnsJpegsAsTheirCameraNotes) {
  // Dark on the left; the camera was turned by 90 degrees, so that is the top.
  std::vector<uint8_t> samples;
  for (int y = 0; y < 16; ++y)
    for (int x = 0; x < 32; ++x) samples.push_back(x < 16 ? 20 : 220);
  write_file(folder_ / "turned.jpg", jpeg_of(samples, 32, 16, 1, exif_of(6, true)));
  ASSERT_EQ(data({"images", folder_ / "turned.jpg", "--out", folder_ / "turned.bin", "--size",
                  "16x32", "--scan", "raster"})
                .exit_code,
            0);
  const std::string bytes = read_file(folder_ / "turned.bin");
  ASSERT_EQ(bytes.size(), 3u * 16 * 32);
  for (size_t i = 0; i < bytes.size(); ++i)
    EXPECT_NEAR(static_cast<uint8_t>(bytes[i]), i < bytes.size() / 2 ? 20 : 220, 4) << i;
}

TEST_F(DataImagesCommand, TheManifestSaysWhatWasMadeOfWhat) {
  ASSERT_EQ(images({"--patch", "4", "--fit", "crop"}).exit_code, 0);
  const nlohmann::json manifest = nlohmann::json::parse(read_file(folder_ / "out.bin.json"));
  EXPECT_EQ(manifest.at("kind"), "images");
  EXPECT_EQ(manifest.at("bytes"), 960);
  EXPECT_EQ(manifest.at("settings"),
            nlohmann::json::parse(
                R"({"width": 8, "height": 8, "scan": "patch", "patch": 4, "fit": "crop"})"));
  ASSERT_EQ(manifest.at("items").size(), 5u);
  EXPECT_EQ(manifest.at("items")[1].at("source"), "in/1.png");
  EXPECT_EQ(manifest.at("items")[1].at("begin"), 192);
  EXPECT_EQ(manifest.at("items")[1].at("source_bytes"), fs::file_size(folder_ / "in/1.png"));
  EXPECT_EQ(manifest.at("items")[4].at("source"), "in/deep/4.PPM");
}

TEST_F(DataImagesCommand, BrokenFilesAreNamedAndSkipped) {
  const std::string good = read_file(folder_ / "in/1.png");
  write_file(folder_ / "in/1.png", good.substr(0, good.size() / 2));
  write_file(folder_ / "in/2.png", "no picture");
  const CommandResult result = images({"--json", "--include", "*.png", "--fit", "tile"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("skipped " + (folder_ / "in/1.png") + ": it is a damaged PNG"));
  EXPECT_THAT(result.err, HasSubstr("skipped " + (folder_ / "in/2.png")));
  const nlohmann::json summary = nlohmann::json::parse(result.out);
  EXPECT_EQ(summary.at("files"), 2);
  EXPECT_EQ(summary.at("bytes"), 2 * 192);
  EXPECT_EQ(summary.at("skipped").size(), 2u);
  EXPECT_EQ(fs::file_size(folder_ / "out.bin"), 2u * 192);
  EXPECT_EQ(
      nlohmann::json::parse(read_file(folder_ / "out.bin.json")).at("skipped")[0].at("source"),
      "in/1.png");
  // None is left: nothing is written.
  EXPECT_THAT(complaint({"images", folder_ / "in/notes.txt", "--out", folder_ / "none.bin"}, 1),
              HasSubstr("all files were skipped"));
  EXPECT_FALSE(fs::exists(folder_ / "none.bin"));
}

TEST_F(DataImagesCommand, SizesAndSheets) {
  const CommandResult made = data({"images", folder_ / "in", "--out", folder_ / "out.bin", "--size",
                                   "4x2", "--fit", "tile", "--exclude", "deep"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_EQ(fs::file_size(folder_ / "out.bin"), 4u * 192);
  ASSERT_EQ(data({"to-png", folder_ / "out.bin", "--out", folder_ / "sheet.png"}).exit_code, 0);
  EXPECT_EQ(png("sheet.png").width, 6 * 4 + 5 * 2);  // 32 tiles in six columns
  // What --like says, an option may say otherwise.
  fs::create_directories(folder_ / "drawn");
  write_file(folder_ / "drawn/sample-000.bin", std::string(23, '\xff'));
  const CommandResult one = data({"to-png", folder_ / "drawn", "--like", folder_ / "out.bin",
                                  "--scan", "raster", "--out", folder_ / "png"});
  ASSERT_EQ(one.exit_code, 0) << one.err;
  EXPECT_THAT(one.err, HasSubstr("lacks 1 of 24 bytes"));
  Image white{4, 2, std::vector<uint8_t>(24, 255)};
  white.rgb.back() = 0;
  EXPECT_EQ(png("png/sample-000.png").rgb, white.rgb);
}

TEST_F(DataImagesCommand, BadUsageAndBadInputSayWhatToDo) {
  const Words made{"images", folder_ / "in", "--out", folder_ / "new.bin"};
  const auto with = [&](const Words& more) {
    Words words = made;
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  EXPECT_THAT(complaint(with({"--size", "8by8"}), 2), HasSubstr("--size"));
  EXPECT_THAT(complaint(with({"--size", "8x"}), 2), HasSubstr("--size"));
  EXPECT_THAT(complaint(with({"--size", "0"}), 1), HasSubstr("0 x 0"));
  EXPECT_THAT(complaint(with({"--size", "9"}), 1), HasSubstr("--patch"));
  EXPECT_THAT(complaint(with({"--scan", "diagonal"}), 2), HasSubstr("--scan"));
  EXPECT_THAT(complaint(with({"--fit", "shrink"}), 2), HasSubstr("--fit"));
  EXPECT_THAT(complaint({"images", folder_ / "absent", "--out", folder_ / "new.bin"}, 1),
              HasSubstr("absent"));
  EXPECT_THAT(complaint({"images", "--out", folder_ / "new.bin"}, 2), HasSubstr("inputs"));
  EXPECT_FALSE(fs::exists(folder_ / "new.bin"));
  ASSERT_EQ(images({}).exit_code, 0);
  EXPECT_EQ(images({}).exit_code, 1);  // it is there already

  const std::string out = folder_ / "out.bin";
  EXPECT_THAT(complaint({"to-png", out, "--out", out}, 1), HasSubstr("is a file"));
  EXPECT_THAT(complaint({"to-png", out, out, "--out", folder_ / "twice"}, 1),
              HasSubstr("two inputs"));
  EXPECT_THAT(complaint({"to-png", out, "--like", folder_ / "in/0.png", "--out", "x"}, 1),
              HasSubstr("--like"));
  fs::copy_file(folder_ / "out.bin.json", folder_ / "other.bin.json");
  write_file(folder_ / "other.bin", "short");
  EXPECT_THAT(complaint({"to-png", folder_ / "other.bin", "--out", "x"}, 1), HasSubstr("5 bytes"));
}

// A model that has learned one picture by heart completes it from its upper half.
TEST_F(DataImagesCommand, AModelCompletesHalfAnImage) {
  fs::create_directories(folder_ / "one");
  for (int i = 0; i < 40; ++i)  // so that some are held out
    write_png(folder_ / ("one/" + std::to_string(i) + ".png"), random_image(8, 8, 9));
  const std::string bytes = folder_ / "one.bin", model = folder_ / "model";
  ASSERT_EQ(data({"images", folder_ / "one", "--size", "8", "--out", bytes}).exit_code, 0);
  write_file(folder_ / "config.json", R"({"activation": "gelu", "stages": [
    {"length": 16, "dim": 48, "layers": 1, "heads": 2, "ffn": 96, "positions": "learned"},
    {"length": 12, "dim": 32, "layers": 1, "heads": 2, "ffn": 64, "positions": "learned"}]})");
  const CommandResult train = run_megabyte(
      {"train", "--data", bytes, "--align", "192", "--config", folder_ / "config.json", "--out",
       model, "--steps", "150", "--batch", "4", "--lr", "0.01", "--threads", "1", "--quiet"});
  ASSERT_EQ(train.exit_code, 0) << train.err;
  write_file(folder_ / "half.bin", read_file(bytes).substr(0, 96));
  const CommandResult drawn = run_megabyte(
      {"generate", "--model", model, "--prompt-file", folder_ / "half.bin", "--echo", "--bytes",
       "96", "--temperature", "0", "--out", folder_ / "drawn", "--threads", "1"});
  ASSERT_EQ(drawn.exit_code, 0) << drawn.err;
  ASSERT_EQ(data({"to-png", folder_ / "drawn", "--like", bytes, "--out", folder_ / "whole.png"})
                .exit_code,
            0);
  EXPECT_EQ(png("whole.png").rgb, random_image(8, 8, 9).rgb);

  // Windows that begin anywhere would not fit files that are no whole images.
  const CommandResult wrong =
      run_megabyte({"train", "--data", bytes, "--align", "191", "--out", folder_ / "wrong"});
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_THAT(wrong.err, HasSubstr("--align 191"));
}

TEST_F(DataImagesCommand, KodakGoesThereAndBack) {
  const fs::path kodak = fs::path(MEGABYTE_SOURCE_DIR) / "../shared/data/kodak/kodim23.png";
  if (!fs::exists(kodak)) GTEST_SKIP() << "the Kodak images are not there";
  ASSERT_EQ(data({"images", kodak, "--size", "768x512", "--patch", "8", "--out", folder_ / "k.bin"})
                .exit_code,
            0);
  ASSERT_EQ(data({"to-png", folder_ / "k.bin", "--out", folder_ / "k.png"}).exit_code, 0);
  const std::string file = read_file(kodak);
  EXPECT_EQ(png("k.png").rgb, decode_image(bytes_of(file)).rgb);
}

}  // namespace
}  // namespace megabyte::test
