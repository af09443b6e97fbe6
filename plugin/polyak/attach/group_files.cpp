// SPDX-License-Identifier: Apache-2.0
#include "polyak/attach/group_files.h"

#include <filesystem>
#include <unordered_map>

#include "polyak/attach/archive.h"
#include "polyak/averaging/averaged_model.h"
#include "polyak/checkpoint/file.h"

namespace polyak {
namespace {

/// Replaces internal names by the program's names in all dicts of a value.
void rename(Value& value, const std::unordered_map<std::string, std::string>& names) {
  const std::string kModule = "module.";  // prefix of the names in ema_state_dict
  if (!value.is_dict()) return;
  for (auto& [key, entry] : value.entries()) {
    rename(entry, names);
    if (key.kind() != Value::Kind::string) continue;
    const bool inner = key.as_string().rfind(kModule, 0) == 0;
    const auto name = names.find(inner ? key.as_string().substr(kModule.size()) : key.as_string());
    if (name != names.end()) key = inner ? kModule + name->second : name->second;
  }
}

/// Adds the frozen parameters to the state_dicts.
void add_frozen(Value& checkpoint, const std::vector<NamedTensor>& frozen) {
  for (const NamedTensor& item : frozen) {
    for (auto& [key, entry] : checkpoint.entries()) {
      const std::string name = key.as_string();
      if (name == "state_dict") entry.set(item.name, item.tensor.detach());
      if (name.rfind("ema_state_dict", 0) == 0) {
        entry.set("module." + item.name, item.tensor.detach());
      }
    }
  }
}

/// The program's names by internal names. Unknown names and names of several tensors are replaced
/// by positions.
std::unordered_map<std::string, std::string> names_in(const Group& group,
                                                      const TensorNames& known) {
  std::unordered_map<std::string, int> counts;
  for (const NamedTensor& item : group.tensors) ++counts[known.name_of(item.tensor)];
  std::unordered_map<std::string, std::string> names;
  for (size_t i = 0; i < group.tensors.size(); ++i) {
    const NamedTensor& item = group.tensors[i];
    const std::string name = known.name_of(item.tensor);
    names[item.name] = !name.empty() && counts[name] == 1
                           ? name
                           : fmt::format("{}_{}", item.buffer ? "buffer" : "parameter", i);
  }
  return names;
}

}  // namespace

Value named_checkpoint_of(Group& group, const TensorNames& names) {
  Value checkpoint = group.runner->checkpoint();
  rename(checkpoint, names_in(group, names));
  add_frozen(checkpoint, group.frozen);
  return checkpoint;
}

void write_archives(const Group& group, const TensorNames& names,
                    const std::set<std::string>& modules) {
  const auto own = names_in(group, names);
  for (const NamedAverage& item : group.runner->averages()) {
    std::vector<NamedTensor> tensors = item.average->state();
    for (NamedTensor& tensor : tensors) {
      const auto name = own.find(tensor.name);
      if (name != own.end()) tensor.name = name->second;
      tensor.tensor = tensor.tensor.detach();
    }
    for (const NamedTensor& frozen : group.frozen) {
      tensors.push_back({frozen.name, frozen.tensor.detach(), false});
    }
    const std::string suffix = item.name.empty() ? "" : "." + item.name;
    const std::string file =
        std::filesystem::path(group.file).replace_extension(suffix + ".pt").string();
    replace_file(file, [&](const std::string& beside) {
      FileSink sink(beside, file);
      write_archive(tensors, modules, [&](const void* data, size_t size) {
        sink.write(data, size);
        return size;
      });
      sink.check();
    });
  }
}

}  // namespace polyak
