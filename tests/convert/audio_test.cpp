#include "convert/audio.h"

#include <sndfile.h>

#include <cmath>
#include <numbers>

#include "support/command.h"
#include "support/errors.h"
#include "support/media.h"

namespace megabyte {
namespace {

using test::bytes_of;
using testing::ElementsAre;
using testing::HasSubstr;
using Samples = std::vector<int16_t>;

Samples random_samples(size_t count) {
  Random random(5, 0);
  Samples samples(count);
  for (int16_t& x : samples) x = static_cast<int16_t>(random.below(65536));
  return samples;
}

class AudioTest : public testing::Test {
 protected:
  // The bytes of a sound file, its channels side by side.
  template <class Sample>
  std::string sound(const std::vector<Sample>& samples, int format, int channels, int rate) const {
    const std::string name = folder_ / "sound";
    SF_INFO info{.samplerate = rate, .channels = channels, .format = format};
    SNDFILE* file = sf_open(name.c_str(), SFM_WRITE, &info);
    EXPECT_NE(file, nullptr) << sf_strerror(nullptr);
    const auto count = static_cast<sf_count_t>(samples.size());
    if constexpr (std::is_same_v<Sample, int16_t>)
      EXPECT_EQ(sf_write_short(file, samples.data(), count), count);
    else
      EXPECT_EQ(sf_write_float(file, samples.data(), count), count);
    sf_close(file);
    return test::read_file(name);
  }
  Samples decoded(const std::string& file, int64_t rate = 16000) const {
    return decode_audio(bytes_of(file), rate);
  }
  std::string complaint(const std::string& file, int64_t rate = 16000) const {
    return test::error_of([&] { decoded(file, rate); });
  }
  std::vector<float> sine(double frequency, int rate, double seconds) const {
    std::vector<float> samples(static_cast<size_t>(seconds * rate));
    for (size_t i = 0; i < samples.size(); ++i)
      samples[i] = static_cast<float>(
          0.5 * std::sin(2 * std::numbers::pi * frequency * static_cast<double>(i) / rate));
    return samples;
  }

  test::TemporaryFolder folder_;
};

constexpr int kWav = SF_FORMAT_WAV | SF_FORMAT_PCM_16, kFlac = SF_FORMAT_FLAC | SF_FORMAT_PCM_16;

TEST_F(AudioTest, SixteenBitsAtTheSameRateStayExactly) {
  const Samples samples = random_samples(40000);
  EXPECT_EQ(decoded(sound(samples, kWav, 1, 16000)), samples);
  EXPECT_EQ(decoded(sound(samples, kFlac, 1, 16000)), samples);
  write_wav(folder_ / "own.wav", samples, 8000);
  const std::string own = test::read_file(folder_ / "own.wav");
  EXPECT_EQ(own.size(), 44 + 2 * samples.size());
  EXPECT_EQ(decoded(own, 8000), samples);
  EXPECT_THAT(from_bytes(to_bytes(samples, SampleFormat::s16le), SampleFormat::s16le), samples);
}

TEST_F(AudioTest, BytesOfASample) {
  const Samples samples{0, 1, 256, -1, -32768, 32767};
  EXPECT_THAT(to_bytes(samples, SampleFormat::s16le),
              ElementsAre(0, 0, 1, 0, 0, 1, 255, 255, 0, 128, 255, 127));
  EXPECT_THAT(to_bytes(samples, SampleFormat::u8), ElementsAre(128, 128, 129, 127, 0, 255));
  // G.711: complemented, so that silence is 0xff.
  const auto mulaw = to_bytes(samples, SampleFormat::mulaw);
  EXPECT_EQ(mulaw[0], 0xff);
  EXPECT_EQ(mulaw[4], 0x00);
  EXPECT_EQ(mulaw[5], 0x80);
  for (const SampleFormat format : {SampleFormat::u8, SampleFormat::mulaw}) {
    std::vector<uint8_t> all(256);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint8_t>(i);
    if (format == SampleFormat::mulaw) all[0x7f] = 0xff;  // a second zero
    EXPECT_EQ(to_bytes(from_bytes(all, format), format), all);
  }
  EXPECT_THAT(from_bytes(std::vector<uint8_t>{1, 0, 7}, SampleFormat::s16le), ElementsAre(1));
  EXPECT_THAT(from_bytes(std::vector<uint8_t>{7}, SampleFormat::s16le), ElementsAre());
  EXPECT_THAT(test::error_of([] { sample_format("mp3"); }), HasSubstr("'mp3'"));
}

TEST_F(AudioTest, ChannelsAreAveragedAndLoudOnesCut) {
  EXPECT_THAT(decoded(sound(Samples{100, 300, -5, -7, 32767, 32767}, kWav, 2, 16000)),
              ElementsAre(200, -6, 32767));
  const int floats = SF_FORMAT_WAV | SF_FORMAT_FLOAT;
  EXPECT_THAT(decoded(sound(std::vector<float>{0.5f, 2, -2}, floats, 1, 16000)),
              ElementsAre(16384, 32767, -32768));
}

TEST_F(AudioTest, OtherRatesAreResampled) {
  for (const int rate : {8000, 22050, 44100, 48000}) {
    const Samples samples =
        decoded(sound(sine(1000, rate, 1), SF_FORMAT_WAV | SF_FORMAT_FLOAT, 1, rate));
    EXPECT_NEAR(static_cast<double>(samples.size()), 16000, 2) << rate;
    const std::vector<float> expected = sine(1000, 16000, 1);
    // Away from the ends, where the filter looks beyond the sound.
    for (size_t i = 1000; i < 15000; ++i)
      ASSERT_NEAR(samples[i] / 32768.0, expected[i], 1e-3) << rate << ", " << i;
  }
  // What the lower rate cannot hold is taken out, not folded back.
  const Samples silent =
      decoded(sound(sine(15000, 48000, 1), SF_FORMAT_WAV | SF_FORMAT_FLOAT, 1, 48000));
  for (size_t i = 1000; i < 15000; ++i) ASSERT_LT(std::abs(silent[i]), 3) << i;
  EXPECT_THAT(complaint(sound(sine(100, 48000, 0.1), kWav, 1, 48000), 100), HasSubstr("rate"));
}

TEST_F(AudioTest, DamageIsNotHalfUsed) {
  const Samples samples = random_samples(30000);
  const std::string wav = sound(samples, kWav, 1, 16000), flac = sound(samples, kFlac, 1, 16000);
  EXPECT_THAT(complaint(wav.substr(0, wav.size() / 2)), HasSubstr("cut short"));
  EXPECT_THAT(complaint(flac.substr(0, flac.size() / 2)), testing::Not(testing::IsEmpty()));
  std::string wrong = flac;
  for (size_t i = 0; i < 50; ++i) wrong[flac.size() / 2 + i] = 0;
  EXPECT_THAT(complaint(wrong), testing::Not(testing::IsEmpty()));
  EXPECT_THAT(complaint("no sound"), HasSubstr("no WAV or FLAC"));
  EXPECT_THAT(complaint(""), HasSubstr("no WAV or FLAC"));
  EXPECT_THAT(complaint(sound(Samples{}, kWav, 1, 16000)), HasSubstr("no samples"));
  // A program that wrote into a pipe could not know the size.
  std::string piped = wav;
  for (const size_t at : {4u, 40u}) piped.replace(at, 4, "\xff\xff\xff\xff");
  EXPECT_EQ(decoded(piped), samples);
}

}  // namespace
}  // namespace megabyte
