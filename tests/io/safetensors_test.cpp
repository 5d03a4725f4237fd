#include "io/safetensors.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "io/json.h"
#include "support/command.h"
#include "support/errors.h"

namespace megabyte {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

// A file of the header's text and so many bytes of data.
std::string file_of(const std::string& header, size_t data, uint64_t claimed) {
  std::string file(sizeof(uint64_t), '\0');
  std::memcpy(file.data(), &claimed, sizeof(uint64_t));
  return file + header + std::string(data, '\0');
}
std::string file_of(const std::string& header, size_t data) {
  return file_of(header, data, header.size());
}

SafetensorsIndex parse_index(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file)), "m.safetensors");
}
std::string index_complaint(const std::string& file) {
  return test::error_of([&] { parse_index(file); });
}
std::string tensor(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

void write_sample(const std::string& file) {
  SafetensorsWriter writer(file);
  writer.set_metadata("step", "12");
  writer.set_metadata("data", "name \xff that is no UTF-8");
  writer.declare("bytes", DType::u8, {3});
  writer.declare("half", DType::bf16, {1, 2});
  writer.declare("single", DType::f32, {2, 2});
  writer.declare("double", DType::f64, {});
  writer.declare("tokens", DType::u16, {1});
  writer.declare("nothing", DType::f32, {0, 5});
  writer.write([](const std::string& name, std::byte* to) {
    const float single[] = {1.5f, -2.f, 3.f, 4.f};
    const bf16 half[] = {bf16(0.5f), bf16(-7.f)};
    const double wide = 1e-300;
    const uint16_t token = 65535;
    if (name == "bytes") std::memcpy(to, "\0\x80\xff", 3);
    if (name == "half") std::memcpy(to, half, sizeof half);
    if (name == "single") std::memcpy(to, single, sizeof single);
    if (name == "double") std::memcpy(to, &wide, sizeof wide);
    if (name == "tokens") std::memcpy(to, &token, sizeof token);
  });
}

TEST(SafetensorsTest, WritesWhatItReads) {
  test::TemporaryFolder folder;
  write_sample(folder / "file");
  const SafetensorsFile file(folder / "file");
  EXPECT_EQ(file.metadata().at("step"), "12");
  EXPECT_THAT(file.metadata().at("data"), HasSubstr("that is no UTF-8"));
  EXPECT_EQ(file.tensors().size(), 6u);
  EXPECT_EQ(file.entry("single").shape, Shape({2, 2}));
  EXPECT_EQ(file.entry("half").dtype, DType::bf16);
  EXPECT_THAT(file.read_floats("single"), ElementsAre(1.5f, -2.f, 3.f, 4.f));
  EXPECT_THAT(file.read_doubles("half"), ElementsAre(0.5, -7));
  EXPECT_THAT(file.read_doubles("double"), ElementsAre(1e-300));
  EXPECT_THAT(file.read_floats("bytes"), ElementsAre(0, 128, 255));
  EXPECT_THAT(file.read_doubles("tokens"), ElementsAre(65535));
  EXPECT_TRUE(file.read_doubles("nothing").empty());
  EXPECT_EQ(file.bytes("bytes").size(), 3u);
  EXPECT_TRUE(file.contains("bytes"));
  EXPECT_FALSE(file.contains("byte"));
  EXPECT_THAT(test::error_of([&] { file.entry("byte"); }),
              AllOf(HasSubstr(folder / "file"), HasSubstr("byte")));
}

TEST(SafetensorsTest, EveryTensorIsAligned) {
  test::TemporaryFolder folder;
  write_sample(folder / "file");
  const SafetensorsFile file(folder / "file");
  size_t first = SIZE_MAX;
  for (const auto& [name, entry] : file.tensors()) {
    EXPECT_EQ(entry.begin % size_of(entry.dtype), 0u) << name;
    first = std::min(first, entry.begin);
  }
  EXPECT_EQ(first % 64, 0u);
}

TEST(SafetensorsTest, NoTensorAtAll) {
  test::TemporaryFolder folder;
  SafetensorsWriter(folder / "file").write([](const std::string&, std::byte*) { FAIL(); });
  EXPECT_TRUE(SafetensorsFile(folder / "file").tensors().empty());
}

TEST(SafetensorsTest, FailureKeepsTheOldFile) {
  test::TemporaryFolder folder;
  write_sample(folder / "file");
  const std::string before = test::read_file(folder / "file");
  SafetensorsWriter writer(folder / "file");
  writer.declare("a", DType::f32, {100});
  EXPECT_THROW(writer.write([](const std::string&, std::byte*) { fail("interrupted"); }), Error);
  EXPECT_EQ(test::read_file(folder / "file"), before);
  EXPECT_FALSE(fs::exists(folder / "file.tmp"));
}

TEST(SafetensorsTest, FullDiskKeepsTheOldFile) {
  test::TemporaryFolder folder;
  write_sample(folder / "file");
  const std::string before = test::read_file(folder / "file");
  const pid_t child = fork();
  if (child == 0) {
    const rlimit limit{8192, 8192};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    SafetensorsWriter writer(folder / "file");
    writer.declare("a", DType::u8, {8192});
    try {
      writer.write([](const std::string&, std::byte*) {});
    } catch (const Error&) {
      _exit(7);
    }
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 7);
  EXPECT_EQ(test::read_file(folder / "file"), before);
  EXPECT_FALSE(fs::exists(folder / "file.tmp"));
}

TEST(SafetensorsTest, ReadsUnalignedFilesOfOthers) {
  const std::string header =
      "{\"b\":" + tensor("U8", "[1]", "[0,1]") + ",\"a\":" + tensor("F64", "[1]", "[1,9]") + "}";
  test::TemporaryFolder folder;
  test::write_file(folder / "file", file_of(header, 9));
  EXPECT_THAT(SafetensorsFile(folder / "file").read_doubles("a"), ElementsAre(0.0));
}

TEST(SafetensorsTest, HeadersThatLie) {
  EXPECT_THAT(index_complaint(""), HasSubstr("too few"));
  EXPECT_THAT(index_complaint("1234567"), HasSubstr("too few"));
  EXPECT_THAT(index_complaint(file_of("{}", 0, 3)), HasSubstr("cut short"));
  EXPECT_THAT(index_complaint(file_of("{}", 0, UINT64_MAX)), HasSubstr("not a safetensors file"));
  EXPECT_THAT(index_complaint(file_of("{}", 0, 100'000'001)),
              HasSubstr("more than the format allows"));
  EXPECT_THAT(index_complaint(file_of("", 0)), HasSubstr("does not start"));
  EXPECT_THAT(index_complaint(file_of(" {}", 0)), HasSubstr("does not start"));
  EXPECT_THAT(index_complaint(file_of("{]", 0)),
              HasSubstr("m.safetensors: header: not valid JSON"));
  EXPECT_THAT(index_complaint(file_of("{\"__metadata__\":[]}", 0)), HasSubstr("not an object"));
  EXPECT_THAT(index_complaint(file_of("{\"__metadata__\":{\"k\":1}}", 0)),
              HasSubstr("'k' is not a string"));
  EXPECT_NO_THROW(parse_index(file_of("{}   ", 0)));
}

TEST(SafetensorsTest, TensorsThatLie) {
  const auto of = [](const std::string& entry, size_t data = 8) {
    const std::string message = index_complaint(file_of("{\"w\":" + entry + "}", data));
    EXPECT_THAT(message, HasSubstr("m.safetensors: tensor w"));
    return message;
  };
  EXPECT_THAT(of("3"), HasSubstr("not an object"));
  EXPECT_THAT(of("{}"), HasSubstr("lacks dtype"));
  EXPECT_THAT(of(R"({"dtype":"F32","shape":[2]})"), HasSubstr("lacks data_offsets"));
  EXPECT_THAT(of(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1})"),
              HasSubstr("unknown key 'x'"));
  EXPECT_THAT(of(tensor("F16", "[4]", "[0,8]")), HasSubstr("\"F16\" is not supported"));
  EXPECT_THAT(of(R"({"dtype":7,"shape":[2],"data_offsets":[0,8]})"),
              HasSubstr("7 is not supported"));
  EXPECT_THAT(of(tensor("F32", "2", "[0,8]")), HasSubstr("shape must be a list"));
  EXPECT_THAT(of(tensor("F32", "[-2]", "[0,8]")), HasSubstr("impossible extent -2"));
  EXPECT_THAT(of(tensor("F32", "[2.0]", "[0,8]")), HasSubstr("impossible extent"));
  EXPECT_THAT(of(tensor("F32", "[1,1,1,1,2]", "[0,8]")), HasSubstr("5 extents"));
  EXPECT_THAT(of(tensor("F32", "[4611686018427387904,4]", "[0,8]")), HasSubstr("impossibly large"));
  EXPECT_THAT(of(tensor("F32", "[18446744073709551615]", "[0,8]")), HasSubstr("impossible extent"));
  EXPECT_THAT(of(tensor("F32", "[3]", "[0,8]")), HasSubstr("F32 (3) does not take the 8 bytes"));
  EXPECT_THAT(of(tensor("F32", "[2]", "[0,9]")), HasSubstr("cut short"));
  EXPECT_THAT(of(tensor("F32", "[2]", "[8,0]")), HasSubstr("bytes 8 to 0"));
  EXPECT_THAT(of(tensor("F32", "[2]", "[-8,0]")), HasSubstr("two whole numbers"));
  EXPECT_THAT(of(tensor("F32", "[2]", "[0]")), HasSubstr("two whole numbers"));
  EXPECT_THAT(of(tensor("F32", "[2]", "[4,12]"), 12), HasSubstr("gap"));
  EXPECT_THAT(of(tensor("F32", "[2]", "[0,8]"), 4), HasSubstr("cut short"));
}

TEST(SafetensorsTest, TensorsFillTheFileOneAfterAnother) {
  const auto two = [](const std::string& a, const std::string& b, size_t data) {
    return file_of("{\"a\":" + tensor("U8", "[4]", a) + ",\"b\":" + tensor("U8", "[4]", b) + "}",
                   data);
  };
  EXPECT_NO_THROW(parse_index(two("[4,8]", "[0,4]", 8)));
  EXPECT_THAT(index_complaint(two("[0,4]", "[3,7]", 7)),
              HasSubstr("tensor b: another tensor overlaps"));
  EXPECT_THAT(index_complaint(two("[0,4]", "[0,4]", 4)), HasSubstr("overlaps"));
  EXPECT_THAT(index_complaint(two("[0,4]", "[5,9]", 9)), HasSubstr("tensor b: there is a gap"));
  EXPECT_THAT(index_complaint(two("[0,4]", "[4,8]", 9)),
              HasSubstr("1 bytes after the last tensor"));
  EXPECT_THAT(index_complaint(file_of("{\"a\":" + tensor("U8", "[1]", "[0,1]") +
                                          ",\"a\":" + tensor("U8", "[1]", "[1,2]") + "}",
                                      2)),
              HasSubstr("'a' stands twice"));
}

// Every prefix of a good file and every file with one byte less is refused, never misread.
TEST(SafetensorsTest, CutAnywhere) {
  test::TemporaryFolder folder;
  write_sample(folder / "file");
  const std::string whole = test::read_file(folder / "file");
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_THROW(parse_index(whole.substr(0, size)), Error) << size;
  EXPECT_THROW(parse_index(whole + "x"), Error);
}

}  // namespace
}  // namespace megabyte
