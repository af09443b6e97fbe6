// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/safetensors.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "polyak/checkpoint/format.h"
#include "polyak/checkpoint/pickle_format.h"
#include "polyak/core/log.h"
#include "unit/checkpoint/safetensors_testing.h"

namespace polyak {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

/// Each dtype of the format that LibTorch may have: its name there and in Python's torch.
const std::vector<std::pair<std::string, std::string>> kDtypeNames{
    {"BOOL", "bool"},
    {"U8", "uint8"},
    {"I8", "int8"},
    {"I16", "int16"},
    {"I32", "int32"},
    {"I64", "int64"},
    {"F16", "float16"},
    {"BF16", "bfloat16"},
    {"F32", "float32"},
    {"F64", "float64"},
    {"C64", "complex64"},
    {"U16", "uint16"},
    {"U32", "uint32"},
    {"U64", "uint64"},
    {"F8_E4M3", "float8_e4m3fn"},
    {"F8_E5M2", "float8_e5m2"},
    {"F8_E8M0", "float8_e8m0fnu"},
    {"F8_E4M3FNUZ", "float8_e4m3fnuz"},
    {"F8_E5M2FNUZ", "float8_e5m2fnuz"}};
constexpr size_t kOldDtypes = 11;  // the first of these are in every LibTorch

std::string bytes_of(const at::Tensor& tensor) {
  const at::Tensor whole = tensor.contiguous();
  return {static_cast<const char*>(whole.data_ptr()), whole.nbytes()};
}

/// A tensor of shape [2, 3] of any dtype, with bytes that are values in each: 0s and 1s.
at::Tensor sample(c10::ScalarType dtype) {
  const at::Tensor tensor = at::empty({2, 3}, at::TensorOptions().dtype(dtype));
  auto* const bytes = static_cast<char*>(tensor.data_ptr());
  for (size_t i = 0; i < tensor.nbytes(); ++i) bytes[i] = static_cast<char>(i % 3 % 2);
  return tensor;
}

std::vector<std::string> keys(const Value& value) {
  std::vector<std::string> keys;
  for (const auto& [key, item] : value.entries()) keys.push_back(key.as_string());
  return keys;
}

/// The header of a file, with the spaces at its end.
std::string header_in(const std::string& path) {
  const std::string bytes = read_bytes(path);
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  return bytes.substr(sizeof(length), length);
}

// Round trips

TEST_F(SafetensorsTest, KeepsEveryDtypeBitByBit) {
  size_t tested = 0;
  for (const auto& [name, torch_name] : kDtypeNames) {
    const auto dtype = pickle::find_dtype(torch_name);
    if (!dtype) continue;
    ++tested;
    const at::Tensor tensor = sample(*dtype);
    const Value read = round_trip(Value::dict({{"t", tensor}}));
    EXPECT_THAT(header_in(file()), HasSubstr("\"dtype\":\"" + name + "\"")) << torch_name;
    const at::Tensor& found = read.at("t").as_tensor();
    EXPECT_EQ(found.scalar_type(), *dtype);
    EXPECT_EQ(found.sizes(), tensor.sizes());
    EXPECT_EQ(bytes_of(found), bytes_of(tensor)) << torch_name;
  }
  EXPECT_GE(tested, kOldDtypes);
}

TEST_F(SafetensorsTest, ADtypeThatThisLibTorchLacksIsOpaque) {
  size_t opaque = 0;
  for (const auto& [name, torch_name] : kDtypeNames) {
    const auto dtype = pickle::find_dtype(torch_name);
    const unsigned size = name == "C64" || name.find("64") != std::string::npos ? 8
                          : name.find("32") != std::string::npos                ? 4
                          : name.find("16") != std::string::npos                ? 2
                                                                                : 1;
    const Value read = read_header("{" + entry("w", name, "1", fmt::format("0,{}", size)) + "}",
                                   std::string(size, '\0'));
    EXPECT_EQ(read.at("w").is_tensor(), dtype.has_value()) << name;
    if (dtype) continue;
    ++opaque;
    EXPECT_EQ(read.at("w").type_name(), "a tensor of dtype " + name);
  }
  // Elements of less than a byte, whose shape means something else in LibTorch.
  const Value read =
      read_header("{" + entry("a", "F4", "2,4", "0,4") + "," + entry("b", "F6_E2M3", "4", "4,7") +
                      "," + entry("c", "U8", "1", "7,8") + "}",
                  std::string(8, '\7'));
  EXPECT_EQ(read.at("a").type_name(), "a tensor of dtype F4");
  EXPECT_EQ(read.at("b").type_name(), "a tensor of dtype F6_E2M3");
  EXPECT_EQ(read.at("c").as_tensor().item<int64_t>(), 7);
}

TEST_F(SafetensorsTest, KeepsShapesAndMakesStridesContiguous) {
  const auto base = at::arange(24, at::kFloat);
  for (const auto& tensor : {at::scalar_tensor(2.5), at::empty({0}), at::empty({3, 0, 2}),
                             base.reshape({2, 3, 4}), base.reshape({4, 6}).t(),
                             base.reshape({2, 3, 2, 2}).contiguous(at::MemoryFormat::ChannelsLast),
                             base.slice(0, 1, 24, 2), at::ones({1}).expand({5, 4})}) {
    const Value read = round_trip(Value::dict({{"t", tensor}}));
    const at::Tensor& found = read.at("t").as_tensor();
    EXPECT_EQ(found.sizes(), tensor.sizes());
    EXPECT_TRUE(found.is_contiguous());
    EXPECT_TRUE(found.equal(tensor));
    EXPECT_FALSE(found.requires_grad());
  }
}

TEST_F(SafetensorsTest, AnEmptyDictIsAFileWithoutTensors) {
  const Value read = round_trip(Value::dict());
  EXPECT_TRUE(read.entries().empty());
  EXPECT_EQ(header_in(file()), R"({"__metadata__":{"format":"pt"}})");
}

TEST_F(SafetensorsTest, ReadsAFileWithoutTensorsOrMetadata) {
  EXPECT_TRUE(read_header("{}").entries().empty());
  EXPECT_TRUE(read_safetensors_metadata(file()).empty());
  EXPECT_TRUE(read_header(R"({"__metadata__":{}})").entries().empty());
}

TEST_F(SafetensorsTest, KeepsNamesOfAnyCharacters) {
  const std::vector<std::string> names{"", "a.b/c", "Grüße \"x\"\\", "line\nend\t\x01\x7f", "世界"};
  Value tensors = Value::dict();
  for (const auto& name : names) tensors.set(name, at::ones({1}));
  const Value read = round_trip(tensors);
  for (const auto& name : names) EXPECT_TRUE(read.contains(name)) << name;
}

TEST_F(SafetensorsTest, LaysOutTheFileAsPythonsLibraryDoes) {
  write_safetensors(file(), Value::dict({{"b", at::ones({3}, at::kByte)},
                                         {"scalar", at::scalar_tensor(1.0)},
                                         {"a", at::ones({1}, at::kByte)},
                                         {"half", at::ones({2, 2}, at::kHalf)},
                                         {"long", at::ones({1}, at::kLong)},
                                         {"none", at::empty({0, 3})}}));
  const std::string header = header_in(file());
  EXPECT_EQ(header.size() % 8, 0U);
  EXPECT_EQ(header.substr(0, header.find_last_not_of(' ') + 1),
            R"({"__metadata__":{"format":"pt"},)"
            R"("long":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
            R"("none":{"dtype":"F32","shape":[0,3],"data_offsets":[8,8]},)"
            R"("scalar":{"dtype":"F32","shape":[],"data_offsets":[8,12]},)"
            R"("half":{"dtype":"F16","shape":[2,2],"data_offsets":[12,20]},)"
            R"("a":{"dtype":"U8","shape":[1],"data_offsets":[20,21]},)"
            R"("b":{"dtype":"U8","shape":[3],"data_offsets":[21,24]}})");
  EXPECT_EQ(fs::file_size(file()), 8 + header.size() + 24);
  EXPECT_THAT(keys(read_safetensors(file())),
              ElementsAre("long", "none", "scalar", "half", "a", "b"));
  EXPECT_TRUE(read_safetensors(file()).ordered());
}

TEST_F(SafetensorsTest, KeepsTheOrderOfTheHeader) {
  const Value read = read_header(
      "{" + entry("z", "U8", "1", "1,2") + "," + entry("a", "U8", "1", "0,1") + "}", "\3\4");
  EXPECT_THAT(keys(read), ElementsAre("z", "a"));
  EXPECT_EQ(read.at("z").as_tensor().item<int64_t>(), 4);
}

TEST_F(SafetensorsTest, WritesTheValuesOfLazyConjugates) {
  const auto complex = at::randn({4}, at::kComplexFloat);
  const Value read = round_trip(Value::dict({{"c", complex}, {"conj", complex.conj()}}));
  EXPECT_TRUE(read.at("conj").as_tensor().equal(complex.conj().resolve_conj()));
  EXPECT_TRUE(read.at("c").as_tensor().equal(complex));
}

// Metadata

TEST_F(SafetensorsTest, KeepsTheMetadataAndAddsTheFormat) {
  write_safetensors(file(), Value::dict({{"w", at::ones({1})}}),
                    {{"epoch", "3"}, {"ü\n", "\"x\""}});
  EXPECT_EQ(read_safetensors_metadata(file()),
            (SafetensorsMetadata{{"epoch", "3"}, {"format", "pt"}, {"ü\n", "\"x\""}}));
  write_safetensors(file(), Value::dict(), {{"format", "mlx"}});
  EXPECT_EQ(read_safetensors_metadata(file()), (SafetensorsMetadata{{"format", "mlx"}}));
}

TEST_F(SafetensorsTest, RefusesMetadataThatAReaderWouldTakeForATiedName) {
  const Value tensors = Value::dict({{"w", at::ones({1})}});
  EXPECT_EQ(write_error(tensors, {{"best", "w"}}),
            file() +
                ": the metadata 'best' is 'w', the name of a tensor: a reader would take the one "
                "for another name of the other; change that text");
  write_safetensors(file(), tensors, {{"w", "w"}, {"format", "w"}});
  EXPECT_THAT(keys(read_safetensors(file())), ElementsAre("w"));
}

// Tied tensors

TEST_F(SafetensorsTest, WritesTiedTensorsOnceAndTiesThemAgain) {
  const auto weight = at::rand({1000});
  const Value read = round_trip(Value::dict({{"head", weight}, {"body", weight.detach()}}));
  EXPECT_LT(fs::file_size(file()), 4300U);
  EXPECT_EQ(read_safetensors_metadata(file()).at("body"), "head");
  EXPECT_TRUE(read.at("body").as_tensor().equal(weight));
  read.at("head").as_tensor().fill_(7);
  EXPECT_EQ(read.at("body").as_tensor()[999].item<float>(), 7);
  // And again: the metadata of what was read does not stand in the way.
  write_safetensors(file("b.safetensors"), read, read_safetensors_metadata(file()));
  EXPECT_EQ(read_bytes(file("b.safetensors")).size(), fs::file_size(file()));
}

TEST_F(SafetensorsTest, WritesViewsThatOnlyOverlapAsCopies) {
  const auto base = at::arange(12, at::kFloat).reshape({3, 4});
  const Value read = round_trip(Value::dict({{"all", base},
                                             {"row", base[1]},
                                             {"transposed", base.t()},
                                             {"flat", base.reshape({12})},
                                             {"bits", base.view(at::kInt)}}));
  EXPECT_EQ(read_safetensors_metadata(file()).size(), 1U);
  EXPECT_TRUE(read.at("row").as_tensor().equal(base[1]));
  EXPECT_TRUE(read.at("transposed").as_tensor().equal(base.t()));
  EXPECT_TRUE(read.at("bits").as_tensor().equal(base.view(at::kInt)));
  read.at("all").as_tensor().fill_(0);
  EXPECT_TRUE(read.at("flat").as_tensor().equal(base.reshape({12})));
}

TEST_F(SafetensorsTest, ATiedTensorWhoseNameTheMetadataUsesHasItsOwnData) {
  const auto weight = at::arange(3, at::kFloat);
  write_safetensors(file(), Value::dict({{"w", weight}, {"format", weight}, {"note", weight}}),
                    {{"note", "a text"}});
  EXPECT_EQ(read_safetensors_metadata(file()).at("note"), "a text");
  EXPECT_EQ(read_safetensors_metadata(file()).at("format"), "pt");
  const Value read = read_safetensors(file());
  for (const char* name : {"w", "format", "note"}) {
    EXPECT_TRUE(read.at(name).as_tensor().equal(weight)) << name;
  }
}

TEST_F(SafetensorsTest, RestoresOnlyNamesThatMissTheirTensor) {
  const Value read =
      read_header(R"({"__metadata__":{"tied":"w","x":"w","none":"gone","format":"w"},)" +
                      entry("w", "U8", "1", "0,1") + "," + entry("x", "U8", "1", "1,2") + "}",
                  "\1\2");
  EXPECT_THAT(keys(read), ElementsAre("w", "x", "tied"));
  EXPECT_EQ(read.at("x").as_tensor().item<int64_t>(), 2);
  EXPECT_EQ(read.at("tied").as_tensor().item<int64_t>(), 1);
}

// The mapping

TEST_F(SafetensorsTest, TensorsAreViewsOfTheFileThatMayBeWrittenTo) {
  write_safetensors(file(), Value::dict({{"a", at::ones({1000})}, {"b", at::zeros({1000})}}));
  const std::string before = read_bytes(file());
  at::Tensor a;
  {
    const Value read = read_safetensors(file());
    a = read.at("a").as_tensor();
    const at::Tensor b = read.at("b").as_tensor();
    EXPECT_EQ(static_cast<char*>(b.data_ptr()) - static_cast<char*>(a.data_ptr()), 4000)
        << "they are where the file has them";
    a.add_(1);
    EXPECT_EQ(b.sum().item<float>(), 0);
  }
  EXPECT_EQ(a.sum().item<float>(), 2000) << "the mapping lives as long as a tensor";
  EXPECT_EQ(read_bytes(file()), before);
  // The file is replaced by another, not changed.
  write_safetensors(file(), Value::dict({{"a", at::zeros({1000})}}));
  EXPECT_EQ(a.sum().item<float>(), 2000);
  a.resize_({5000}).fill_(1);
  EXPECT_EQ(a.sum().item<float>(), 5000);
}

TEST_F(SafetensorsTest, CanBeWrittenOverTheFileItWasReadFrom) {
  write_safetensors(file(), Value::dict({{"a", at::arange(100, at::kFloat)}}));
  const Value read = read_safetensors(file());
  write_safetensors(file(), read);
  EXPECT_TRUE(read_safetensors(file()).at("a").as_tensor().equal(at::arange(100, at::kFloat)));
}

TEST_F(SafetensorsTest, ReadsDataThatIsNotAligned) {
  const at::Tensor numbers = at::arange(3, at::kDouble) + 0.1;
  for (size_t spaces = 0; spaces < 8; ++spaces) {
    const Value read =
        read_header("{" + entry("byte", "U8", "1", "0,1") + "," + entry("w", "F64", "3", "1,25") +
                        "}" + std::string(spaces, ' '),
                    "\5" + bytes_of(numbers));
    const at::Tensor& found = read.at("w").as_tensor();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(found.data_ptr()) % 8, 0U) << spaces;
    EXPECT_TRUE(found.equal(numbers)) << spaces;
    EXPECT_EQ(read.at("byte").as_tensor().item<int64_t>(), 5);
  }
}

// What cannot be written

TEST_F(SafetensorsTest, RefusesWhatIsNotATensorWithItsKey) {
  const auto refused = [&](const Value& value) {
    const std::string error = write_error(Value::dict({{"w", at::ones({1})}, {"x", value}}));
    EXPECT_THAT(error, StartsWith(file() + ": x: "));
    EXPECT_FALSE(fs::exists(file()));
    return error.substr(file().size() + 5);
  };
  EXPECT_EQ(refused(3),
            "is of the kind int, and a .safetensors file holds only tensors under names; write a "
            ".pth file for the rest");
  EXPECT_THAT(refused(Value()), StartsWith("is of the kind None, "));
  EXPECT_THAT(refused(0.5), StartsWith("is of the kind float, "));
  EXPECT_THAT(refused("text"), StartsWith("is of the kind str, "));
  EXPECT_THAT(refused(Value::list({at::ones({1})})), StartsWith("is of the kind list, "));
  EXPECT_THAT(refused(Value::dict({{"w", at::ones({1})}})), StartsWith("is of the kind dict, "));
  EXPECT_EQ(refused(Value::opaque("argparse.Namespace")),
            "an object that only Python can read, argparse.Namespace, cannot be saved");
  EXPECT_EQ(refused(at::ones({2, 2}).to_sparse()),
            "this tensor cannot be saved: its layout is Sparse; save tensor.to_dense()");
  EXPECT_EQ(refused(at::quantize_per_tensor(at::ones({2}), 0.1, 0, at::kQInt8)),
            "this tensor cannot be saved: it is quantized; save tensor.dequantize()");
  EXPECT_EQ(refused(at::ones({2}, at::kComplexDouble)),
            "this tensor cannot be saved: the format does not support its dtype ComplexDouble; "
            "convert it first");
  EXPECT_THAT(refused(at::ones({2}, at::kComplexFloat).to(at::kComplexHalf)),
              HasSubstr("does not support its dtype ComplexHalf"));
  EXPECT_EQ(refused(at::Tensor()), "this tensor cannot be saved: it is undefined");
  EXPECT_EQ(refused(at::empty({2}, at::TensorOptions().device(at::kMeta))),
            "this tensor cannot be saved: it is on the meta device and has no values");
  at::Tensor freed = at::ones({5});
  freed.storage().set_nbytes(4);
  EXPECT_THAT(refused(freed), HasSubstr("its storage is smaller than the tensor"));
}

TEST_F(SafetensorsTest, RefusesWhatIsNoDictOfNames) {
  EXPECT_EQ(write_error(Value::list()),
            file() + ": a .safetensors file holds a dict of tensors, not a list");
  EXPECT_EQ(write_error(at::ones({1})),
            file() + ": a .safetensors file holds a dict of tensors, not a Tensor");
  EXPECT_EQ(write_error(Value::dict({{7, at::ones({1})}})),
            file() + ": the key 7 is an int; a .safetensors file holds tensors under names");
  EXPECT_EQ(write_error(Value::dict({{"__metadata__", at::ones({1})}})),
            file() + ": __metadata__: no tensor can have this name, which the format uses itself");
  EXPECT_EQ(write_error(Value::dict({{"w", at::ones({1})}, {"w", at::ones({2})}})),
            file() + ": w: two tensors have this name");
  EXPECT_EQ(write_error(Value::dict({{"a\xff", at::ones({1})}})),
            file() + ": the name 'a\xff' is not valid UTF-8");
  EXPECT_EQ(write_error(Value::dict({{"\xed\xa0\x80", at::ones({1})}})),
            file() + ": the name '\xed\xa0\x80' is not valid UTF-8")
      << "half of a pair of UTF-16";
  EXPECT_THAT(write_error(Value::dict(), {{"\xff", "x"}}), HasSubstr("the metadata '\xff'"));
  EXPECT_THAT(write_error(Value::dict(), {{"x", "\xff"}}), HasSubstr("in the metadata, the text"));
  EXPECT_THAT(names(), ElementsAre());
}

TEST_F(SafetensorsTest, RefusesAHeaderThatNoReaderWouldTake) {
  EXPECT_EQ(write_error(Value::dict(), {{"x", std::string(100'000'000, 'x')}}),
            file() +
                ": the names and the metadata of 0 tensors take more than the 100000000 bytes that "
                "the format allows; write a .pth file");
}

TEST_F(SafetensorsTest, ReplacesAFileAsAWhole) {
  write_safetensors(file(), Value::dict({{"a", at::ones({1})}}));
  const std::string before = read_bytes(file());
  EXPECT_THAT(write_error(Value::dict({{"a", 1}})), HasSubstr("a: is of the kind int"));
  EXPECT_EQ(read_bytes(file()), before);
  EXPECT_THAT(names(), ElementsAre("a.safetensors"));
  EXPECT_THAT(error_of([&] { write_safetensors(file("no/a.safetensors"), Value::dict()); }),
              HasSubstr("create the folder"));
}

// The table of formats

TEST_F(SafetensorsTest, IsAFormatByItsExtension) {
  EXPECT_EQ(checkpoint_format("run/epoch_3.safetensors"), CheckpointFormat::safetensors);
  EXPECT_EQ(checkpoint_format("model.safetensors.index.json"), std::nullopt);
  write_checkpoint_file(file(), Value::dict({{"w", at::ones({2})}}));
  EXPECT_TRUE(read_safetensors(file()).at("w").as_tensor().equal(at::ones({2})));
  EXPECT_TRUE(read_checkpoint_file(file()).at("w").as_tensor().equal(at::ones({2})));
  EXPECT_EQ(error_of([&] {
              write_checkpoint_file(
                  file(), Value::dict({{"meta", Value::dict()}, {"state_dict", Value::dict()}}));
            }),
            file() +
                ": a .safetensors file holds only tensors under names, and this is a whole "
                "checkpoint: write its 'state_dict', or write a .pth file");
}

TEST_F(SafetensorsTest, IsReadUnderAnyNameThatIsNoOtherFormats) {
  for (const char* name : {"model.st", "model", "model.bin"}) {
    write_safetensors(file(), Value::dict({{"w", at::ones({2})}}));
    fs::rename(file(), file(name));
    EXPECT_TRUE(read_checkpoint_file(file(name)).at("w").as_tensor().equal(at::ones({2}))) << name;
  }
  fs::rename(file("model"), file("model.pth"));
  EXPECT_THAT(error_of([&] { read_checkpoint_file(file("model.pth")); }),
              HasSubstr("is a .safetensors file; give it a name that ends so"));
  write_pth(file("a.pth"), Value::dict({{"w", at::ones({2})}}));
  fs::rename(file("a.pth"), file());
  EXPECT_EQ(error_of([&] { read_checkpoint_file(file()); }),
            file() + ": is a zip archive, as torch.save writes it; rename it to .pth");
}

// Files that are split

class SafetensorsIndexTest : public SafetensorsTest {
 protected:
  SafetensorsIndexTest() {
    write_safetensors(file("m-1.safetensors"),
                      Value::dict({{"a", at::ones({2})}, {"b", at::zeros({2})}}));
    write_safetensors(file("m-2.safetensors"), Value::dict({{"c", at::arange(3)}}));
  }

  const std::string path_ = file("model.safetensors.index.json");
  Value read(const std::string& json) const {
    write_bytes(path_, json);
    return read_safetensors(path_);
  }
  std::string failure(const std::string& json) const {
    const std::string error = error_of([&] { read(json); });
    EXPECT_THAT(error, StartsWith(path_ + ": ")) << json;
    return error.substr(std::min(error.size(), path_.size() + 2));
  }
};

constexpr const char* kWhole =
    R"({"metadata":{"total_size":40,"tied":"c","list":["x",{"y":null}]},"weight_map":)"
    R"({"c":"m-2.safetensors","a":"m-1.safetensors","b":"m-1.safetensors"},"more":[[{}]]})";

TEST_F(SafetensorsIndexTest, ReadsAllShardsInTheOrderOfTheIndex) {
  const Value whole = read(kWhole);
  EXPECT_THAT(keys(whole), ElementsAre("c", "a", "b", "tied"));
  EXPECT_TRUE(whole.at("a").as_tensor().equal(at::ones({2})));
  EXPECT_TRUE(whole.at("c").as_tensor().equal(at::arange(3)));
  whole.at("c").as_tensor().fill_(9);
  EXPECT_EQ(whole.at("tied").as_tensor()[0].item<int64_t>(), 9);
  EXPECT_THAT(keys(read_checkpoint_file(path_)), ElementsAre("c", "a", "b", "tied"));
  EXPECT_EQ(read_safetensors_metadata(path_), (SafetensorsMetadata{{"tied", "c"}}));
  EXPECT_TRUE(read(R"({"weight_map":{}})").entries().empty());
}

TEST_F(SafetensorsIndexTest, LogsTensorsThatTheIndexDoesNotName) {
  std::vector<std::string> lines;
  const LogSink before =
      set_log_sink([&](LogLevel, std::string_view line) { lines.emplace_back(line); });
  const Value some = read(R"({"weight_map":{"b":"m-1.safetensors","c":"m-2.safetensors"}})");
  set_log_sink(before);
  EXPECT_THAT(keys(some), ElementsAre("b", "c"));
  EXPECT_THAT(lines, ElementsAre(path_ + ": does not name 1 of the tensors in m-1.safetensors, "
                                         "such as 'a'; ignored"));
}

TEST_F(SafetensorsIndexTest, RefusesAnIndexThatDoesNotFitItsShards) {
  EXPECT_EQ(failure(R"({"weight_map":{"a":"m-3.safetensors"}})"),
            "its shard 'm-3.safetensors' is not in the same folder; a split file needs all of its "
            "shards");
  EXPECT_EQ(failure(R"({"weight_map":{"a":"m-2.safetensors"}})"),
            "tensor 'a': is not in its shard 'm-2.safetensors'");
  EXPECT_EQ(failure(R"({"weight_map":{"a":"m-1.safetensors","a":"m-1.safetensors"}})"),
            "tensor 'a': is in weight_map twice");
  EXPECT_EQ(failure(R"({"weight_map":{"a":"model.safetensors.index.json"}})"),
            "its shard 'model.safetensors.index.json': is not a .safetensors file: its first 8 "
            "bytes state a header of 8388068008349082235 bytes, and the format allows 100000000");
  fs::create_directory(file("folder"));
  EXPECT_EQ(failure(R"({"weight_map":{"a":"folder"}})"),
            "its shard 'folder': is a folder, not a checkpoint");
  fs::resize_file(file("m-2.safetensors"), fs::file_size(file("m-2.safetensors")) - 1);
  EXPECT_EQ(failure(kWhole),
            "its shard 'm-2.safetensors': is truncated: tensor 'c' ends at byte 24 of the data, "
            "which has 23");
  EXPECT_THROW(read(kWhole), DamagedCheckpointError);
}

TEST_F(SafetensorsIndexTest, RefusesShardsOutsideOfItsFolder) {
  for (const char* name : {"../m-1.safetensors", "/etc/passwd", "..", ".", "", "a/b", "a\\\\b",
                           "m-1.safetensors\\u0000", "x\\n"}) {
    EXPECT_THAT(failure(fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", name)),
                AllOf(StartsWith("tensor 'a': its shard is '"),
                      EndsWith("which is not the plain name of a file beside the index")));
  }
}

TEST_F(SafetensorsIndexTest, RefusesWhatIsNoIndex) {
  EXPECT_EQ(failure(""), "is empty");
  EXPECT_EQ(failure("{}"),
            "has no weight_map, so it is not the index of a split .safetensors file");
  EXPECT_THAT(failure(R"({"metadata":{"weight_map":{}}})"), StartsWith("has no weight_map"));
  EXPECT_EQ(failure("[]"), "the index is an array, expected an object");
  EXPECT_EQ(failure("3"), "the index is a number, expected an object");
  EXPECT_EQ(failure(R"({"weight_map":"m-1.safetensors"})"),
            "its weight_map is a string, expected an object");
  EXPECT_EQ(failure(R"({"weight_map":["m-1.safetensors"]})"),
            "its weight_map is an array, expected an object");
  EXPECT_EQ(failure(R"({"weight_map":{"a":["m-1.safetensors"]}})"),
            "tensor 'a': its place in weight_map is an array, expected the name of a file");
  EXPECT_EQ(failure(R"({"weight_map":{"a":{}}})"),
            "tensor 'a': its place in weight_map is an object, expected the name of a file");
  EXPECT_EQ(failure(R"({"weight_map":{"a":1}})"),
            "tensor 'a': its place in weight_map is a number, expected the name of a file");
  EXPECT_EQ(failure(R"({"weight_map":{},"weight_map":{}})"), "the index has two weight_map");
  EXPECT_THAT(failure(R"({"weight_map":{})"),
              StartsWith("the index is not valid JSON at byte 17: syntax error"));
  EXPECT_THAT(failure(R"({"weight_map":{}}x)"),
              StartsWith("the index is not valid JSON at byte 18: syntax error"));
  EXPECT_EQ(failure(R"({"weight_map":{},"deep":)" + std::string(1'000'000, '[')),
            "the index is nested more than 100 deep");
  EXPECT_EQ(failure("<!DOCTYPE html>"),
            "is a web page, not a checkpoint; download the file itself");
  fs::remove(path_);
  EXPECT_EQ(error_of([&] { read_safetensors(path_); }),
            path_ + ": cannot be read: No such file or directory");
}

}  // namespace
}  // namespace polyak
