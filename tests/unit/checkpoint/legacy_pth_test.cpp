// SPDX-License-Identifier: Apache-2.0
// The format of torch.save before PyTorch 1.6. Real files of it are read by checkpoint_interop.py.
#include <ATen/Functions.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "polyak/checkpoint/format.h"
#include "polyak/core/log.h"
#include "unit/checkpoint/checkpoint_testing.h"

namespace polyak {
namespace {

using namespace std::string_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

template <class T>
std::string raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::string text_op(const std::string& text) {
  return "X" + raw(static_cast<uint32_t>(text.size())) + text;
}

const std::string kPickle = "\x80\x02";
const std::string kMagic = kPickle + "\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19.";
const std::string kMagic4 = "\x80\x04\x95\r"s + std::string(7, '\0') + kMagic.substr(2);
const std::string kVersion = kPickle + "M\xe9\x03.";
const std::string kNone = "N";

std::string machine(const std::string& little_endian = "\x88") {
  return kPickle + "}(" + text_op("protocol_version") + "M\xe9\x03" + text_op("little_endian") +
         little_endian + "u.";
}

std::string storage_op(const std::string& key, char elements, const std::string& view = kNone,
                       const std::string& type = "FloatStorage") {
  return "(" + text_op("storage") + "ctorch\n" + type + "\n" + text_op(key) + text_op("cpu") + "K" +
         elements + view + "tQ";
}

/// A float tensor of one dimension, as PyTorch before 0.4 wrote it.
std::string tensor_op(const std::string& storage, char offset, char size) {
  return "ctorch._utils\n_rebuild_tensor\n(" + storage + "K" + offset + "K" + size +
         "\x85K\x01\x85tR";
}

std::string keys_op(const std::vector<std::string>& keys) {
  std::string op = kPickle + "](";
  for (const std::string& key : keys) op += text_op(key);
  return op + "e.";
}

/// A storage's count and its elements 0, 1, 2, ...
std::string elements(int64_t count) {
  std::string bytes = raw(count);
  for (int64_t i = 0; i < count; ++i) bytes += raw(static_cast<float>(i));
  return bytes;
}

std::string legacy(const std::string& object, const std::string& rest) {
  return kMagic + kVersion + machine() + kPickle + object + "." + rest;
}

/// {"a": the elements 1 and 2 of storage 7, "b": its elements 2 to 4 as a view, "c": storage 8}
std::string small_file() {
  const std::string view = "(" + text_op("9") + "K\x02K\x03t";
  return legacy("}(" + text_op("a") + tensor_op(storage_op("7", 5), 1, 2) + text_op("b") +
                    tensor_op(storage_op("7", 5, view), 0, 3) + text_op("c") +
                    tensor_op(storage_op("8", 2), 0, 2) + "u",
                keys_op({"7", "8"}) + elements(5) + elements(2));
}

class LegacyPthTest : public CheckpointTest {
 protected:
  LegacyPthTest() {
    set_log_sink([this](LogLevel, std::string_view text) { log_.emplace_back(text); });
  }
  ~LegacyPthTest() override { set_log_sink(nullptr); }

  Value read(const std::string& bytes) const {
    write_bytes(file(), bytes);
    return read_pth(file());
  }

  /// What the DamagedCheckpointError says; another result is a failure.
  std::string damage_of(const std::string& bytes) const {
    try {
      read(bytes);
      ADD_FAILURE() << "it was read";
    } catch (const DamagedCheckpointError& error) {
      EXPECT_THAT(error.what(), StartsWith(file() + ": "));
      return error.what();
    } catch (const CheckpointError& error) {
      ADD_FAILURE() << "not a DamagedCheckpointError: " << error.what();
    }
    return "";
  }

  std::vector<std::string> log_;
};

TEST_F(LegacyPthTest, ReadsTensorsPartsOfStoragesAndWhatTheyShare) {
  const Value value = read(small_file());
  const at::Tensor a = value.at("a").as_tensor();
  const at::Tensor b = value.at("b").as_tensor();
  EXPECT_TRUE(a.equal(at::tensor({1.0F, 2.0F})));
  EXPECT_TRUE(b.equal(at::tensor({2.0F, 3.0F, 4.0F})));
  EXPECT_TRUE(value.at("c").as_tensor().equal(at::tensor({0.0F, 1.0F})));
  a.fill_(9);
  EXPECT_EQ(b[0].item<float>(), 9) << "a and b share a storage";
  EXPECT_THAT(log_, ElementsAre(file() + ": has no checksums (CRC32), so damage to it cannot be "
                                         "detected"));
}

TEST_F(LegacyPthTest, ReadsANewerProtocolAndAnyName) {
  std::string bytes = small_file();
  bytes.replace(0, kMagic.size(), kMagic4);
  EXPECT_EQ(read(bytes).entries().size(), 3U);
  write_bytes(file("model.pt"), bytes);
  EXPECT_EQ(read_checkpoint_file(file("model.pt")).entries().size(), 3U);
}

TEST_F(LegacyPthTest, ReadsAPickleThatIsLongerThanWhatIsReadAtOnce) {
  std::string object = "]";
  for (size_t i = 0; i < 3000; ++i) {
    object += text_op(std::string(i % 97, 'x')) + "acargparse\nNamespace\n)\x81" + "a";
  }
  object += text_op(std::string(200000, 'y')) + "a" + tensor_op(storage_op("7", 3), 0, 3) + "a";
  const Value value = read(legacy(object, keys_op({"7"}) + elements(3)));
  ASSERT_EQ(value.items().size(), 6002U);
  for (size_t i = 0; i < 3000; ++i) {
    ASSERT_EQ(value.items()[2 * i].as_string().size(), i % 97);
    ASSERT_EQ(value.items()[2 * i + 1].type_name(), "argparse.Namespace");
  }
  EXPECT_EQ(value.items()[6000].as_string().size(), 200000U);
  EXPECT_TRUE(value.items()[6001].as_tensor().equal(at::tensor({0.0F, 1.0F, 2.0F})));
}

TEST_F(LegacyPthTest, TakesAModuleForAnObjectOfItsClass) {
  const std::string module = "(" + text_op("module") + "cmodels\nNet\n" + text_op("net.py") +
                             text_op("class Net(Module): ...") + "tQ)\x81}" + text_op("w") +
                             tensor_op(storage_op("7", 1), 0, 1) + "sb";
  EXPECT_EQ(read(legacy(module, keys_op({"7"}) + elements(1))).type_name(), "models.Net");
}

TEST_F(LegacyPthTest, QuantizedElementsAreSkipped) {
  const std::string quantized =
      "ctorch._utils\n_rebuild_qtensor\n(" + storage_op("7", 4, kNone, "QInt8Storage") + "tR";
  const Value value = read(legacy("]" + quantized + "a" + tensor_op(storage_op("8", 1), 0, 1) + "a",
                                  keys_op({"7", "8"}) + raw(int64_t{4}) + "abcd" + elements(1)));
  EXPECT_EQ(value.items()[0].type_name(), "a quantized torch.Tensor");
  EXPECT_EQ(value.items()[1].as_tensor().item<float>(), 0);
}

TEST_F(LegacyPthTest, EveryTruncationIsDamage) {
  const std::string whole = small_file();
  for (size_t size = 0; size < whole.size(); ++size) damage_of(whole.substr(0, size));
  for (size_t size = 0; size < kMagic4.size(); ++size) damage_of(kMagic4.substr(0, size));
}

TEST_F(LegacyPthTest, EveryDamagedByteIsAnErrorOrHarmless) {
  const std::string whole = small_file();
  int errors = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const char mask : {'\x01', '\xff'}) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ mask);
      try {
        read(damaged);
      } catch (const CheckpointError& error) {
        ++errors;
        EXPECT_THAT(error.what(), StartsWith(file() + ": "));
      }
    }
  }
  EXPECT_GT(errors, 500);
}

TEST_F(LegacyPthTest, NumbersThatContradictEachOtherAreDamage) {
  const std::string object = tensor_op(storage_op("7", 5), 0, 5);
  const std::string key = keys_op({"7"});
  const auto damage = [&](const std::string& pickled, const std::string& rest) {
    return damage_of(legacy(pickled, rest));
  };
  EXPECT_THAT(damage(object, key + raw(int64_t{4}) + std::string(20, 'x')),
              HasSubstr("its storage '7' has 4 elements, expected 5"));
  EXPECT_THAT(damage(object, key + raw(int64_t{-5}) + std::string(20, 'x')),
              HasSubstr("its storage '7' has -5 elements, expected 5"));
  EXPECT_THAT(damage(object, keys_op({}) + elements(5)), HasSubstr("its storage '7' is missing"));
  EXPECT_THAT(damage(object, keys_op({"7", "7"}) + elements(5) + elements(5)),
              HasSubstr("nothing uses its storage '7', or it is there twice"));
  EXPECT_THAT(damage(object, keys_op({"6", "7"}) + elements(5) + elements(5)),
              HasSubstr("nothing uses its storage '6'"));
  EXPECT_THAT(damage(object, kPickle + "N." + elements(5)), HasSubstr("may be damaged"));
  EXPECT_THAT(damage(object, keys_op({"7"}) + elements(5).substr(0, 27)),
              HasSubstr("it ends unexpectedly"));
  EXPECT_THAT(damage(tensor_op(storage_op("7", 5), 1, 5), key + elements(5)),
              HasSubstr("a tensor needs 6 elements, but its storage has 5"));
  const std::string two = "]" + object + "a" + tensor_op(storage_op("7", 4), 0, 4) + "a";
  EXPECT_THAT(damage(two, key + elements(5)),
              HasSubstr("its storage '7' has 20 bytes in one place and 16 in another"));
  for (const std::string& view : {"K\x02K\x04"s, "K\x06K\0"s, "J\xff\xff\xff\xffK\x01"s}) {
    EXPECT_THAT(damage(tensor_op(storage_op("7", 5, "(" + text_op("9") + view + "t"), 0, 1),
                       key + elements(5)),
                HasSubstr("of a storage that has 5"));
  }
  const std::string part = storage_op("7", 5, "(" + text_op("9") + "K\x02K\x02t");
  EXPECT_THAT(damage(tensor_op(part, 0, 3), key + elements(5)),
              HasSubstr("a tensor needs 3 elements, but its storage has 2"));
  EXPECT_THAT(damage_of(kMagic + kPickle + "M\xea\x03." + machine()),
              HasSubstr("its format has the version 1002, expected 1001"));
}

TEST_F(LegacyPthTest, MemoryIsNotTakenForMoreThanTheFileHas) {
  const auto many = [](int64_t count) {
    return "ctorch._utils\n_rebuild_tensor\n((" + text_op("storage") + "ctorch\nFloatStorage\n" +
           text_op("7") + text_op("cpu") + "\x8a\x08" + raw(count) + "NtQK\0K\1\x85K\1\x85tR"s;
  };
  EXPECT_THAT(damage_of(legacy(many(int64_t{1} << 40), keys_op({"7"}) + elements(5))),
              HasSubstr("its tensors need 4398046511104 bytes, and "));
  EXPECT_THAT(damage_of(legacy(many(int64_t{1} << 62), keys_op({"7"}) + elements(5))),
              HasSubstr("an impossible storage of"));
  // Each storage alone fits, all of them do not.
  std::string object = "]";
  for (int i = 0; i < 9; ++i) {
    object += tensor_op(storage_op(std::to_string(i), 100), 0, 1) + "a";
  }
  EXPECT_THAT(damage_of(legacy(object, keys_op({"0"}) + elements(100))),
              HasSubstr("its tensors need 400 bytes, and "));
}

TEST_F(LegacyPthTest, RefusesOtherPicklesAndBigEndianMachines) {
  EXPECT_EQ(error_of([&] { read(kPickle + "}q\x01."); }),
            file() +
                ": is a pickle that torch.save did not write; load it in Python, and save its "
                "tensors with torch.save");
  EXPECT_THAT(
      error_of([&] { read("\x80\x04\x95\x0a"s + std::string(7, '\0') + "]\x94(K\1K\2e."); }),
      HasSubstr("is a pickle that torch.save did not write"));
  EXPECT_THAT(error_of([&] { read(kMagic + kVersion + machine("\x89") + kPickle + "N."); }),
              HasSubstr("was written on a big-endian machine"));
}

}  // namespace
}  // namespace polyak
