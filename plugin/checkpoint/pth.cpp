#include "polyak/checkpoint/pth.h"

#include <optional>  // LibTorch 2.11's inline_container.h uses it without including it

#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>
#include <caffe2/serialize/inline_container.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <system_error>
#include <unordered_map>

#include "polyak/checkpoint/file.h"
#include "polyak/checkpoint/pickle_format.h"
#include "polyak/checkpoint/pickle_reader.h"
#include "polyak/checkpoint/pickle_writer.h"

namespace polyak {
namespace {

using caffe2::serialize::PyTorchStreamReader;
using caffe2::serialize::PyTorchStreamWriter;

void write_archive(FileSink& sink, const pickle::Pickled& pickled) {
  // The sink never reports a failure to the zip writer: its destructor writes the end of the
  // archive, and would end the process if that failed. check() reports it after each record
  // instead.
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

/// PyTorch 1.13's `weights_only` reader knows no floating-point numbers at all, not even those that
/// its own torch.save writes. So every number goes into the file as a float64 tensor without
/// dimensions, which Python takes wherever it takes a float; all of them share one storage.
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
    return pickle::write(reals_as_tensors(value));
  } catch (const CheckpointError& error) {
    fail<CheckpointError>("{}: {}", path, error.what());
  }
}

/// Tells apart, before LibTorch sees the file, what its zip reader would all call "failed".
void check_is_zip(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    fail<CheckpointError>("cannot be read: {}", std::generic_category().message(errno));
  }
  if (S_ISDIR(status.st_mode)) fail<CheckpointError>("is a folder, not a checkpoint");
  if (!S_ISREG(status.st_mode)) fail<CheckpointError>("is not a regular file");
  if (status.st_size == 0) fail<CheckpointError>("is empty");
  std::ifstream file(path, std::ios::binary);
  if (!file) fail<CheckpointError>("cannot be read: {}", std::generic_category().message(errno));
  std::array<char, 4> start{};
  file.read(start.data(), start.size());
  const std::string_view head(start.data(), static_cast<size_t>(file.gcount()));
  if (head.substr(0, 2) == "\x80\x02") {
    fail<CheckpointError>(
        "is in the format of PyTorch before 1.6; in Python, torch.load it and torch.save it again");
  }
  if (head != "PK\x03\x04") {
    fail<CheckpointError>("is not a checkpoint: a .pth file is a zip archive, this is not");
  }
}

std::string read_text(PyTorchStreamReader& reader, const std::string& record) {
  const auto [data, size] = reader.getRecord(record);
  return std::string(static_cast<const char*>(data.get()), size);
}

Value read_archive(const std::string& path) {
  check_is_zip(path);
  PyTorchStreamReader reader(path);
  if (reader.hasRecord("constants.pkl")) {
    fail<CheckpointError>(
        "is a TorchScript archive, not a checkpoint; load it by torch::jit::load");
  }
  if (!reader.hasRecord("data.pkl")) {
    fail<CheckpointError>("is a zip archive without data.pkl, not a checkpoint");
  }
  if (reader.hasRecord("byteorder") && read_text(reader, "byteorder") != "little") {
    fail<CheckpointError>("was written on a big-endian machine, which this reader does not take");
  }
  std::unordered_map<std::string, c10::Storage> storages;
  const auto load = [&](const std::string& key, size_t bytes) {
    auto found = storages.find(key);
    if (found == storages.end()) {
      const std::string record = "data/" + key;
      if (!reader.hasRecord(record)) {
        fail<CheckpointError>("the archive has no '{}'", pickle::printable(record));
      }
      auto [data, size] = reader.getRecord(record);
      c10::Storage storage(c10::Storage::use_byte_size_t(), size, std::move(data),
                           c10::GetCPUAllocator(), /*resizable=*/true);
      found = storages.emplace(key, std::move(storage)).first;
    }
    if (found->second.nbytes() != bytes) {
      fail<CheckpointError>("'data/{}' has {} bytes where {} are announced", pickle::printable(key),
                            found->second.nbytes(), bytes);
    }
    return found->second;
  };
  return pickle::read(read_text(reader, "data.pkl"), load);
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

Value read_pth(const std::string& path) {
  try {
    return read_archive(path);
  } catch (const CheckpointError& error) {
    fail<CheckpointError>("{}: {}", path, error.what());
  } catch (const std::exception& error) {
    // LibTorch's zip reader and its allocator: what they say of a file that is cut off or damaged.
    fail<CheckpointError>("{}: cannot be read, it may be truncated or damaged: {}", path,
                          first_line(error));
  }
}

}  // namespace polyak
