// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/pth.h"

#include <optional>  // LibTorch 2.11's inline_container.h uses it without including it

#include <ATen/ATen.h>
#include <caffe2/serialize/inline_container.h>

#include "polyak/checkpoint/file.h"
#include "polyak/checkpoint/pickle_format.h"
#include "polyak/checkpoint/pickle_writer.h"

namespace polyak {
namespace {

using caffe2::serialize::PyTorchStreamWriter;

void write_archive(FileSink& sink, const pickle::Pickled& pickled) {
  // The sink never reports a failure to the zip writer, whose destructor writes the end of the
  // archive and would end the process. check() reports it after each record instead.
  PyTorchStreamWriter writer(
      std::function<size_t(const void*, size_t)>([&](const void* data, size_t size) {
        sink.write(data, size);
        return size;
      }));
  const std::string byte_order = "little";
  writer.writeRecord("data.pkl", pickled.bytes.data(), pickled.bytes.size());
  writer.writeRecord("byteorder", byte_order.data(), byte_order.size());
  for (size_t i = 0; i < pickled.storages.size(); ++i) {
    const at::Tensor elements = pickled.storages[i].to(at::kCPU).contiguous();
    writer.writeRecord(fmt::format("data/{}", i), elements.data_ptr(), elements.nbytes());
    sink.check();
  }
  writer.writeEndOfFile();
  sink.check();
}

void collect_reals(Value& value, std::vector<Value*>& reals) {
  switch (value.kind()) {
    case Value::Kind::real:
      reals.push_back(&value);
      break;
    case Value::Kind::list:
    case Value::Kind::tuple:
      for (Value& item : value.items()) collect_reals(item, reals);
      break;
    case Value::Kind::dict:
      for (auto& [key, item] : value.entries()) collect_reals(item, reals);
      break;
    default:
      break;
  }
}

/// PyTorch 1.13's `weights_only` reader does not support floating-point numbers, not even those
/// that its own torch.save writes. So every number is saved as a zero-dimensional float64 tensor;
/// all of them share one storage. Python's optimizers do not accept these as numbers.
Value reals_as_tensors(Value value) {
  std::vector<Value*> reals;
  collect_reals(value, reals);
  const at::Tensor numbers = at::empty({static_cast<int64_t>(reals.size())}, at::kDouble);
  for (size_t i = 0; i < reals.size(); ++i) {
    const at::Tensor number = numbers[static_cast<int64_t>(i)];
    number.fill_(reals[i]->as_real());
    *reals[i] = number;
  }
  return value;
}

pickle::Pickled pickle_for(const std::string& path, const Value& value) {
  try {
    const bool plain = value.is_dict() && value.contains("optimizer");
    return pickle::write(plain ? value : reals_as_tensors(value));
  } catch (const CheckpointError& error) {
    fail<CheckpointError>("{}: {}", path, error.what());
  }
}

}  // namespace

void write_pth(const std::string& path, const Value& value) {
  try {
    const pickle::Pickled pickled = pickle_for(path, value);
    replace_file(path, [&](const std::string& name) {
      FileSink sink(name, path);
      write_archive(sink, pickled);
    });
  } catch (const c10::Error& error) {  // a copy from a device failed
    fail<CheckpointError>("{}: cannot be written: {}", path, first_line(error));
  }
}

}  // namespace polyak
