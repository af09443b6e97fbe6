// SPDX-License-Identifier: Apache-2.0
#include <ATen/Functions.h>
#include <ATen/core/Tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#ifdef POLYAK_TEST_LEAKS
#include <sanitizer/lsan_interface.h>
#endif

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>

#include "polyak/checkpoint/pth.h"
#include "polyak/core/log.h"
#include "polyak/runtime/run_checkpoint.h"
#include "support/own_folder.h"
#include "unit/checkpoint/checkpoint_testing.h"

namespace polyak {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

/// What the error says, "" for none.
std::string damage_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const DamagedCheckpointError& error) {
    return error.what();
  }
  return "";
}

bool equal(const Value& a, const Value& b) {
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Value::Kind::tensor:
      return a.as_tensor().sizes() == b.as_tensor().sizes() &&
             a.as_tensor().strides() == b.as_tensor().strides() &&
             a.as_tensor().scalar_type() == b.as_tensor().scalar_type() &&
             a.as_tensor().equal(b.as_tensor());
    case Value::Kind::list:
    case Value::Kind::tuple:
    case Value::Kind::set:
      return std::equal(a.items().begin(), a.items().end(), b.items().begin(), b.items().end(),
                        equal);
    case Value::Kind::dict:
      return a.ordered() == b.ordered() &&
             std::equal(a.entries().begin(), a.entries().end(), b.entries().begin(),
                        b.entries().end(), [](const Value::Entry& x, const Value::Entry& y) {
                          return equal(x.first, y.first) && equal(x.second, y.second);
                        });
    case Value::Kind::none:
      return true;
    case Value::Kind::boolean:
      return a.as_bool() == b.as_bool();
    case Value::Kind::integer:
      return a.as_int() == b.as_int();
    case Value::Kind::real:
      return a.as_real() == b.as_real();
    case Value::Kind::string:
      return a.as_string() == b.as_string();
    case Value::Kind::opaque:
      return a.type_name() == b.type_name();
  }
  return false;
}

class DamageTest : public testing::Test {
 protected:
  DamageTest() {
    set_log_sink([this](LogLevel, std::string_view text) { log_.emplace_back(text); });
    write_pth(file(), checkpoint_);
    whole_ = read_bytes(file());
  }
  ~DamageTest() override { set_log_sink(nullptr); }

  std::string file(const std::string& name = "a.pth") const { return (folder_ / name).string(); }

  /// The places of the central directory's entries, which begin with this.
  std::vector<size_t> entries() const {
    std::vector<size_t> places;
    for (size_t at = whole_.find("PK\x01\x02"); at != std::string::npos;
         at = whole_.find("PK\x01\x02", at + 1)) {
      places.push_back(at);
    }
    return places;
  }

  /// The error of the whole file with some bytes put over others.
  std::string damage_with(size_t at, const std::string& bytes) const {
    std::string damaged = whole_;
    damaged.replace(at, bytes.size(), bytes);
    write_bytes(file("damaged"), damaged);
    return damage_of([&] { read_pth(file("damaged")); });
  }

  test::OwnFolder own_folder_;
  fs::path folder_ = own_folder_.path();
  Value checkpoint_ =
      Value::dict({{"meta", Value::dict({{"epoch", 3}, {"lr", 0.25}, {"name", "x"}})},
                   {"state_dict", Value::dict({{"weight", at::arange(12, at::kFloat).view({3, 4})},
                                               {"bias", at::ones({5}, at::kDouble)},
                                               {"steps", at::tensor({7L})}},
                                              /*ordered=*/true)},
                   {"optimizer", Value::dict({{"state", Value::list({1, true, Value()})}})}});
  std::string whole_;
  std::vector<std::string> log_;
};

TEST_F(DamageTest, EveryFlippedBitIsRefusedOrChangesNothing) {
#ifdef POLYAK_TEST_LEAKS
  // LibTorch 1.13's zip reader loses its memory when its constructor throws.
  const __lsan::ScopedDisabler not_our_leak;
#endif
  const Value right = read_pth(file());
  ASSERT_TRUE(equal(right, right));
  write_bytes(file("damaged"), whole_);
  std::fstream damaged(file("damaged"), std::ios::binary | std::ios::in | std::ios::out);
  const auto put = [&](size_t at, char byte) {
    damaged.seekp(static_cast<std::streamoff>(at)).put(byte).flush();
  };
  int refused = 0;
  for (size_t at = 0; at < whole_.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      put(at, static_cast<char>(whole_[at] ^ (1 << bit)));
      try {
        ASSERT_TRUE(equal(read_pth(file("damaged")), right)) << "byte " << at << ", bit " << bit;
      } catch (const CheckpointError& error) {
        ++refused;
        ASSERT_THAT(error.what(), StartsWith(file("damaged") + ": "));
      }
    }
    put(at, whole_[at]);
  }
  // All that is data, and most of the directory; the padding between records may be anything.
  EXPECT_GT(refused, 5000);
}

TEST_F(DamageTest, AFlippedBitOfATensorIsRefusedByTheNameOfItsRecord) {
  const float seven = 7.0F;
  const size_t at = whole_.find(std::string(reinterpret_cast<const char*>(&seven), sizeof seven));
  ASSERT_NE(at, std::string::npos);
  for (size_t byte = 0; byte < sizeof seven; ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      const char flipped = static_cast<char>(whole_[at + byte] ^ (1 << bit));
      EXPECT_THAT(damage_with(at + byte, {flipped}),
                  testing::MatchesRegex(".*/damaged: is damaged: the checksum .CRC32. of its "
                                        "record 'data/[0-9]' is [0-9a-f]{8}, expected "
                                        "[0-9a-f]{8}"));
    }
  }
}

TEST_F(DamageTest, AFlippedBitOfThePickleIsRefusedAsSuch) {
  const size_t name = whole_.find("weight");
  EXPECT_THAT(damage_with(name, "height"), HasSubstr("its record 'data.pkl' is"));
}

TEST_F(DamageTest, AWrongChecksumInTheDirectoryIsRefused) {
  for (const size_t entry : entries()) {
    // Newer versions of LibTorch write one that nothing reads.
    if (whole_.substr(entry + 46, 60).find("serialization_id") != std::string::npos) continue;
    const size_t crc = entry + 16;
    const std::string error = damage_with(crc, {static_cast<char>(whole_[crc] ^ 1)});
    EXPECT_THAT(error, HasSubstr("is damaged: the checksum (CRC32) of its record"));
    EXPECT_THAT(damage_with(crc, std::string(4, '\0')), HasSubstr("expected 00000000"));
  }
}

TEST_F(DamageTest, AnArchiveWithoutChecksumsIsReadWithOneLine) {
  std::string without = whole_;
  for (const size_t entry : entries()) without.replace(entry + 16, 4, std::string(4, '\0'));
  write_bytes(file("without"), without);
  EXPECT_TRUE(equal(read_pth(file("without")), read_pth(file())));
  EXPECT_THAT(
      log_, testing::ElementsAre(file("without") + ": has no checksums "
                                                   "(CRC32), so damage to it cannot be detected"));
}

TEST_F(DamageTest, ARecordThatStandsTwiceIsRefused) {
  const std::vector<size_t> places = entries();
  for (const size_t entry : places) {
    const size_t at = whole_.find("data/0", entry);
    if (at == std::string::npos || at > entry + 80) continue;
    EXPECT_THAT(damage_with(at, "data/1"), HasSubstr("it has two records 'data/1'"));
    return;
  }
  FAIL() << "no record data/0";
}

TEST_F(DamageTest, AZipWithoutAVersionIsNoCheckpoint) {
  for (const size_t entry : entries()) {
    const size_t at = whole_.find("version", entry);
    if (at == std::string::npos || at > entry + 80) continue;
    std::string other = whole_;
    other.replace(at, 7, "varsion");
    write_bytes(file("other"), other);
    try {
      read_pth(file("other"));
      FAIL() << "it was read";
    } catch (const CheckpointError& error) {
      EXPECT_EQ(error.what(), file("other") +
                                  ": is a zip archive without a record 'version', not a "
                                  "checkpoint; torch.save writes one");
    }
    return;
  }
  FAIL() << "no record version";
}

TEST_F(DamageTest, ASizeBeyondTheFileIsRefusedBeforeMemoryIsTaken) {
  for (const size_t entry : entries()) {
    for (const size_t size : {entry + 20, entry + 24}) {
      EXPECT_THAT(damage_with(size, "\xf0\xff\xff\x7f"),
                  HasSubstr("a record in its zip directory is larger than the file"));
    }
  }
}

TEST_F(DamageTest, TheNewestWholeCheckpointBesideADamagedOneIsNamed) {
  const auto write = [&](const std::string& name, const std::string& bytes, int age) {
    write_bytes(file(name), bytes);
    fs::last_write_time(file(name), fs::file_time_type::clock::now() - std::chrono::minutes(age));
  };
  fs::remove(file());
  std::string damaged = whole_;
  damaged[damaged.find("weight")] = 'h';
  write("epoch_4.pth", damaged, 0);
  const auto error = [&] { return damage_of([&] { read_checkpoint(file("epoch_4.pth")); }); };
  EXPECT_THAT(error(), AllOf(StartsWith(file("epoch_4.pth") + ": is damaged"),
                             EndsWith("; there is no intact checkpoint next to it")));

  write("epoch_1.pth", whole_, 3);
  write("epoch_2.pth", whole_, 2);
  write("epoch_3.pth", whole_.substr(0, 500), 1);  // cut off
  write("notes.txt", whole_, 0);
  EXPECT_THAT(error(),
              EndsWith("; the newest intact checkpoint next to it is " + file("epoch_2.pth")));

  // One that a run can go on from goes before a newer one that holds weights only.
  write_pth(file("best.pth"), Value::dict({{"state_dict", checkpoint_.at("state_dict")}}));
  EXPECT_THAT(error(), EndsWith(file("epoch_2.pth")));
  fs::remove(file("epoch_1.pth"));
  fs::remove(file("epoch_2.pth"));
  EXPECT_THAT(error(), EndsWith(file("best.pth")));
}

}  // namespace
}  // namespace polyak
