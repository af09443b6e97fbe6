// SPDX-License-Identifier: Apache-2.0
#include "polyak/attach/archive.h"

#include <torch/serialize/archive.h>

#include <map>
#include <memory>

namespace polyak {
namespace {

/// A module in an archive.
struct Folder {
  std::vector<NamedTensor> tensors;  // by their own names
  std::map<std::string, std::unique_ptr<Folder>> folders;

  Folder& at(const std::string& path) {
    if (path.empty()) return *this;
    const size_t dot = path.find('.');
    std::unique_ptr<Folder>& folder = folders[path.substr(0, dot)];
    if (!folder) folder = std::make_unique<Folder>();
    return dot == std::string::npos ? *folder : folder->at(path.substr(dot + 1));
  }

  void write(torch::serialize::OutputArchive& archive) const {
    for (const NamedTensor& item : tensors) archive.write(item.name, item.tensor, item.buffer);
    for (const auto& [name, folder] : folders) {
      torch::serialize::OutputArchive nested(archive.compilation_unit());
      folder->write(nested);
      archive.write(name, nested);
    }
  }
};

}  // namespace

void write_archive(const std::vector<NamedTensor>& tensors, const std::set<std::string>& modules,
                   const std::function<size_t(const void*, size_t)>& sink) {
  Folder root;
  for (const std::string& module : modules) root.at(module);
  for (const NamedTensor& item : tensors) {
    const size_t dot = item.name.rfind('.');
    const std::string folder = dot == std::string::npos ? "" : item.name.substr(0, dot);
    const std::string name = dot == std::string::npos ? item.name : item.name.substr(dot + 1);
    root.at(folder).tensors.push_back({name, item.tensor, item.buffer});
  }
  torch::serialize::OutputArchive archive;
  root.write(archive);
  archive.save_to(sink);
}

}  // namespace polyak
