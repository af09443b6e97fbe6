// SPDX-License-Identifier: Apache-2.0
#include <ATen/Functions.h>
#include <ATen/core/Tensor.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <optional>
#include <sstream>

#include <caffe2/serialize/inline_container.h>

#include "polyak/checkpoint/file.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/checkpoint/value.h"
#include "support/own_folder.h"

namespace polyak {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const CheckpointError& error) {
    EXPECT_THAT(error.what(), Not(HasSubstr("\n"))) << "a message is one line";
    return error.what();
  }
  return "no CheckpointError";
}

std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// A folder of its own for each test.
class CheckpointTest : public testing::Test {
 protected:
  std::string file(const std::string& name = "a.pth") const { return (folder_ / name).string(); }

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_))
      names.push_back(entry.path().filename());
    return names;
  }

  Value round_trip(const Value& value) const {
    write_pth(file(), value);
    return read_pth(file());
  }

  at::Tensor round_trip_tensor(const at::Tensor& tensor) const {
    return round_trip(Value::dict({{"t", tensor}})).at("t").as_tensor();
  }

  /// An archive as torch.save lays it out, around a pickle of any bytes.
  Value read_pickle(const std::string& pickle, const std::string& data = "") const {
    {
      caffe2::serialize::PyTorchStreamWriter writer(file());
      writer.writeRecord("data.pkl", pickle.data(), pickle.size());
      writer.writeRecord("data/0", data.data(), data.size());
      writer.writeEndOfFile();
    }
    return read_pth(file());
  }

  std::string pickle_error(const std::string& pickle, const std::string& data = "") const {
    return error_of([&] { read_pickle(pickle, data); });
  }

  test::OwnFolder own_folder_;
  fs::path folder_ = own_folder_.path();
};

using ValueTest = testing::Test;
using FileTest = CheckpointTest;
using PthTest = CheckpointTest;
using HostileTest = CheckpointTest;

// Value

TEST(ValueTest, KnowsItsKindAndName) {
  EXPECT_EQ(Value().kind(), Value::Kind::none);
  EXPECT_STREQ(Value().kind_name(), "None");
  EXPECT_STREQ(Value(true).kind_name(), "bool");
  EXPECT_STREQ(Value(1).kind_name(), "int");
  EXPECT_STREQ(Value(1.5).kind_name(), "float");
  EXPECT_STREQ(Value("a").kind_name(), "str");
  EXPECT_STREQ(Value(at::ones({1})).kind_name(), "Tensor");
  EXPECT_STREQ(Value::list().kind_name(), "list");
  EXPECT_STREQ(Value::tuple().kind_name(), "tuple");
  EXPECT_STREQ(Value::dict().kind_name(), "dict");
}

TEST(ValueTest, GivesItsContentOnlyAsItsOwnKind) {
  EXPECT_EQ(Value(3).as_int(), 3);
  EXPECT_EQ(Value(3).as_real(), 3.0);
  EXPECT_EQ(Value(true).as_bool(), true);
  EXPECT_EQ(error_of([] { Value("a").as_int(); }), "expected int, found str");
  EXPECT_EQ(error_of([] { Value(true).as_int(); }), "expected int, found bool");
  EXPECT_EQ(error_of([] { Value(1.0).as_int(); }), "expected int, found float");
  EXPECT_EQ(error_of([] { Value().as_tensor(); }), "expected Tensor, found None");
  EXPECT_EQ(error_of([] { Value(1).items(); }), "expected list or tuple, found int");
  EXPECT_EQ(error_of([] { Value(1).entries(); }), "expected dict, found int");
  EXPECT_EQ(error_of([] { Value(1).find("a"); }), "expected dict, found int");
}

TEST(ValueTest, DictKeepsItsOrderWhileItIsChanged) {
  Value dict = Value::dict({}, true);
  dict.set("b", 1);
  dict.set("a", 2);
  dict.set(7, 3);
  dict.set("b", 4);
  EXPECT_TRUE(dict.ordered());
  ASSERT_EQ(dict.entries().size(), 3U);
  EXPECT_EQ(dict.entries()[0].first.as_string(), "b");
  EXPECT_EQ(dict.at("b").as_int(), 4);
  EXPECT_EQ(dict.at(7).as_int(), 3);
  EXPECT_FALSE(dict.contains("7"));
  EXPECT_TRUE(dict.erase("a"));
  EXPECT_FALSE(dict.erase("a"));
  EXPECT_EQ(dict.find("a"), nullptr);
}

TEST(ValueTest, ASetCopyOfItselfIsWhole) {
  Value dict = Value::dict({{"a", 1}});
  dict.set("self", dict);
  EXPECT_EQ(dict.at("self").at("a").as_int(), 1);
  EXPECT_FALSE(dict.at("self").contains("self"));
}

TEST(ValueTest, AMissingKeyNamesThoseThatAreThere) {
  const Value dict = Value::dict({{"meta", 1}, {3, 2}});
  EXPECT_EQ(error_of([&] { dict.at("mata"); }), "no key 'mata'; there are: 'meta', 3");
  EXPECT_EQ(error_of([] { Value::dict().at(1); }), "no key 1; the dict is empty");
}

TEST(ValueTest, RefusesKeysThatAreNeitherStrNorInt) {
  EXPECT_EQ(error_of([] {
              Value::dict({{1.5, 1}});
            }),
            "a key of a dict must be a str or an int, not a float");
  EXPECT_EQ(error_of([] { Value::dict().set(true, 1); }),
            "a key of a dict must be a str or an int, not a bool");
}

TEST(ValueTest, CopiesAreDeepExceptForTensors) {
  Value a = Value::dict({{"list", Value::list({1})}, {"t", at::zeros({1})}});
  Value b = a;
  b.at("list").items().emplace_back(2);
  EXPECT_EQ(a.at("list").items().size(), 1U);
  EXPECT_TRUE(a.at("t").as_tensor().is_same(b.at("t").as_tensor()));
}

// Files

TEST_F(FileTest, ReplacesATextAndLeavesNothingElse) {
  replace_text_file(file("t"), "one");
  replace_text_file(file("t"), "two");
  EXPECT_EQ(read_bytes(file("t")), "two");
  EXPECT_THAT(names(), testing::ElementsAre("t"));
}

TEST_F(FileTest, WritesIntoTheCurrentFolder) {
  const auto before = fs::current_path();
  fs::current_path(folder_);
  replace_text_file("here", "x");
  fs::current_path(before);
  EXPECT_EQ(read_bytes(file("here")), "x");
}

TEST_F(FileTest, LeavesTheOldFileWhenTheWriterThrows) {
  replace_text_file(file("t"), "old");
  EXPECT_THROW(replace_file(file("t"),
                            [](const std::string& name) {
                              write_bytes(name, "half");
                              throw std::logic_error("no more");
                            }),
               std::logic_error);
  EXPECT_EQ(read_bytes(file("t")), "old");
  EXPECT_THAT(names(), testing::ElementsAre("t"));
}

TEST_F(FileTest, WritesBesideTheTargetUnderAHiddenName) {
  replace_file(file("t"), [&](const std::string& name) {
    EXPECT_EQ(fs::path(name).parent_path(), folder_);
    EXPECT_THAT(fs::path(name).filename().string(), StartsWith(".t.tmp-"));
    EXPECT_FALSE(fs::exists(file("t")));
  });
}

TEST_F(FileTest, GivesTheFileWhatTheUmaskLeaves) {
  const mode_t before = ::umask(027);
  replace_text_file(file("t"), "x");
  ::umask(before);
  struct stat status {};
  ASSERT_EQ(::stat(file("t").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0640U);
}

TEST_F(FileTest, SaysWhatIsWrongWithThePlaceAndWhatToDo) {
  const auto failure = [](const std::string& path) {
    return error_of([&] { replace_text_file(path, "x"); });
  };
  EXPECT_EQ(
      failure(file("no/t")),
      fmt::format("{}: cannot be written: No such file or directory; create the folder '{}' first",
                  file("no/t"), file("no")));
  write_bytes(file("plain"), "");
  EXPECT_EQ(failure(file("plain/t")),
            fmt::format("{}: cannot be written: Not a directory; '{}' is not a folder",
                        file("plain/t"), file("plain")));
  fs::create_directory(file("folder"));
  EXPECT_THAT(failure(file("folder")), HasSubstr("it is a folder, give the name of a file"));
  EXPECT_THAT(failure("/proc/t"), StartsWith("/proc/t: cannot be written: "));
}

TEST_F(FileTest, ReportsAFullDisk) {
  FileSink sink("/dev/full", "/data/epoch_1.pth");
  sink.write("x", 1);
  sink.write("y", 1);
  EXPECT_EQ(error_of([&] { sink.check(); }),
            "/data/epoch_1.pth: cannot be written: No space left on device; free some space for "
            "'/data'");
}

// Round trips

TEST_F(PthTest, KeepsEveryKindOfValue) {
  const Value read = round_trip(Value::dict({
      {"none", Value()},
      {"true", true},
      {"false", false},
      {"text", "Grüße, 世界"},
      {"empty text", ""},
      {"real", 0.1},
      {"infinite", -std::numeric_limits<double>::infinity()},
      {"nan", std::nan("")},
      {"list", Value::list({1, "two", Value::list()})},
      {"tuple", Value::tuple({1, Value::tuple(), Value::tuple({2.5})})},
      {"dict", Value::dict({{1, "int key"}, {-70000, "negative"}, {"1", "str key"}})},
      {"empty dict", Value::dict()},
      {"ordered", Value::dict({{"z", 1}, {"a", 2}}, true)},
      {"empty ordered", Value::dict({}, true)},
  }));
  EXPECT_FALSE(read.ordered());
  EXPECT_TRUE(read.at("none").is_none());
  EXPECT_TRUE(read.at("true").as_bool());
  EXPECT_FALSE(read.at("false").as_bool());
  EXPECT_EQ(read.at("text").as_string(), "Grüße, 世界");
  EXPECT_EQ(read.at("empty text").as_string(), "");
  EXPECT_EQ(read.at("real").as_real(), 0.1);
  EXPECT_EQ(read.at("infinite").as_real(), -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(read.at("nan").as_real()));
  EXPECT_EQ(read.at("list").kind(), Value::Kind::list);
  EXPECT_EQ(read.at("list").items()[1].as_string(), "two");
  EXPECT_TRUE(read.at("list").items()[2].items().empty());
  EXPECT_EQ(read.at("tuple").kind(), Value::Kind::tuple);
  EXPECT_EQ(read.at("tuple").items()[1].kind(), Value::Kind::tuple);
  EXPECT_EQ(read.at("tuple").items()[2].items()[0].as_real(), 2.5);
  EXPECT_EQ(read.at("dict").at(1).as_string(), "int key");
  EXPECT_EQ(read.at("dict").at(-70000).as_string(), "negative");
  EXPECT_EQ(read.at("dict").at("1").as_string(), "str key");
  EXPECT_TRUE(read.at("empty dict").entries().empty());
  EXPECT_TRUE(read.at("ordered").ordered());
  EXPECT_EQ(read.at("ordered").entries()[0].first.as_string(), "z");
  EXPECT_TRUE(read.at("empty ordered").ordered());
}

TEST_F(PthTest, KeepsEveryInt) {
  std::vector<Value> written;
  for (const int64_t edge : {int64_t{0}, int64_t{1} << 8, int64_t{1} << 16, int64_t{1} << 31,
                             int64_t{1} << 32, std::numeric_limits<int64_t>::max()}) {
    for (const int64_t value : {edge, edge - 1, -edge, -edge - 1}) written.emplace_back(value);
  }
  const Value read = round_trip(Value::list(written));
  for (size_t i = 0; i < written.size(); ++i) {
    EXPECT_EQ(read.items()[i].as_int(), written[i].as_int());
  }
}

TEST_F(PthTest, KeepsAValueThatIsNoDict) {
  EXPECT_EQ(round_trip(Value(5)).as_int(), 5);
}

TEST_F(PthTest, KeepsEveryDtype) {
  for (const auto dtype :
       {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kShort,
        at::kChar, at::kByte, at::kBool, at::kComplexFloat, at::kComplexDouble}) {
    const auto tensor = at::arange(6, at::kFloat).reshape({2, 3}).to(dtype);
    const auto read = round_trip_tensor(tensor);
    EXPECT_EQ(read.scalar_type(), dtype);
    EXPECT_TRUE(read.equal(tensor)) << c10::toString(dtype);
  }
}

TEST_F(PthTest, KeepsShapesAndStrides) {
  const auto base = at::arange(24, at::kFloat);
  for (const auto& tensor : {at::scalar_tensor(2.5), at::empty({0}), at::empty({3, 0, 2}),
                             base.reshape({2, 3, 4}), base.reshape({4, 6}).t(),
                             base.reshape({2, 3, 2, 2}).contiguous(at::MemoryFormat::ChannelsLast),
                             base.slice(0, 1, 24, 2), at::ones({1}).expand({5, 4})}) {
    const auto read = round_trip_tensor(tensor);
    EXPECT_EQ(read.sizes(), tensor.sizes());
    EXPECT_EQ(read.strides(), tensor.strides());
    EXPECT_TRUE(read.equal(tensor));
  }
}

TEST_F(PthTest, WhatItReadsCanBeResizedAndWritten) {
  auto read = round_trip_tensor(at::ones({2}));
  read.resize_({100}).fill_(1);
  EXPECT_EQ(read.sum().item<float>(), 100);
}

TEST_F(PthTest, DropsRequiresGrad) {
  EXPECT_FALSE(round_trip_tensor(at::ones({2}).requires_grad_()).requires_grad());
}

TEST_F(PthTest, WritesTiedTensorsOnceAndTiesThemAgain) {
  const auto weight = at::rand({1000});
  const Value read =
      round_trip(Value::dict({{"a", weight}, {"b", weight}, {"row", weight.slice(0, 10, 20)}}));
  EXPECT_LT(fs::file_size(file()), 8000U);
  read.at("a").as_tensor().fill_(7);
  EXPECT_EQ(read.at("b").as_tensor()[999].item<float>(), 7);
  EXPECT_EQ(read.at("row").as_tensor().storage_offset(), 10);
  EXPECT_EQ(read.at("row").as_tensor()[0].item<float>(), 7);
}

TEST_F(PthTest, CutsALoneViewOutOfAMuchLargerStorage) {
  const auto view = at::arange(1000000, at::kFloat).reshape({1000, 1000}).slice(1, 5, 7);
  const auto read = round_trip_tensor(view);
  EXPECT_LT(fs::file_size(file()), 20000U);
  EXPECT_TRUE(read.equal(view));
  EXPECT_TRUE(round_trip_tensor(at::ones({100}).slice(0, 0, 0)).equal(at::empty({0})));
}

TEST_F(PthTest, WritesTwoDtypesOverOneStorage) {
  const auto complex = at::randn({4}, at::kComplexFloat);
  const Value read = round_trip(Value::dict({{"c", complex}, {"r", at::view_as_real(complex)}}));
  EXPECT_TRUE(read.at("c").as_tensor().equal(complex));
  EXPECT_TRUE(read.at("r").as_tensor().equal(at::view_as_real(complex)));
}

TEST_F(PthTest, WritesTheValuesOfLazyConjugatesAndNegatives) {
  const auto complex = at::randn({4}, at::kComplexFloat);
  EXPECT_TRUE(round_trip_tensor(complex.conj()).equal(complex.conj()));
  EXPECT_TRUE(round_trip_tensor(at::imag(complex.conj())).equal(at::imag(complex.conj())));
}

TEST_F(PthTest, HoldsPlainNumbersWhereAnOptimizerNeedsThem) {
  const Value group = Value::dict({{"lr", 0.1}, {"betas", Value::tuple({0.9, 0.999})}});
  const Value file = round_trip(Value::dict(
      {{"optimizer", Value::dict({{"param_groups", Value::list({group})}})}, {"score", 0.5}}));
  const Value& read = file.at("optimizer").at("param_groups").items().front();
  EXPECT_STREQ(read.at("lr").kind_name(), "float");
  EXPECT_STREQ(read.at("betas").kind_name(), "tuple");
  EXPECT_STREQ(read.at("betas").items()[1].kind_name(), "float");
  EXPECT_STREQ(file.at("score").kind_name(), "float");
  // Torch 1.13 reads every other file.
  EXPECT_STREQ(round_trip(Value::dict({{"score", 0.5}})).at("score").kind_name(), "Tensor");
}

TEST_F(PthTest, ReplacesACheckpointAsAWhole) {
  write_pth(file(), Value::dict({{"a", 1}}));
  const std::string before = read_bytes(file());
  const auto sparse = at::ones({2, 2}).to_sparse();
  EXPECT_EQ(error_of([&] {
              write_pth(file(), Value::dict({{"state_dict", Value::dict({{"w", sparse}})}}));
            }),
            file() +
                ": state_dict.w: this tensor cannot be saved: its layout is Sparse; save "
                "tensor.to_dense()");
  EXPECT_EQ(read_bytes(file()), before);
  EXPECT_THAT(names(), testing::ElementsAre("a.pth"));
}

TEST_F(PthTest, NamesTheKeyOfWhatCannotBeSaved) {
  const auto failure = [&](const Value& value) {
    return error_of([&] {
      write_pth(file(),
                Value::dict({{"state_dict", Value::dict({{"w", Value::list({0, value})}})}}));
    });
  };
  const std::string place = file() + ": state_dict.w[1]: ";
  EXPECT_EQ(failure(at::Tensor()), place + "this tensor cannot be saved: it is undefined");
  EXPECT_THAT(failure(at::empty({2}, at::device(at::kMeta))),
              AllOf(StartsWith(place), HasSubstr("meta")));
  EXPECT_THAT(failure(at::quantize_per_tensor(at::ones({2}), 0.1, 0, at::kQInt8)),
              AllOf(StartsWith(place), HasSubstr("quantized")));
  EXPECT_THAT(failure(at::empty({2}, at::kComplexHalf)),
              AllOf(StartsWith(place), HasSubstr("ComplexHalf")));
  EXPECT_EQ(failure(std::string("\xff")),
            place + "a str is not UTF-8, so Python could not read it");
  Value dict = Value::dict({{"a", 1}});
  dict.entries()[0].first = Value(true);
  EXPECT_THAT(failure(dict), HasSubstr("a key of this dict is a bool"));
  Value deep;
  for (int i = 0; i < 200; ++i) deep = Value::list({deep});
  EXPECT_THAT(failure(deep), HasSubstr("nested more than 100 deep"));
  EXPECT_FALSE(fs::exists(file()));
}

TEST_F(PthTest, TellsWhyAFileIsNoCheckpoint) {
  const auto failure = [&](const std::string& name) {
    return error_of([&] { read_pth(file(name)); });
  };
  EXPECT_EQ(failure("none.pth"), file("none.pth") + ": cannot be read: No such file or directory");
  fs::create_directory(file("folder"));
  EXPECT_EQ(failure("folder"), file("folder") + ": is a folder, not a checkpoint");
  write_bytes(file("empty"), "");
  EXPECT_EQ(failure("empty"), file("empty") + ": is empty");
  write_bytes(file("text"), "model:\n  type: LeNet\n");
  EXPECT_EQ(failure("text"),
            file("text") + ": is not a checkpoint: a .pth file is a zip archive, this is not");
  write_bytes(file("old"), "\x80\x02\x8a\nl\xfc\x9c");
  EXPECT_THAT(failure("old"), HasSubstr("PyTorch before 1.6"));
  for (const char* record : {"constants.pkl", "other"}) {
    {
      caffe2::serialize::PyTorchStreamWriter writer(file());
      writer.writeRecord(record, "x", 1);
      writer.writeEndOfFile();
    }
    EXPECT_THAT(failure("a.pth"),
                HasSubstr(record == std::string("other") ? "without data.pkl" : "TorchScript"));
  }
}

// Files that are cut off, damaged or made to harm. Nothing here may crash.

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
#ifdef __SANITIZE_ADDRESS__
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

TEST_F(HostileTest, NamesTheObjectThatItRefuses) {
  EXPECT_EQ(pickle_error(kStart + std::string("cposix\nsystem\nX\x02\0\0\0ls\x85R.", 24)),
            file() +
                ": an object of 'posix.system'; this reader takes tensors, numbers, strings, "
                "lists, tuples and dicts");
}

TEST_F(HostileTest, NamesTheKeyUnderWhichItRefuses) {
  using namespace std::string_literals;
  EXPECT_THAT(
      pickle_error(kStart + "}(X\x01\0\0\0aK\x01X\x03\0\0\0hub}(X\x01\0\0\0bcmmengine\nBuffer\n"s),
      StartsWith(file() + ": hub.b: an object of 'mmengine.Buffer'"));
}

TEST_F(HostileTest, ShowsNamesOfAFileAsOneShortLine) {
  const std::string error = pickle_error(kStart + "ca\x1b[31m\n" + std::string(5000, 'b') + "\n");
  EXPECT_THAT(error, HasSubstr("an object of 'a?[31m.bbb"));
  EXPECT_LT(error.size(), file().size() + 300);
}

TEST_F(HostileTest, NamesTheOpcodeThatItRefuses) {
  EXPECT_EQ(pickle_error(kStart + "cposix"),
            file() + ": the pickle is damaged at byte 3: a name has no end");
  EXPECT_THAT(pickle_error(kStart + "i"), HasSubstr("opcode 0x69 at byte 2"));
  EXPECT_THAT(pickle_error("\x80\x04N."), HasSubstr("pickle protocol 4"));
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
  EXPECT_THAT(pickle_error(kStart + "X\xff\xff\xff\xff"), HasSubstr("it ends too early"));
  EXPECT_THAT(pickle_error(kStart + "\x8a\xff"), HasSubstr("it ends too early"));
  EXPECT_THAT(pickle_error(kStart + "\x8a\x09\x01\x01\x01\x01\x01\x01\x01\x01\x01."s),
              HasSubstr("an int of more than 64 bits"));
}

TEST_F(HostileTest, TakesNoObjectThatIsNoValue) {
  EXPECT_THAT(pickle_error(kStart + "ctorch\nFloatStorage\n."),
              HasSubstr("a class or a bare storage"));
  EXPECT_THAT(pickle_error(kStart + "}(NK\x01u."), HasSubstr("a key of this dict is neither"));
}

TEST_F(HostileTest, BoundsDepthCyclesAndRepetition) {
  const std::string deep = std::string(1000000, ']') + std::string(999999, 'a') + ".";
  EXPECT_THAT(pickle_error(kStart + deep), HasSubstr("nested more than 100 deep"));
  using namespace std::string_literals;
  EXPECT_THAT(pickle_error(kStart + "]q\0h\0a."s), HasSubstr("or in itself"));
  std::string doubling = "]q"s + '\0';
  for (char i = 1; i < 60; ++i) {
    doubling += "](h"s + static_cast<char>(i - 1) + "h" + static_cast<char>(i - 1) + "eq" + i;
  }
  EXPECT_THAT(pickle_error(kStart + doubling + "."), HasSubstr("repeated too many times"));
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
            file() + ": a tensor needs 5 elements, its storage has 4");
  EXPECT_THAT(failure(four, zero, four, "K\x02"), HasSubstr("needs 7 elements"));
  EXPECT_THAT(failure("K\x05", zero, four, one),
              HasSubstr("'data/0' has 16 bytes where 20 are announced"));
  EXPECT_THAT(failure(largest, zero, four, one), HasSubstr("a storage of"));
  EXPECT_THAT(failure(int64_op(-1), zero, four, one), HasSubstr("a storage of -1 elements"));
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
              HasSubstr("the archive has no 'data/7'"));
}

}  // namespace
}  // namespace polyak
