// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/libtorch_archive.h"

#include <ATen/ATen.h>
#include <torch/serialize/output-archive.h>

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "polyak/checkpoint/file.h"

namespace polyak {
namespace {

/// A module of the archive, by the parts of the tensors' names.
struct Module {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  std::vector<std::string> order;  // of children
  std::map<std::string, Module> children;
};

void add(Module& module, const std::string& rest, const at::Tensor& tensor,
         const std::string& name) {
  const size_t dot = rest.find('.');
  const std::string part = rest.substr(0, dot);
  if (part.empty()) fail<CheckpointError>("'{}': a part of the name is empty", name);
  if (dot == std::string::npos) {
    module.tensors.emplace_back(part, tensor);
    return;
  }
  const auto [child, is_new] = module.children.emplace(part, Module());
  if (is_new) module.order.push_back(part);
  add(child->second, rest.substr(dot + 1), tensor, name);
}

void fill(torch::serialize::OutputArchive& archive, Module& module, const std::string& path) {
  for (const auto& [name, tensor] : module.tensors) {
    if (module.children.count(name)) {
      fail<CheckpointError>("'{}{}' is both a tensor and a module with tensors", path, name);
    }
    // Only floating-point tensors can be parameters; torch::load() reads either by its name.
    archive.write(name, tensor, /*is_buffer=*/!tensor.is_floating_point());
  }
  for (const std::string& name : module.order) {
    torch::serialize::OutputArchive child(archive.compilation_unit());
    fill(child, module.children.at(name), path + name + ".");
    archive.write(name, child);
  }
}

}  // namespace

void write_libtorch_archive(const std::string& path, const Value& tensors) {
  try {
    Module root;
    for (const auto& [key, value] : tensors.entries()) {
      const std::string& name = key.as_string();
      if (!value.is_tensor()) {
        fail<CheckpointError>("'{}' is a {}, expected a tensor", name, value.kind_name());
      }
      add(root, name, value.as_tensor(), name);
    }
    torch::serialize::OutputArchive archive;
    fill(archive, root, "");
    replace_file(path, [&](const std::string& temporary) {
      FileSink sink(temporary, path);
      archive.save_to([&](const void* data, size_t size) {
        sink.write(data, size);
        return size;
      });
      sink.check();
    });
  } catch (const CheckpointError& error) {
    const std::string text = error.what();
    if (text.find(path) != std::string::npos) throw;
    fail<CheckpointError>("{}: {}", path, text);
  } catch (const c10::Error& error) {
    fail<CheckpointError>("{}: cannot be written: {}", path, first_line(error));
  }
}

}  // namespace polyak
