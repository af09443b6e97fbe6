// SPDX-License-Identifier: Apache-2.0
#include <ATen/Functions.h>
#include <ATen/core/Tensor.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include <caffe2/serialize/inline_container.h>

#include "polyak/checkpoint/file.h"
#include "polyak/checkpoint/format.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/checkpoint/safetensors.h"
#include "polyak/checkpoint/value.h"
#include "unit/checkpoint/checkpoint_testing.h"

namespace polyak {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

using ValueTest = testing::Test;
using FileTest = CheckpointTest;
using PthTest = CheckpointTest;

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
  EXPECT_STREQ(Value::set_of().kind_name(), "set");
  EXPECT_STREQ(Value::opaque("argparse.Namespace").kind_name(), "argparse.Namespace");
}

TEST(ValueTest, GivesItsContentOnlyAsItsOwnKind) {
  EXPECT_EQ(Value(3).as_int(), 3);
  EXPECT_EQ(Value(3).as_real(), 3.0);
  EXPECT_EQ(Value(true).as_bool(), true);
  EXPECT_EQ(error_of([] { Value("a").as_int(); }), "expected int, found str");
  EXPECT_EQ(error_of([] { Value(true).as_int(); }), "expected int, found bool");
  EXPECT_EQ(error_of([] { Value(1.0).as_int(); }), "expected int, found float");
  EXPECT_EQ(error_of([] { Value().as_tensor(); }), "expected Tensor, found None");
  EXPECT_EQ(error_of([] { Value(1).items(); }), "expected list, tuple or set, found int");
  EXPECT_EQ(error_of([] { Value(1).entries(); }), "expected dict, found int");
  EXPECT_EQ(error_of([] { Value(1).find("a"); }), "expected dict, found int");
  EXPECT_EQ(error_of([] { Value::opaque("a.B").as_tensor(); }),
            "expected Tensor, found an object that only Python can read: a.B");
  EXPECT_EQ(Value::opaque("a.B").type_name(), "a.B");
  EXPECT_EQ(error_of([] { Value("a").type_name(); }), "expected an opaque object, found str");
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
  EXPECT_EQ(error_of([&] { dict.at("mata"); }), "no key 'mata'; the keys are: 'meta', 3");
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
  EXPECT_THAT(failure(file("folder")), HasSubstr("it is a folder; use the name of a file"));
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
      {"set", Value::set_of({1, "two"})},
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
  EXPECT_EQ(read.at("set").kind(), Value::Kind::set);
  EXPECT_EQ(read.at("set").items()[1].as_string(), "two");
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
            place + "a str is not valid UTF-8, so Python could not read it");
  EXPECT_EQ(failure(Value::opaque("a.B")),
            place + "an object that only Python can read, a.B, cannot be saved");
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
            file("text") + ": is a text file that begins with 'model:', not a checkpoint");
  write_bytes(file("bytes"), "\x01\x02\x03\x04");
  EXPECT_EQ(
      failure("bytes"),
      file("bytes") + ": is not a checkpoint: a .pth file is a zip archive, and this file is not");
  const std::pair<const char*, const char*> records[] = {
      {"constants.pkl", "without data.pkl"},
      {"archive_format", "is a program of torch.export"},
      {".data/extern_modules", "is an archive of torch.package"},
      {"other", "is a zip archive without data.pkl"}};
  for (const auto& [record, sentence] : records) {
    {
      caffe2::serialize::PyTorchStreamWriter writer(file());
      writer.writeRecord(record, "x", 1);
      writer.writeEndOfFile();
    }
    EXPECT_THAT(failure("a.pth"), HasSubstr(sentence));
  }
  write_bytes(file("folder/.metadata"), "");
  EXPECT_THAT(failure("folder"), HasSubstr("is a folder of torch.distributed.checkpoint"));
}

TEST_F(PthTest, TellsWhatAFileOfAnotherProgramIs) {
  using namespace std::string_literals;
  const auto failure = [&](const std::string& bytes) {
    write_bytes(file(), bytes);
    const std::string error = error_of([&] { read_pth(file()); });
    write_bytes(file("model.pt"), bytes);  // the same by a name that says nothing
    EXPECT_THAT(error_of([&] { read_checkpoint_file(file("model.pt")); }),
                testing::EndsWith(error.substr(file().size())));
    return error.substr(file().size());
  };
  EXPECT_EQ(failure("version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 5\n"),
            ": is a pointer of Git LFS to a checkpoint; fetch the file itself with `git lfs pull`");
  for (const char* page :
       {"<!DOCTYPE html>\n<html>", "\n\n  <html lang='en'>", "\xef\xbb\xbf<HTML>",
        "<?xml version='1.0'?><Error><Code>AccessDenied"}) {
    EXPECT_THAT(failure(page), HasSubstr("is a web page, not a checkpoint: the server sent it in "
                                         "place of the file; download that again"));
  }
  EXPECT_THAT(failure("\x1f\x8b\x08\0"s), HasSubstr("is compressed by gzip"));
  EXPECT_THAT(failure("\x28\xb5\x2f\xfd\0"s), HasSubstr("is compressed by zstd"));
  EXPECT_THAT(failure("PK\x05\x06"s + std::string(18, '\0')), HasSubstr("an empty zip archive"));
  EXPECT_THAT(failure("\x89HDF\r\n\x1a\n\0"s), HasSubstr("is an HDF5 file"));
  EXPECT_THAT(failure("sys_info" + std::string(249, '\0') + "ustar\0\x30\x30"s),
              HasSubstr("is a tar archive; if PyTorch before 0.1.10 wrote it, load it in Python"));
}

TEST_F(PthTest, NamesTheFormatOfASafetensorsFile) {
  write_safetensors(file("a.safetensors"), Value::dict({{"w", at::ones(2)}}));
  fs::rename(file("a.safetensors"), file());
  EXPECT_EQ(error_of([&] { read_pth(file()); }),
            file() + ": is a .safetensors file; give it a name that ends so");
}

TEST_F(PthTest, QuotesATextFileInOneShortLine) {
  const auto failure = [&](const std::string& text) {
    write_bytes(file(), text);
    return error_of([&] { read_pth(file()); });
  };
  EXPECT_THAT(failure("Grüße, 世界\r\nand more"), HasSubstr("begins with 'Grüße, 世界', not"));
  std::string wide;
  for (int i = 0; i < 300; ++i) wide += "世";  // the first 512 bytes end within a character
  EXPECT_THAT(failure(wide), HasSubstr("世世...', not a checkpoint"));
  EXPECT_THAT(failure("\xff\xfe text"), HasSubstr("this file is not"));
}

}  // namespace
}  // namespace polyak
