#include "polyak/attach/session.h"

#include <torch/nn/module.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <typeinfo>
#include <unordered_set>

#include "polyak/attach/sibling.h"
#include "polyak/averaging/register.h"
#include "polyak/checkpoint/file.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/core/log.h"

// The built-in hooks, through the door that every plugin has.
extern "C" void polyak_plugin_register(polyak::Catalog& catalog);

namespace polyak {
namespace {

/// This thread is at work for us: what LibTorch calls meanwhile is not the program's doing.
thread_local bool at_work = false;

class AtWork {
 public:
  AtWork() { at_work = true; }
  ~AtWork() { at_work = false; }
  AtWork(const AtWork&) = delete;
  AtWork& operator=(const AtWork&) = delete;
};

std::vector<WeakTensor> parameters_of(const torch::optim::Optimizer& optimizer) {
  std::vector<WeakTensor> parameters;
  for (const auto& group : optimizer.param_groups()) {
    for (const at::Tensor& parameter : group.params()) {
      if (parameter.defined()) parameters.emplace_back(parameter.getIntrusivePtr());
    }
  }
  return parameters;
}

bool has_parameters(const torch::optim::Optimizer& optimizer,
                    const std::vector<WeakTensor>& known) {
  size_t i = 0;
  for (const auto& group : optimizer.param_groups()) {
    for (const at::Tensor& parameter : group.params()) {
      if (!parameter.defined()) continue;
      if (i == known.size() || known[i]._unsafe_get_target() != parameter.unsafeGetTensorImpl()) {
        return false;
      }
      ++i;
    }
  }
  return i == known.size();
}

std::vector<at::Tensor> alive(const std::vector<WeakTensor>& tensors) {
  std::vector<at::Tensor> result;
  for (const WeakTensor& tensor : tensors) {
    if (auto strong = tensor.lock()) result.emplace_back(std::move(strong));
  }
  return result;
}

int64_t sum_of_versions(const std::vector<at::Tensor>& tensors) {
  return std::accumulate(tensors.begin(), tensors.end(), int64_t{0},
                         [](int64_t sum, const at::Tensor& tensor) {
                           return sum + (tensor.is_inference() ? 0 : tensor._version());
                         });
}

/// Whether step() is one of those that are intercepted, not one of a class that derives.
bool is_libtorchs(const torch::optim::Optimizer& optimizer) {
  using namespace torch::optim;
  const std::type_info& type = typeid(optimizer);
  return type == typeid(SGD) || type == typeid(Adam) || type == typeid(AdamW) ||
         type == typeid(RMSprop) || type == typeid(Adagrad) || type == typeid(LBFGS);
}

/// Gives entries of every dict within the names that the program has for them.
void rename(Value& value, const std::unordered_map<std::string, std::string>& names) {
  const std::string kModule = "module.";  // before the names in ema_state_dict
  if (!value.is_dict()) return;
  for (auto& [key, entry] : value.entries()) {
    rename(entry, names);
    if (key.kind() != Value::Kind::string) continue;
    const bool inner = key.as_string().rfind(kModule, 0) == 0;
    const auto name = names.find(inner ? key.as_string().substr(kModule.size()) : key.as_string());
    if (name != names.end()) key = inner ? kModule + name->second : name->second;
  }
}

}  // namespace

void say(std::string_view text) {
  const std::string line = fmt::format("polyak: {}\n", text);
  // Nobody is there to be told that nobody can be told.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

template <class Work>
void Session::guarded(const char* doing, Work work) {
  if (at_work) return;
  const AtWork flag;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (done_) return;
  try {
    work();
  } catch (const std::exception& error) {
    say(fmt::format("{}: {}", doing, first_line(error)));
  }
}

Session::Session(AttachConfig config) : config_(std::move(config)) {
  set_log_sink([](LogLevel level, std::string_view text) {
    if (level >= LogLevel::warning) say(fmt::format("warning: {}", text));
  });
  register_averages(catalog_);
  polyak_plugin_register(catalog_);
}

// ---- what the program shows

void Session::module_seen(const Model& module, size_t count, const at::Tensor& first) {
  guarded("looking at a module", [&] {
    const auto [seen, is_new] = trees_.try_emplace(module.identity(), Tree{count, nullptr});
    if (!is_new && seen->second.count == count &&
        seen->second.first == first.unsafeGetTensorImpl()) {
      return;
    }
    seen->second = {count, first.unsafeGetTensorImpl()};
    names_.add_tree(module.tensors());
  });
}

Session::Watched& Session::watched(const Optimizer& optimizer) {
  Watched& watched = optimizers_[&optimizer];
  if (!has_parameters(optimizer, watched.parameters)) {
    watched = Watched();
    watched.parameters = parameters_of(optimizer);
    watched.versions = sum_of_versions(alive(watched.parameters));
  }
  return watched;
}

void Session::group_added(const Optimizer& optimizer) {
  guarded("looking at an optimizer", [&] {
    // Steps of one before it would be in the versions that it begins with.
    see_steps(not_intercepted_with(alive(parameters_of(optimizer))));
    // The base class's constructor adds groups: whatever was known of this address is gone.
    if (typeid(optimizer) == typeid(Optimizer)) optimizers_.erase(&optimizer);
    watched(optimizer);
    for (auto seen = optimizers_.begin(); seen != optimizers_.end();) {
      const bool dead = alive(seen->second.parameters).empty();
      seen = dead ? optimizers_.erase(seen) : std::next(seen);
    }
  });
}

bool Session::changed(Watched& watched) {
  const std::vector<at::Tensor> parameters = alive(watched.parameters);
  const int64_t versions = sum_of_versions(parameters);
  if (versions == watched.versions) return false;
  watched.versions = versions;
  return std::any_of(parameters.begin(), parameters.end(),
                     [](const at::Tensor& parameter) { return parameter.grad().defined(); });
}

void Session::zeroing_gradients(const Optimizer& optimizer) {
  if (is_libtorchs(optimizer)) return;
  guarded("averaging", [&] {
    Watched& seen = watched(optimizer);
    seen.of_program = true;
    if (!seen.intercepted && changed(seen)) step(seen);
  });
}

/// Loops that zero the gradients of a model instead. What class an optimizer is of is not asked, as
/// it may be gone; LibTorch's are known by their first step.
void Session::zeroing_gradients(const torch::nn::Module& module) {
  guarded("averaging", [&] {
    if (not_intercepted().empty()) return;
    const auto optimizers = not_intercepted_with(module.parameters());
    for (Watched* seen : optimizers) seen->of_program = true;
    see_steps(optimizers);
  });
}

void Session::stepping(const Optimizer& optimizer) {
  guarded("averaging", [&] {
    const auto known = optimizers_.find(&optimizer);
    if (known != optimizers_.end() && known->second.intercepted) return;
    Watched& seen = watched(optimizer);
    seen.intercepted = true;
    // One of the program's own may have gone before.
    see_steps(not_intercepted_with(alive(seen.parameters)));
  });
}

void Session::stepped(const Optimizer& optimizer) {
  guarded("averaging", [&] {
    Watched& seen = watched(optimizer);
    seen.intercepted = true;
    step(seen);
  });
}

std::vector<Session::Watched*> Session::not_intercepted() {
  std::vector<Watched*> found;
  for (auto& [address, seen] : optimizers_) {
    if (!seen.intercepted) found.push_back(&seen);
  }
  return found;
}

/// Those that have one of the tensors.
std::vector<Session::Watched*> Session::not_intercepted_with(
    const std::vector<at::Tensor>& tensors) {
  std::unordered_set<const void*> wanted;
  for (const at::Tensor& tensor : tensors) wanted.insert(tensor.unsafeGetTensorImpl());
  std::vector<Watched*> found = not_intercepted();
  const auto has_none = [&](const Watched* seen) {
    return std::none_of(
        seen->parameters.begin(), seen->parameters.end(),
        [&](const WeakTensor& parameter) { return wanted.count(parameter._unsafe_get_target()); });
  };
  found.erase(std::remove_if(found.begin(), found.end(), has_none), found.end());
  return found;
}

/// Steps that zeroing_gradients would have seen at the next turn of the loop.
void Session::see_steps(const std::vector<Watched*>& optimizers) {
  for (Watched* seen : optimizers) {
    if (seen->of_program && changed(*seen)) step(*seen);
  }
}

// ---- groups

void Session::step(Watched& watched) {
  if (watched.groups.empty()) find_groups(watched);
  for (Group* group : watched.groups) step(*group);
  if (not_intercepted().empty()) return;
  // Another optimizer of these parameters must not take this step for its own.
  for (Watched* other : not_intercepted_with(alive(watched.parameters))) {
    other->versions = sum_of_versions(alive(other->parameters));
  }
}

void Session::find_groups(Watched& watched) {
  std::vector<NamedTensor> fresh;
  for (const at::Tensor& parameter : alive(watched.parameters)) {
    const auto known = group_of_.find(parameter.unsafeGetTensorImpl());
    if (!can_be_averaged(parameter)) {
      if (!std::exchange(left_out_, true)) {
        const std::string name = names_.name_of(parameter);
        say(fmt::format(
            "{}: is sparse, quantized or a meta tensor and has no average; it is saved as it is",
            name.empty() ? "a parameter" : name));
      }
    } else if (known == group_of_.end()) {
      fresh.push_back({"", parameter, false});
    } else if (parameter.requires_grad() &&  // a frozen one may stand beside what another steps
               std::find(watched.groups.begin(), watched.groups.end(), known->second) ==
                   watched.groups.end()) {
      watched.groups.push_back(known->second);
    }
  }
  if (fresh.empty()) return;
  if (watched.groups.empty()) {
    drop_groups_of_the_dead();
    auto group = std::make_unique<Group>();
    const std::string number = ++groups_made_ == 1 ? "" : fmt::format("-{}", groups_made_);
    group->file = in_output_dir(fmt::format("averages{}.pth", number));
    watched.groups.push_back(group.get());
    groups_.push_back(std::move(group));
  }
  add_to(*watched.groups.front(), fresh);
}

void Session::add_to(Group& group, const std::vector<NamedTensor>& tensors) {
  const size_t before = group.tensors.size();
  for (NamedTensor item : tensors) {
    if (!group_of_.emplace(item.tensor.unsafeGetTensorImpl(), &group).second) continue;
    item.name = fmt::format("{}_{}", item.buffer ? "buffer" : "parameter", group.tensors.size());
    group.tensors.push_back(std::move(item));
  }
  if (group.runner && group.tensors.size() > before) group.runner->set_tensors(group.tensors);
}

/// So that what is written is the whole model: no optimizer knows of its buffers.
void Session::add_what_stands_beside(Group& group) {
  group.generation = names_.generation();
  add_to(group, names_.beside(group.tensors));
}

void Session::step(Group& group) {
  if (group.broken) return;
  try {
    if (group.generation != names_.generation()) add_what_stands_beside(group);
    if (!group.runner) {
      group.runner = std::make_unique<AttachedRunner>(config_, catalog_, group.tensors);
    }
    group.runner->step();
  } catch (const std::exception& error) {
    group.broken = true;
    say(fmt::format("averaging stops, the program goes on: {}", first_line(error)));
    return;
  }
  group.written = false;
  if (config_.every > 0 && group.runner->progress().iter % config_.every == 0) write(group);
}

/// Programs that train one model after another do not keep them all, nor do we.
void Session::drop_groups_of_the_dead() {
  const auto dead = [](const std::unique_ptr<Group>& group) {
    // One handle is in `tensors`, one in the runner's model, one in each average.
    const size_t ours = 2 + (group->runner ? group->runner->averages().size() : 0);
    return std::all_of(group->tensors.begin(), group->tensors.end(),
                       [&](const NamedTensor& item) { return item.tensor.use_count() <= ours; });
  };
  // Asked once of each: the program's other threads let models go at any time.
  const auto first_dead =
      std::stable_partition(groups_.begin(), groups_.end(),
                            [&](const std::unique_ptr<Group>& group) { return !dead(group); });
  for (auto item = first_dead; item != groups_.end(); ++item) {
    const std::unique_ptr<Group>& group = *item;
    write(*group);
    for (const NamedTensor& item : group->tensors) {
      group_of_.erase(item.tensor.unsafeGetTensorImpl());
    }
    for (auto& [address, seen] : optimizers_) {
      seen.groups.erase(std::remove(seen.groups.begin(), seen.groups.end(), group.get()),
                        seen.groups.end());
    }
  }
  groups_.erase(first_dead, groups_.end());
}

// ---- files

std::string Session::in_output_dir(const std::string& name) const {
  return (std::filesystem::path(*config_.output_dir) / name).string();
}

/// The program's names for ours. One that stands for two tensors names neither.
std::unordered_map<std::string, std::string> Session::names_in(const Group& group) const {
  std::unordered_map<std::string, int> counts;
  for (const NamedTensor& item : group.tensors) ++counts[names_.name_of(item.tensor)];
  std::unordered_map<std::string, std::string> names;
  for (const NamedTensor& item : group.tensors) {
    const std::string name = names_.name_of(item.tensor);
    if (!name.empty() && counts[name] == 1) names[item.name] = name;
  }
  return names;
}

void Session::write(Group& group) {
  if (group.written || !group.runner) return;
  try {
    Value checkpoint = group.runner->checkpoint();
    rename(checkpoint, names_in(group));
    write_pth(group.file, checkpoint);
    group.written = true;
  } catch (const std::exception& error) {
    say(first_line(error));
  }
}

/// What the averages of a name have for the program's tensors; nothing before their first update.
AveragedTensors Session::averages(const std::string& name) const {
  AveragedTensors averages;
  for (const auto& group : groups_) {
    if (!group->runner) continue;
    for (const NamedAverage& item : group->runner->averages()) {
      if (item.name != name || item.average->steps() == 0) continue;
      std::unordered_map<std::string, at::Tensor> values;
      for (const NamedTensor& value : item.average->state()) values[value.name] = value.tensor;
      for (const NamedTensor& tensor : group->tensors) {
        const auto value = values.find(tensor.name);  // not there: came after the last update
        if (value != values.end()) averages.add(tensor.tensor, value->second);
      }
    }
  }
  return averages;
}

void Session::saved(const torch::jit::Module& module, const std::string& path,
                    const Export& write) {
  guarded("saving averaged weights", [&] {
    see_steps(not_intercepted());
    int64_t stream = 0;
    for (const Node& hook : config_.custom_hooks.items()) {
      const Node* named = hook.find("name");
      const std::string name = named ? named->as_string() : "";
      const std::string suffix = name.empty() ? "" : "." + name;
      const auto copy = averaged_copy(module, averages(name),
                                      [&](const at::Tensor& tensor, const std::string& full_name) {
                                        if (group_of_.count(tensor.unsafeGetTensorImpl())) {
                                          names_.add(tensor, full_name);
                                        }
                                      });
      if (!copy) continue;
      if (path.empty() && stream == 0) stream = ++streams_;
      const std::string target = path.empty()
                                     ? in_output_dir(fmt::format("stream-{}{}.pt", stream, suffix))
                                     : sibling_path(path, "averaged" + suffix);
      replace_file(target, [&](const std::string& beside) {
        FileSink sink(beside, target);
        write(*copy, [&](const void* data, size_t size) {
          sink.write(data, size);
          return size;
        });
        sink.check();
      });
    }
  });
}

void Session::write_groups() {
  see_steps(not_intercepted());
  for (const auto& group : groups_) write(*group);
}

void Session::write_averages() {
  if (at_work) {
    say("the program ends within an update; the averages stay as they were last written");
  }
  guarded("writing the averages", [&] { write_groups(); });
}

void Session::finish() {
  guarded("writing the averages", [&] {
    write_groups();
    if (groups_made_ == 0) say("no step of an optimizer was seen; nothing was averaged");
    done_ = true;
  });
}

}  // namespace polyak
