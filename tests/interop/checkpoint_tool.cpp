// SPDX-License-Identifier: Apache-2.0
// The C++ side of checkpoint_interop.py: `checkpoint_tool write OUT` writes a sample of every kind
// of value; `checkpoint_tool read FILE` prints what a file holds as JSON that Python can compare.
#include <ATen/Functions.h>
#include <ATen/core/Tensor.h>

#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "polyak/checkpoint/pth.h"

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

json describe(const Value& value);

json describe(const at::Tensor& lazy) {
  const at::Tensor tensor = lazy.resolve_conj().resolve_neg();
  json values = json::array();
  const auto real = tensor.is_complex() ? at::view_as_real(tensor) : tensor;
  const auto flat = real.to(at::kDouble).contiguous().view({-1});
  for (int64_t i = 0; i < flat.numel(); ++i) values.push_back(flat.data_ptr<double>()[i]);
  return {{"kind", "Tensor"},
          {"dtype", c10::toString(tensor.scalar_type())},
          {"size", tensor.sizes().vec()},
          {"stride", tensor.strides().vec()},
          {"offset", tensor.storage_offset()},
          {"values", values}};
}

json describe_items(const std::vector<Value>& items) {
  json described = json::array();
  for (const auto& item : items) described.push_back(describe(item));
  return described;
}

json describe(const Value& value) {
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
      break;
    case Value::Kind::string:
      described["value"] = value.as_string();
      break;
    case Value::Kind::tensor:
      return describe(value.as_tensor());
    case Value::Kind::list:
    case Value::Kind::tuple:
    case Value::Kind::set:
      described["items"] = describe_items(value.items());
      break;
    case Value::Kind::opaque:
      described["kind"] = "opaque";
      described["class"] = value.type_name();
      break;
    case Value::Kind::dict:
      described["kind"] = value.ordered() ? "OrderedDict" : "dict";
      described["entries"] = json::array();
      for (const auto& [key, item] : value.entries()) {
        described["entries"].push_back({describe(key), describe(item)});
      }
      break;
  }
  return described;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string action = argc == 3 ? argv[1] : "";
  try {
    if (action == "write") {
      polyak::write_pth(argv[2], sample());
    } else if (action == "read") {
      fmt::print("{}\n", describe(polyak::read_pth(argv[2])).dump());
    } else {
      fmt::print(stderr, "usage: checkpoint_tool write|read FILE\n");
      return 2;
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  return 0;
}
