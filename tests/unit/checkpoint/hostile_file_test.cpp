// SPDX-License-Identifier: Apache-2.0
// Files that are cut off, damaged or made to harm. Nothing here may crash.
#include <ATen/Functions.h>
#include <caffe2/serialize/inline_container.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#ifdef POLYAK_TEST_LEAKS
#include <sanitizer/lsan_interface.h>
#endif

#include <array>
#include <limits>
#include <string>

#include "unit/checkpoint/checkpoint_testing.h"

namespace polyak {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

using HostileTest = CheckpointTest;

Value small_checkpoint() {
  return Value::dict({{"meta", Value::dict({{"epoch", 3}, {"name", "x"}})},
                      {"state_dict", Value::dict({{"w", at::ones({2, 3})}}, true)}});
}

TEST_F(HostileTest, EveryTruncationIsAnError) {
  write_pth(file(), small_checkpoint());
  const std::string whole = read_bytes(file());
  for (size_t size = 0; size < whole.size(); ++size) {
    write_bytes(file("cut"), whole.substr(0, size));
    EXPECT_THAT(error_of([&] { read_pth(file("cut")); }), StartsWith(file("cut") + ": "));
  }
}

TEST_F(HostileTest, EveryDamagedByteIsAnErrorOrHarmless) {
#ifdef POLYAK_TEST_LEAKS
  // LibTorch 1.13's zip reader loses its memory when its constructor throws.
  const __lsan::ScopedDisabler not_our_leak;
#endif
  write_pth(file(), small_checkpoint());
  const std::string whole = read_bytes(file());
  int errors = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const char mask : {'\x01', '\x80', '\xff'}) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ mask);
      write_bytes(file("damaged"), damaged);
      try {
        read_pth(file("damaged"));
      } catch (const CheckpointError& error) {
        ++errors;
        EXPECT_THAT(error.what(), StartsWith(file("damaged") + ": "));
      }
    }
  }
  EXPECT_GT(errors, 100);
}

TEST_F(HostileTest, EveryTruncationAndDamageOfThePickleIsAnErrorOrHarmless) {
  write_pth(file(), small_checkpoint());
  std::string pickle;
  {
    caffe2::serialize::PyTorchStreamReader reader(file());
    const auto [data, size] = reader.getRecord("data.pkl");
    pickle.assign(static_cast<const char*>(data.get()), size);
  }
  const std::string data(24, '\0');
  for (size_t i = 0; i < pickle.size(); ++i) {
    EXPECT_THAT(pickle_error(pickle.substr(0, i), data),
                HasSubstr("the pickle is damaged at byte"));
    for (int byte = 0; byte < 256; byte += 29) {
      std::string damaged = pickle;
      damaged[i] = static_cast<char>(byte);
      try {
        read_pickle(damaged, data);
      } catch (const CheckpointError&) {
      }
    }
  }
}

const std::string kStart = "\x80\x02";

TEST_F(HostileTest, CallsNothingAndNamesWhatAPickleWouldCall) {
  const Value value = read_pickle(kStart + std::string("cposix\nsystem\nX\x02\0\0\0ls\x85R.", 24));
  EXPECT_EQ(value.type_name(), "posix.system");
}

TEST_F(HostileTest, NamesTheKeyUnderWhichItRefuses) {
  using namespace std::string_literals;
  EXPECT_THAT(pickle_error(kStart + "}(X\x01\0\0\0aK\x01X\x03\0\0\0hub}(X\x01\0\0\0bi"s),
              StartsWith(file() + ": hub.b: the pickle has opcode 0x69"));
}

TEST_F(HostileTest, ShowsNamesOfAFileAsOneShortLine) {
  const Value value = read_pickle(kStart + "ca\x1b[31m\n" + std::string(5000, 'b') + "\n.");
  EXPECT_THAT(value.type_name(), StartsWith("a?[31m.bbb"));
  EXPECT_LT(value.type_name().size(), 200U);
}

TEST_F(HostileTest, NamesTheOpcodeThatItRefuses) {
  EXPECT_EQ(pickle_error(kStart + "cposix"),
            file() + ": the pickle is damaged at byte 3: a name is not terminated");
  EXPECT_THAT(pickle_error(kStart + "i"), HasSubstr("opcode 0x69 at byte 2"));
  EXPECT_THAT(pickle_error("\x80\x01N."),
              HasSubstr("pickle protocol 1; this reader supports 2 to 5"));
  EXPECT_THAT(pickle_error("\x80\x06N."), HasSubstr("pickle protocol 6"));
}

TEST_F(HostileTest, RefusesAStackThatDoesNotAddUp) {
  for (const char* ops :
       {".",      "0",      "a",        "]a",    "NNa",     "]K\x01K\x02u", "}(K\x01u.",
        "(.",     "t",      "(K\x01R.", ")R",    "))R",     "}}b",          "Nb",
        "h\x05.", "q\x05.", "K\x01Q",   ")Q",    "\x85",    "\x86",         "N(\x85",
        "](N(a",  "){s",    "e",        ")(Ne.", "]K\x01s."}) {
    EXPECT_THAT(pickle_error(kStart + ops), StartsWith(file() + ": the pickle ")) << ops;
  }
}

TEST_F(HostileTest, RefusesLengthsBeyondTheEnd) {
  using namespace std::string_literals;
  EXPECT_THAT(pickle_error(kStart + "X\xff\xff\xff\xff"), HasSubstr("it ends unexpectedly"));
  EXPECT_THAT(pickle_error(kStart + "\x8a\xff"), HasSubstr("it ends unexpectedly"));
  for (const char* op : {"\x8b", "\x8c", "\x8d", "\x8e", "\x96", "B", "C", "T", "U", "\x95"}) {
    EXPECT_THAT(pickle_error(kStart + op + "\xff\xff\xff\xff"), HasSubstr("it ends unexpectedly"))
        << op;
  }
}

TEST_F(HostileTest, WhatIsNoValueIsOpaque) {
  using namespace std::string_literals;
  const auto class_of = [&](const std::string& pickle) {
    return read_pickle(kStart + pickle).type_name();
  };
  EXPECT_EQ(class_of("ctorch\nFloatStorage\n."), "torch.FloatStorage");
  EXPECT_EQ(class_of("}(NK\x01u."), "a dict with keys that are neither str nor int");
  EXPECT_EQ(class_of("\x8a\x09\x01\x01\x01\x01\x01\x01\x01\x01\x01."s), "int of more than 64 bits");
  // Items, entries and attributes of an object that is not known are no more than that object.
  EXPECT_EQ(class_of("ca\nB\n)R(Ne)Ns}b."), "a.B");
  EXPECT_EQ(class_of("ca\nB\n)\x81."), "a.B");
  EXPECT_EQ(class_of("ca\nB\n)}\x92."), "a.B");
  EXPECT_EQ(class_of("ca\nB\n)R)R."), "a.B");
  EXPECT_EQ(class_of("ctorch._utils\n_rebuild_meta_tensor_no_storage\nctorch\nfloat32\n\x85R."),
            "a torch.Tensor on the meta device");
}

TEST_F(HostileTest, RefusesArgumentsThatDoNotFit) {
  for (const char* call :
       {"ccollections\nOrderedDict\nK\x01\x85R.", "ccollections\nCounter\nK\x01\x85R.",
        "cbuiltins\nset\nK\x01\x85R.", "c_codecs\nencode\n)R.",
        "ctorch._utils\n_rebuild_parameter\n)R.", "ctorch._utils\n_rebuild_tensor_v3\n)R.",
        "ctorch._tensor\n_rebuild_from_type_v2\n)R.", "ctorch\nFloatStorage\n)R.",
        "ctorch\nSize\n)R.", "K\x01K\x02\x93."}) {
    EXPECT_THAT(pickle_error(kStart + call), StartsWith(file() + ": the pickle is damaged"))
        << call;
  }
}

std::string raw_bytes(int32_t value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

TEST_F(HostileTest, BoundsDepthCyclesAndRepetition) {
  const std::string deep = std::string(1000000, ']') + std::string(999999, 'a') + ".";
  EXPECT_THAT(pickle_error(kStart + deep), HasSubstr("nested more than 100 deep"));
  using namespace std::string_literals;
  EXPECT_THAT(pickle_error(kStart + "]q\0h\0a."s), HasSubstr("or contains itself"));
  std::string doubling = "]q"s + '\0';
  for (char i = 1; i < 60; ++i) {
    doubling += "](h"s + static_cast<char>(i - 1) + "h" + static_cast<char>(i - 1) + "eq" + i;
  }
  EXPECT_THAT(pickle_error(kStart + doubling + "."), HasSubstr("repeated too many times"));
  // A long list in the memo, copied into set after set.
  std::string sets = "]q"s + '\0' + "(" + std::string(100000, 'N') + "e0(";
  for (int i = 0; i < 100000; ++i) sets += "cbuiltins\nset\nh\0\x85R"s;
  EXPECT_THAT(pickle_error(kStart + sets + "t."), HasSubstr("repeated too many times"));
  // A large state, of object after object.
  std::string objects = "}q"s + '\0' + "(";
  for (int i = 0; i < 100000; ++i) objects += "J" + raw_bytes(i) + "N";
  objects += "u0]";
  for (int i = 0; i < 100000; ++i) objects += "ca\nB\n)\x81h\0ba"s;
  EXPECT_THAT(pickle_error(kStart + objects + "."), HasSubstr("repeated too many times"));
}

/// A pickled tensor, with its numbers as opcodes.
std::string tensor_pickle(const std::string& elements, const std::string& offset,
                          const std::string& size, const std::string& stride,
                          const std::string& key = "0") {
  using namespace std::string_literals;
  return kStart +
         "ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX"s +
         static_cast<char>(key.size()) + "\0\0\0"s + key + "X\x03\0\0\0cpu"s + elements + "tQ" +
         offset + "(" + size + "t(" + stride + "t\x89" + "ccollections\nOrderedDict\n)RtR.";
}

std::string int64_op(int64_t value) {
  return "\x8a\x08" + std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

TEST_F(HostileTest, KeepsTensorsInsideTheirStorage) {
  using namespace std::string_literals;
  const std::string data(16, '\0');
  const std::string four = "K\x04", zero = "K\0"s, one = "K\x01";
  const auto largest = int64_op(std::numeric_limits<int64_t>::max());
  EXPECT_EQ(read_pickle(tensor_pickle(four, zero, four, one), data).as_tensor().numel(), 4);
  const auto failure = [&](const std::string& elements, const std::string& offset,
                           const std::string& size, const std::string& stride) {
    return pickle_error(tensor_pickle(elements, offset, size, stride), data);
  };
  EXPECT_EQ(failure(four, one, four, one),
            file() + ": a tensor needs 5 elements, but its storage has 4");
  EXPECT_THAT(failure(four, zero, four, "K\x02"), HasSubstr("needs 7 elements"));
  EXPECT_THAT(failure("K\x05", zero, four, one), HasSubstr("'data/0' has 16 bytes, expected 20"));
  EXPECT_THAT(failure(largest, zero, four, one), HasSubstr("an impossible storage of"));
  EXPECT_THAT(failure(int64_op(-1), zero, four, one),
              HasSubstr("an impossible storage of -1 elements"));
  for (const auto& shape :
       {std::array<std::string, 3>{zero, int64_op(-4), one},
        std::array<std::string, 3>{int64_op(-1), four, one},
        std::array<std::string, 3>{zero, four, int64_op(-1)},
        std::array<std::string, 3>{largest, four, one},
        std::array<std::string, 3>{zero, largest, largest},
        std::array<std::string, 3>{zero, largest + largest, zero + zero},
        std::array<std::string, 3>{zero, largest + largest + zero, one + one + one},
        std::array<std::string, 3>{zero, four, one + one}}) {
    EXPECT_THAT(failure(four, shape[0], shape[1], shape[2]), HasSubstr("impossible shape"));
  }
  std::string ones;
  for (int i = 0; i < 65; ++i) ones += one;
  EXPECT_THAT(failure(four, zero, ones, ones), HasSubstr("a shape of 65 dimensions"));
  EXPECT_THAT(pickle_error(tensor_pickle(four, zero, four, one, "7"), data),
              HasSubstr("the archive has no record 'data/7'"));
}

}  // namespace
}  // namespace polyak
