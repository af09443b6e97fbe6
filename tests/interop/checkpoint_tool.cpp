// SPDX-License-Identifier: Apache-2.0
// The C++ side of checkpoint_interop.py and safetensors_interop.py. A file is a .pth file or, by
// its name, a .safetensors file or an index of them.
//   checkpoint_tool write OUT      writes a sample of every kind of value, or of tensor
//   checkpoint_tool read FILE      prints what a file holds as JSON that Python can compare
//   checkpoint_tool copy FILE OUT  writes what it reads
//   checkpoint_tool check FILE...  prints `ok` or the error for each, one a line
//   checkpoint_tool version        prints LibTorch's version
// And that of foreign_files.py:
//   checkpoint_tool load FILE...   prints a line for each file: what it holds, with a checksum for
//                                  the values of a tensor, and where a run finds weights in it, or
//                                  the error of a run
#include <ATen/Functions.h>
#include <ATen/core/Tensor.h>
#include <zlib.h>

#include <torch/version.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "polyak/checkpoint/format.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/checkpoint/safetensors.h"
#include "polyak/runtime/file_weights.h"
#include "polyak/runtime/run_checkpoint.h"

namespace {

using nlohmann::json;
using polyak::Value;

Value sample() {
  Value tensors = Value::dict({}, true);
  for (const auto dtype :
       {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kShort,
        at::kChar, at::kByte, at::kBool, at::kComplexFloat, at::kComplexDouble}) {
    tensors.set(c10::toString(dtype), at::arange(6, at::kFloat).reshape({2, 3}).to(dtype));
  }
  const auto weight = at::arange(12, at::kFloat).reshape({3, 4});
  tensors.set("scalar", at::scalar_tensor(2.5));
  tensors.set("empty", at::empty({0, 3}));
  tensors.set("tied", weight);
  tensors.set("tied_too", weight);
  tensors.set("tied_transposed", weight.t());
  tensors.set("tied_row", weight[1]);
  tensors.set("small_view", at::arange(10000, at::kFloat).slice(0, 5, 9));
  return Value::dict({
      {"state_dict", tensors},
      {"none", Value()},
      {"flags", Value::list({true, false})},
      {"ints", Value::list({0, 255, 256, 65535, 65536, -1, std::numeric_limits<int64_t>::max(),
                            std::numeric_limits<int64_t>::min()})},
      {"real", 0.1},
      {"text", "Grüße, 世界"},
      {"betas", Value::tuple({0.9, 0.999})},
      {"empties",
       Value::list({Value::list(), Value::tuple(), Value::dict(), Value::dict({}, true)})},
      {"by_int", Value::dict({{0, "zero"}, {1, "one"}})},
  });
}

/// Every dtype that .safetensors has and this LibTorch too, under its name in C++; each byte is
/// another, so that one out of place shows. And every shape.
Value tensor_sample() {
  constexpr std::array<std::string_view, 19> kNames{"Bool",
                                                    "Byte",
                                                    "Char",
                                                    "Short",
                                                    "Int",
                                                    "Long",
                                                    "Half",
                                                    "BFloat16",
                                                    "Float",
                                                    "Double",
                                                    "UInt16",
                                                    "UInt32",
                                                    "UInt64",
                                                    "ComplexFloat",
                                                    "Float8_e4m3fn",
                                                    "Float8_e5m2",
                                                    "Float8_e4m3fnuz",
                                                    "Float8_e5m2fnuz",
                                                    "Float8_e8m0fnu"};
  Value tensors = Value::dict({}, true);
  for (int i = 0; i < static_cast<int>(at::ScalarType::Undefined); ++i) {
    const auto dtype = static_cast<at::ScalarType>(i);
    const std::string name = c10::toString(dtype);
    if (std::find(kNames.begin(), kNames.end(), name) == kNames.end()) continue;
    const at::Tensor tensor = at::empty({2, 3}, at::TensorOptions().dtype(dtype));
    auto* const bytes = static_cast<unsigned char*>(tensor.data_ptr());
    for (size_t k = 0; k < tensor.nbytes(); ++k) {
      bytes[k] = static_cast<unsigned char>(dtype == at::kBool ? k % 2 : k * 37 + 11);
    }
    tensors.set(name, tensor);
  }
  const auto weight = at::arange(12, at::kFloat).reshape({3, 4});
  tensors.set("scalar", at::scalar_tensor(2.5));
  tensors.set("empty", at::empty({0, 3}));
  tensors.set("Grüße \"世界\"\n", at::ones({1}));
  tensors.set("tied", weight);
  tensors.set("tied_too", weight);
  tensors.set("transposed", weight.t());
  tensors.set("row", weight[1]);
  return tensors;
}

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

Value read(const std::string& path) {
  return ends_with(path, ".safetensors") || ends_with(path, ".json")
             ? polyak::read_safetensors(path)
             : polyak::read_pth(path);
}

void write(const std::string& path, const Value& value) {
  ends_with(path, ".safetensors") ? polyak::write_safetensors(path, value)
                                  : polyak::write_pth(path, value);
}

std::string check(const std::string& path) {
  try {
    read(path);
    return "ok";
  } catch (const std::exception& error) {
    return error.what();
  }
}

json values_of(const at::Tensor& tensor) {
  json values = json::array();
  const auto real = tensor.is_complex() ? at::view_as_real(tensor) : tensor;
  const auto flat = real.to(at::kDouble).contiguous().view({-1});
  for (int64_t i = 0; i < flat.numel(); ++i) values.push_back(flat.data_ptr<double>()[i]);
  return values;
}

json checksum_of(const at::Tensor& tensor) {
  const auto whole = tensor.contiguous();
  return crc32_z(0, static_cast<const unsigned char*>(whole.data_ptr()), whole.nbytes());
}

/// What stands for the values of a tensor.
using Contents = json (*)(const at::Tensor&);

json describe(const at::Tensor& lazy, Contents contents) {
  const at::Tensor tensor = lazy.resolve_conj().resolve_neg();
  return {{"kind", "Tensor"},
          {"dtype", c10::toString(tensor.scalar_type())},
          {"size", lazy.sizes().vec()},
          {"stride", lazy.strides().vec()},
          {"offset", lazy.storage_offset()},
          {"values", contents(tensor)}};
}

json describe(const Value& value, Contents contents);

json describe_items(const std::vector<Value>& items, Contents contents) {
  json described = json::array();
  for (const auto& item : items) described.push_back(describe(item, contents));
  return described;
}

json describe(const Value& value, Contents contents) {
  json described = {{"kind", value.kind_name()}};
  switch (value.kind()) {
    case Value::Kind::none:
      break;
    case Value::Kind::boolean:
      described["value"] = value.as_bool();
      break;
    case Value::Kind::integer:
      described["value"] = value.as_int();
      break;
    case Value::Kind::real:
      described["value"] = value.as_real();
      if (!std::isfinite(value.as_real())) {  // JSON has no such number
        described["value"] = fmt::format("{}", value.as_real());
      }
      break;
    case Value::Kind::string:
      described["value"] = value.as_string();
      break;
    case Value::Kind::tensor:
      return describe(value.as_tensor(), contents);
    case Value::Kind::list:
    case Value::Kind::tuple:
    case Value::Kind::set:
      described["items"] = describe_items(value.items(), contents);
      break;
    case Value::Kind::opaque:
      described["kind"] = "opaque";
      described["class"] = value.type_name();
      break;
    case Value::Kind::dict:
      described["kind"] = value.ordered() ? "OrderedDict" : "dict";
      described["entries"] = json::array();
      for (const auto& [key, item] : value.entries()) {
        described["entries"].push_back({describe(key, contents), describe(item, contents)});
      }
      break;
  }
  return described;
}

/// One line for one file.
json loaded(const std::string& file) {
  json line;
  try {
    polyak::read_checkpoint(file);
    const Value value = polyak::read_checkpoint_file(file);
    line["weights"] = polyak::find_weights(value);
    line["value"] = describe(value, checksum_of);
  } catch (const polyak::CheckpointError& error) {
    line["error"] = error.what();
  }
  return line;
}

void print(const json& line) {
  // Python's str may hold what UTF-8 cannot.
  fmt::print("{}\n", line.dump(-1, ' ', false, json::error_handler_t::replace));
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const std::string action = arguments.empty() ? "" : arguments[0];
  try {
    if (action == "write" && argc == 3) {
      write(arguments[1], ends_with(arguments[1], ".safetensors") ? tensor_sample() : sample());
    } else if (action == "read" && argc == 3) {
      print(describe(read(arguments[1]), values_of));
    } else if (action == "copy" && argc == 4) {
      write(arguments[2], read(arguments[1]));
    } else if (action == "check") {
      for (size_t i = 1; i < arguments.size(); ++i) fmt::print("{}\n", check(arguments[i]));
    } else if (action == "load") {
      for (size_t i = 1; i < arguments.size(); ++i) print(loaded(arguments[i]));
    } else if (action == "version") {
      fmt::print("{}\n", TORCH_VERSION);
    } else {
      fmt::print(stderr, "usage: checkpoint_tool write|read|copy|check|load|version FILE...\n");
      return 2;
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  return 0;
}
