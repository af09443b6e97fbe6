// SPDX-License-Identifier: Apache-2.0
// .safetensors files that are cut off, damaged or made to harm. Nothing here may crash.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>
#include <vector>

#include "polyak/checkpoint/safetensors.h"
#include "unit/checkpoint/safetensors_testing.h"

namespace polyak {
namespace {

namespace fs = std::filesystem;
using namespace std::string_literals;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

class HostileSafetensorsTest : public SafetensorsTest {
 protected:
  /// What the reader says of a file's bytes, after the file's name.
  std::string failure_of_bytes(const std::string& bytes) const {
    write_bytes(file(), bytes);
    const std::string error = error_of([&] { read_safetensors(file()); });
    EXPECT_THAT(error, StartsWith(file() + ": "));
    // It is the same where only the texts are wanted.
    EXPECT_EQ(error_of([&] { read_safetensors_metadata(file()); }), error);
    return error.substr(std::min(error.size(), file().size() + 2));
  }
  std::string failure(const std::string& header, const std::string& data = "") const {
    return failure_of_bytes(safetensors_bytes(header, data));
  }
  void write_small() const {
    write_safetensors(file(), Value::dict({{"w", at::arange(4, at::kFloat)},
                                           {"b", at::ones({3}, at::kByte)},
                                           {"e", at::empty({0, 2})}}));
  }
};

TEST_F(HostileSafetensorsTest, EveryTruncationIsDamage) {
  write_small();
  const std::string whole = read_bytes(file());
  for (size_t size = 0; size < whole.size(); ++size) {
    write_bytes(file("cut.safetensors"), whole.substr(0, size));
    try {
      read_safetensors(file("cut.safetensors"));
      ADD_FAILURE() << "no error at " << size;
    } catch (const DamagedCheckpointError& error) {
      EXPECT_THAT(error.what(), AnyOf(HasSubstr("is truncated"), HasSubstr("is empty"))) << size;
    }
  }
}

TEST_F(HostileSafetensorsTest, EveryDamagedByteIsAnErrorOrHarmless) {
  write_small();
  const std::string whole = read_bytes(file());
  int errors = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const char mask : {'\x01', '\x10', '\xff'}) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ mask);
      write_bytes(file("damaged.safetensors"), damaged);
      try {
        const Value read = read_safetensors(file("damaged.safetensors"));
        for (const auto& [name, value] : read.entries()) {
          if (value.is_tensor()) value.as_tensor().clone();  // reads all of it
        }
      } catch (const CheckpointError& error) {
        ++errors;
        EXPECT_THAT(error.what(), StartsWith(file("damaged.safetensors") + ": "));
      }
    }
  }
  EXPECT_GT(errors, 300);
}

TEST_F(HostileSafetensorsTest, TellsWhyAFileIsNone) {
  const auto error = [&](const std::string& path) {
    return error_of([&] { read_safetensors(path); });
  };
  EXPECT_EQ(error("/dev/null"), "/dev/null: is not a regular file");
  EXPECT_EQ(error(folder_.string()), folder_.string() + ": is a folder, not a checkpoint");
  EXPECT_EQ(error(file("none")), file("none") + ": cannot be read: No such file or directory");
  ASSERT_EQ(::mkfifo(file("pipe").c_str(), 0600), 0);
  EXPECT_EQ(error(file("pipe")), file("pipe") + ": is not a regular file") << "and does not wait";
  EXPECT_EQ(failure_of_bytes(""), "is empty");
  EXPECT_EQ(failure_of_bytes("PK\x03\x04\x14\0\x08\0\x08\0"s),
            "is a zip archive, as torch.save writes it; rename it to .pth");
  EXPECT_EQ(failure_of_bytes("version https://git-lfs.github.com/spec/v1\n"),
            "is only Git LFS's pointer to a file; fetch the file by 'git lfs pull'");
  EXPECT_EQ(failure_of_bytes("<!DOCTYPE html><html></html>"),
            "is a web page, not a checkpoint; download the file itself");
}

TEST_F(HostileSafetensorsTest, ALengthThatLooksLikeAWebPageIsALength) {
  // 0x3c bytes of header, and '<' is 0x3c.
  const std::string header = "{" + entry("w", "U8", "1", "0,1") + "}";
  ASSERT_LT(header.size(), 60U);
  const Value read = read_header(header + std::string(60 - header.size(), ' '), "\7");
  EXPECT_EQ(read.at("w").as_tensor().item<int64_t>(), 7);
}

TEST_F(HostileSafetensorsTest, RefusesLengthsOfTheHeader) {
  EXPECT_EQ(failure_of_bytes("\x02\0\0"s),
            "is truncated: a .safetensors file starts with 8 bytes that state the length of its "
            "header, and this file has 3");
  EXPECT_THAT(failure_of_bytes("\0\0\0\0\0\0\0\0"s),
              StartsWith("its header is not valid JSON at byte 1: syntax error"));
  EXPECT_EQ(failure_of_bytes("\x08\0\0\0\0\0\0\0{}"s),
            "is truncated: its header has 8 bytes, of which 2 are there");
  EXPECT_EQ(failure_of_bytes("\0\xe1\xf5\5\0\0\0\0{}"s),
            "is truncated: its header has 100000000 bytes, of which 2 are there");
  EXPECT_EQ(failure_of_bytes("\1\xe1\xf5\5\0\0\0\0{}"s),
            "is not a .safetensors file: its first 8 bytes state a header of 100000001 bytes, and "
            "the format allows 100000000");
  EXPECT_THAT(failure_of_bytes(std::string(8, '\xff') + "{}"),
              HasSubstr("state a header of 18446744073709551615 bytes"));
  EXPECT_EQ(failure(" {}"), "is not a .safetensors file: its header does not start with '{'");
  EXPECT_THAT(failure("[]"), HasSubstr("does not start with '{'"));
  EXPECT_THAT(failure("\xef\xbb\xbf{}"), HasSubstr("does not start with '{'"));
}

struct Case {
  std::string header;
  std::string message;
};

TEST_F(HostileSafetensorsTest, RefusesHeadersThatAreNotJson) {
  // The reason is in the words of the JSON library, which differ from version to version.
  const std::vector<Case> cases{
      {"{", "2: syntax error while parsing object key"},
      {"{}x", "3: syntax error while parsing value"},
      {"{}{}", "3: syntax error while parsing value"},
      {R"({"a" 1})", "6: syntax error while parsing object separator"},
      {"{\"a\xff\":1}", "4: syntax error while parsing object key - invalid string"},
      {"{\"a\xc0\xaf\":1}", "4: syntax error while parsing object key - invalid string"},
      {R"({"a\ud800":1})", "10: syntax error while parsing object key - invalid string"},
      {"{\"a\nb\":1}", "4: syntax error while parsing object key - invalid string"},
      {R"({"a":{"dtype":"F32",}})", "21: syntax error while parsing object key"},
      {"{/**/}", "2: syntax error while parsing object key"},
      {R"({"a":{"shape":[1e999]}})", "20: number overflow"},
  };
  for (const Case& wrong : cases) {
    EXPECT_THAT(failure(wrong.header),
                StartsWith("its header is not valid JSON at byte " + wrong.message))
        << wrong.header;
    EXPECT_THROW(read_safetensors(file()), DamagedCheckpointError);
  }
  EXPECT_EQ(failure("{}\0\0"s), "its header is not valid JSON: it has a byte 0 at 2")
      << "the parser would take it for the end";
  EXPECT_THAT(failure("{}\0 anything"s), HasSubstr("it has a byte 0 at 2"));
}

TEST_F(HostileSafetensorsTest, RefusesHeadersOfOtherForm) {
  const std::string good = entry("w", "F32", "2", "0,8");
  const auto with = [](const std::string& fields) { return R"({"w":{)" + fields + "}}"; };
  const std::string dtype = R"("dtype":"F32")", shape = R"("shape":[2])",
                    offsets = R"("data_offsets":[0,8])";
  const auto all = [&](const std::string& a, const std::string& b, const std::string& c) {
    return with(a + "," + b + "," + c);
  };
  const std::vector<Case> cases{
      {R"({"w":1})",
       "tensor 'w': is a number, expected an object with dtype, shape and data_offsets"},
      {R"({"w":null})",
       "tensor 'w': is null, expected an object with dtype, shape and data_offsets"},
      {R"({"w":[]})",
       "tensor 'w': is an array, expected an object with dtype, shape and data_offsets"},
      {R"({"w":"x"})",
       "tensor 'w': is a string, expected an object with dtype, shape and data_offsets"},
      {R"({"w":true})",
       "tensor 'w': is a bool, expected an object with dtype, shape and data_offsets"},
      {R"({"w":{}})", "tensor 'w': has no dtype"},
      {with(dtype + "," + shape), "tensor 'w': has no data_offsets"},
      {with(dtype + "," + offsets), "tensor 'w': has no shape"},
      {with(shape + "," + offsets), "tensor 'w': has no dtype"},
      {with(dtype + "," + shape + "," + offsets + R"(,"x":1)"),
       "tensor 'w': has the unknown key 'x'; the format has dtype, shape and data_offsets"},
      {with(dtype + "," + dtype), "tensor 'w': has two dtype"},
      {with(shape + "," + shape), "tensor 'w': has two shape"},
      {with(offsets + "," + offsets), "tensor 'w': has two data_offsets"},
      {all(R"("dtype":32)", shape, offsets),
       "tensor 'w': its dtype is a number, expected a string"},
      {all(R"("dtype":null)", shape, offsets), "tensor 'w': its dtype is null, expected a string"},
      {all(R"("dtype":["F32"])", shape, offsets),
       "tensor 'w': its dtype is an array, expected a string"},
      {all(dtype, R"("shape":2)", offsets),
       "tensor 'w': its shape is a number, expected an array of integers"},
      {all(dtype, R"("shape":"2")", offsets),
       "tensor 'w': its shape is a string, expected an array of integers"},
      {all(dtype, R"("shape":{})", offsets),
       "tensor 'w': its shape is an object, expected an array of integers"},
      {all(dtype, R"("shape":[-2])", offsets),
       "tensor 'w': its shape contains a negative number, expected integers >= 0"},
      {all(dtype, R"("shape":[2.0])", offsets),
       "tensor 'w': its shape contains a number that is no integer of 64 bits, expected integers "
       ">= 0"},
      {all(dtype, R"("shape":[18446744073709551616])", offsets),
       "tensor 'w': its shape contains a number that is no integer of 64 bits, expected integers "
       ">= 0"},
      {all(dtype, R"("shape":[null])", offsets),
       "tensor 'w': its shape contains null, expected integers >= 0"},
      {all(dtype, R"("shape":[[2]])", offsets),
       "tensor 'w': its shape contains an array, expected integers >= 0"},
      {all(dtype, R"("shape":[{"a":1}])", offsets),
       "tensor 'w': its shape contains an object, expected integers >= 0"},
      {all(dtype, R"("shape":["2"])", offsets),
       "tensor 'w': its shape contains a string, expected integers >= 0"},
      {all(dtype, R"("shape":[true])", offsets),
       "tensor 'w': its shape contains a bool, expected integers >= 0"},
      {all(dtype, shape, R"("data_offsets":8)"),
       "tensor 'w': its data_offsets is a number, expected an array of integers"},
      {all(dtype, shape, R"("data_offsets":[8])"),
       "tensor 'w': its data_offsets have 1 numbers, expected 2"},
      {all(dtype, shape, R"("data_offsets":[])"),
       "tensor 'w': its data_offsets have 0 numbers, expected 2"},
      {all(dtype, shape, R"("data_offsets":[0,8,8])"),
       "tensor 'w': its data_offsets has more than 2 numbers"},
      {all(dtype, shape, R"("data_offsets":[-8,0])"),
       "tensor 'w': its data_offsets contains a negative number, expected integers >= 0"},
      {"{" + good + "," + good + "}", "tensor 'w': is in the header twice"},
      {R"({"__metadata__":null})", "its __metadata__ is null, expected an object of strings"},
      {R"({"__metadata__":"x"})", "its __metadata__ is a string, expected an object of strings"},
      {R"({"__metadata__":[]})", "its __metadata__ is an array, expected an object of strings"},
      {R"({"__metadata__":{"a":1}})", "its __metadata__ 'a' is a number, expected a string"},
      {R"({"__metadata__":{"a":null}})", "its __metadata__ 'a' is null, expected a string"},
      {R"({"__metadata__":{"a":{}}})", "its __metadata__ 'a' is an object, expected a string"},
      {R"({"__metadata__":{"a":["b"]}})", "its __metadata__ 'a' is an array, expected a string"},
      {R"({"__metadata__":{"a":"1","a":"2"}})", "its __metadata__ has 'a' twice"},
      {R"({"__metadata__":{},"__metadata__":{}})", "its header has two __metadata__"},
  };
  for (const Case& wrong : cases) {
    EXPECT_EQ(failure(wrong.header, std::string(8, '\0')), wrong.message) << wrong.header;
    EXPECT_THROW(read_safetensors(file()), DamagedCheckpointError) << wrong.header;
  }
  EXPECT_EQ(failure("{" + entry("w", "F31", "2", "0,8") + "}", std::string(8, '\0')),
            "tensor 'w': unknown dtype 'F31'; the format has BOOL, F4, F6_E2M3, F6_E3M2, U8, I8, "
            "F8_E5M2, F8_E4M3, F8_E8M0, F8_E4M3FNUZ, F8_E5M2FNUZ, I16, U16, F16, BF16, I32, U32, "
            "F32, C64, F64, I64, U64");
}

TEST_F(HostileSafetensorsTest, RefusesPlacesThatDoNotAddUp) {
  const auto two = [](const std::string& a, const std::string& b) {
    return "{" + entry("a", "U8", "4", a) + "," + entry("b", "U8", "4", b) + "}";
  };
  const std::string largest = "9223372036854775807";
  const std::vector<Case> cases{
      // for 8 bytes of data
      {"{" + entry("w", "F32", "2", "8,0") + "}",
       "tensor 'w': its data ends at 0, before its start at 8"},
      {"{" + entry("w", "F32", "2", "0,4") + "}",
       "tensor 'w': has 4 bytes of data, but its shape [2] of dtype F32 needs 8"},
      {"{" + entry("w", "F32", "3", "0,8") + "}",
       "tensor 'w': has 8 bytes of data, but its shape [3] of dtype F32 needs 12"},
      {"{" + entry("w", "F64", "", "0,4") + "}",
       "tensor 'w': has 4 bytes of data, but its shape [] of dtype F64 needs 8"},
      {"{" + entry("w", "F32", "0", "0,8") + "}",
       "tensor 'w': has 8 bytes of data, but its shape [0] of dtype F32 needs 0"},
      {"{" + entry("w", "F32", "4", "0,16") + "}",
       "is truncated: tensor 'w' ends at byte 16 of the data, which has 8"},
      {"{" + entry("w", "U8", largest, "0," + largest) + "}",
       "tensor 'w': has the impossible shape [9223372036854775807]"},
      {"{" + entry("w", "U8", "18446744073709551615", "1,0") + "}",
       "tensor 'w': its data ends at 0, before its start at 1"},
      {"{" + entry("w", "U8", "18446744073709551615", "0,18446744073709551615") + "}",
       "tensor 'w': has the impossible shape [18446744073709551615]"},
      {"{" + entry("w", "F32", "4294967296,4294967296", "0,8") + "}",
       "tensor 'w': has the impossible shape [4294967296, 4294967296]"},
      {"{" + entry("w", "F32", "4294967296,4294967296,0", "0,0") + "}",
       "tensor 'w': has the impossible shape [4294967296, 4294967296, 0]"},
      {"{" + entry("w", "F32", "0,9223372036854775807,9223372036854775807", "0,0") + "}",
       "tensor 'w': has the impossible shape [0, 9223372036854775807, 9223372036854775807]"},
      {"{" + entry("w", "F32", "4611686018427387904", "0,8") + "}",
       "tensor 'w': has the impossible shape [4611686018427387904]"},
      {"{" + entry("w", "F4", "3", "0,2") + "}",
       "tensor 'w': 3 elements of dtype F4 do not fill a whole number of bytes"},
      {"{" + entry("w", "U8", "8", "18446744073709551608,18446744073709551615") + "}",
       "tensor 'w': has 7 bytes of data, but its shape [8] of dtype U8 needs 8"},
      {"{" + entry("w", "U8", "7", "18446744073709551608,18446744073709551615") + "}",
       "is truncated: tensor 'w' ends at byte 18446744073709551615 of the data, which has 8"},
      {two("0,4", "0,4"), "tensor 'b': its data overlaps with that of 'a'"},
      {two("3,7", "0,4"), "tensor 'a': its data overlaps with that of 'b'"},
      {"{" + entry("w", "U8", "8", "0,8") + "," + entry("e", "U8", "0", "4,4") + "}",
       "tensor 'e': its data overlaps with that of 'w'"},
      {two("0,4", "5,9"), "is truncated: tensor 'b' ends at byte 9 of the data, which has 8"},
      {"{" + entry("a", "U8", "3", "0,3") + "," + entry("b", "U8", "4", "4,8") + "}",
       "bytes 3 to 4 of its data, before tensor 'b', belong to none"},
      {"{" + entry("w", "U8", "4", "4,8") + "}",
       "bytes 0 to 4 of its data, before tensor 'w', belong to none"},
      {"{" + entry("w", "U8", "4", "0,4") + "}", "its last 4 bytes belong to no tensor"},
      {"{}", "its last 8 bytes belong to no tensor"},
  };
  for (const Case& wrong : cases) {
    EXPECT_EQ(failure(wrong.header, std::string(8, '\0')), wrong.message) << wrong.header;
    EXPECT_THROW(read_safetensors(file()), DamagedCheckpointError) << wrong.header;
  }
}

TEST_F(HostileSafetensorsTest, BoundsDimensionsAndNesting) {
  std::string ones = "1";
  for (int i = 1; i < 64; ++i) ones += ",1";
  const Value read = read_header("{" + entry("w", "U8", ones, "0,1") + "}", "\7");
  EXPECT_EQ(read.at("w").as_tensor().dim(), 64);
  EXPECT_EQ(failure("{" + entry("w", "U8", ones + ",1", "0,1") + "}", "\7"),
            "tensor 'w': its shape has more than 64 numbers");
  EXPECT_EQ(failure(R"({"w":)" + std::string(1'000'000, '[')),
            "tensor 'w': is an array, expected an object with dtype, shape and data_offsets");
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += R"({"a":)";
  EXPECT_EQ(failure(deep),
            "tensor 'a': has the unknown key 'a'; the format has dtype, shape and "
            "data_offsets");
}

TEST_F(HostileSafetensorsTest, ShowsNamesOfAFileAsOneShortLine) {
  const std::string error = failure(R"({"a\n\u001b[31m)" + std::string(5000, 'b') + "\":1}");
  EXPECT_THAT(error, StartsWith("tensor 'a??[31mbbb"));
  EXPECT_LT(error.size(), 300U);
  EXPECT_LT(failure(R"({"w":{"dtype":")" + std::string(5000, 'b') + "\"}}").size(), 500U);
  EXPECT_LT(failure("{" + std::string(5000, 'b') + "}").size(), 300U);
}

TEST_F(HostileSafetensorsTest, KeepsManyTensorsApart) {
  std::string header = "{";
  std::string data;
  constexpr int kTensors = 20'000;
  for (int i = 0; i < kTensors; ++i) {
    header +=
        (i == 0 ? "" : ",") + entry(std::to_string(i), "U8", "1", fmt::format("{},{}", i, i + 1));
    data += static_cast<char>(i % 251);
  }
  write_safetensors(file("b.safetensors"), read_header(header + "}", data));
  const Value read = read_safetensors(file("b.safetensors"));
  ASSERT_EQ(read.entries().size(), static_cast<size_t>(kTensors));
  for (const auto& [name, tensor] : read.entries()) {
    const int number = std::stoi(name.as_string());
    ASSERT_EQ(*tensor.as_tensor().data_ptr<uint8_t>(), number % 251) << number;
  }
}

}  // namespace
}  // namespace polyak
