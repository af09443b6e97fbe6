// SPDX-License-Identifier: Apache-2.0
#include "polyak/attach/session.h"

#include <ATen/ATen.h>
#include <torch/nn/module.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>
#include <typeinfo>
#include <unordered_set>

#include "polyak/attach/archive.h"
#include "polyak/attach/group_files.h"
#include "polyak/attach/optimizers.h"
#include "polyak/attach/sibling.h"
#include "polyak/averaging/register.h"
#include "polyak/checkpoint/file.h"
#include "polyak/checkpoint/format.h"
#include "polyak/core/log.h"
#include "polyak/core/text.h"
#include "polyak/distributed/placement.h"

// Registers the built-in hooks, through the entry point that every plugin has.
extern "C" void polyak_plugin_register(polyak::Catalog& catalog);

namespace polyak {
namespace {

/// The maximum number of parameters without a step that are recorded.
constexpr size_t kMostUnstepped = 10000;

/// Set while this thread runs our code: calls of LibTorch are then not the program's.
thread_local bool at_work = false;

class AtWork {
 public:
  AtWork() { at_work = true; }
  ~AtWork() { at_work = false; }
  AtWork(const AtWork&) = delete;
  AtWork& operator=(const AtWork&) = delete;
};

}  // namespace

void say(std::string_view text) {
  const std::string line = fmt::format("polyak: {}\n", text);
  // A failure cannot be reported anywhere.
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

namespace {

/// Processes that a launcher started have folders of their own.
AttachConfig of_this_process(AttachConfig config) {
  const int64_t rank = rank_in_environment();
  if (rank == 0 || !config.every_rank) return config;
  config.output_dir = fmt::format("{}/rank_{}", *config.output_dir, rank);
  std::error_code ignored;  // the first write reports it
  std::filesystem::create_directories(*config.output_dir, ignored);
  if (config.siblings != "beside") config.siblings += fmt::format("/rank_{}", rank);
  return config;
}

}  // namespace

Session::Session(AttachConfig config, int64_t dry_run)
    : config_(of_this_process(std::move(config))),
      dry_run_(dry_run),
      speaks_(config_.every_rank || rank_in_environment() == 0),
      writes_(speaks_ && dry_run_ == 0),
      files_(config_) {
  set_log_sink([](LogLevel level, std::string_view text) {
    if (level >= LogLevel::warning) say(fmt::format("warning: {}", text));
  });
  register_averages(catalog_);
  polyak_plugin_register(catalog_);
  if (config_.format != "pt") return;
  // The last archives are written at program exit. LibTorch's static objects for that are created
  // at first use and destroyed in reverse order, so create them now.
  const AtWork flag;
  write_archive({{"module.number", at::zeros({1}), false}}, {},
                [](const void*, size_t size) { return size; });
}

// ---- what the program shows

void Session::module_seen(const ModelRef& module, size_t fingerprint) {
  guarded("inspecting a module", [&] {
    const auto [seen, is_new] = trees_.try_emplace(module.identity(), fingerprint);
    if (!is_new && seen->second == fingerprint) return;
    seen->second = fingerprint;
    const std::vector<NamedTensor> tensors = module.tensors();
    names_.add_tree(tensors);
    for (const NamedTensor& item : tensors) {
      const void* address = item.tensor.unsafeGetTensorImpl();
      const bool counts = !item.buffer && item.tensor.requires_grad() &&
                          can_be_averaged(item.tensor) && !groups_.find(address);
      if (counts && unstepped_.size() < kMostUnstepped) unstepped_[address] = item.name;
    }
    if (!module.nn_module() || config_.format != "pt") return;
    for (const auto& child : module.nn_module()->named_modules("", /*include_self=*/false)) {
      if (child.value()->is_serializable()) modules_.insert(child.key());
    }
  });
}

Session::Watched& Session::watched(const Optimizer& optimizer, bool before_step) {
  Watched& watched = optimizers_[&optimizer];
  if (!has_parameters(optimizer, watched.parameters)) {
    const std::vector<WeakTensor> before = std::move(watched.parameters);
    const std::vector<size_t> sizes_before = std::move(watched.group_sizes);
    watched.parameters = parameters_of(optimizer);
    watched.group_sizes = group_sizes_of(optimizer);
    watched.versions = sum_of_versions(alive(watched.parameters));
    watched.looked_at = false;
    see_replaced(watched, in_same_places(before, sizes_before, watched.group_sizes), before_step);
  }
  return watched;
}

/// Handles tensors that replace others in an optimizer. The average continues if the program has
/// the same name for both or if the new tensor starts with the values of the old one; otherwise it
/// starts as a copy. Equal shapes do not suffice: rows may be in another order.
void Session::see_replaced(Watched& watched, const std::vector<WeakTensor>& before,
                           bool before_step) {
  const std::vector<at::Tensor> now = alive(watched.parameters);
  for (size_t i = 0; i < std::min(before.size(), now.size()); ++i) {
    const at::TensorImpl* old_address = before[i]._unsafe_get_target();
    if (!before[i].use_count() || old_address == now[i].unsafeGetTensorImpl()) continue;
    const Group* group = groups_.find(old_address);
    if (!group || groups_.find(now[i].unsafeGetTensorImpl())) continue;
    const bool shared = std::any_of(optimizers_.begin(), optimizers_.end(), [&](const auto& item) {
      const std::vector<WeakTensor>& others = item.second.parameters;
      return &item.second != &watched &&
             std::any_of(others.begin(), others.end(), [&](const WeakTensor& other) {
               return other._unsafe_get_target() == old_address;
             });
    });
    auto strong = before[i].lock();
    if (shared || !strong) continue;
    const at::Tensor old(std::move(strong));
    const bool alike = old.sizes() == now[i].sizes() && old.scalar_type() == now[i].scalar_type();
    const bool same_values = alike && before_step && at::equal(old, now[i].detach());
    // Models that take turns in an optimizer keep separate averages.
    if (!same_values && !group->is_orphan(old, /*handles_beside=*/1)) continue;
    const std::string name = names_.name_of(old);
    const bool same_name = alike && !name.empty() && name == names_.name_of(now[i]);
    groups_.replace(old, now[i], same_values || same_name);
    unstepped_.erase(now[i].unsafeGetTensorImpl());
    if (!std::exchange(replaced_, true)) {
      say(
          fmt::format("the program replaced parameters of its {}; an average continues if values "
                      "or names are the same, and starts as a copy otherwise",
                      watched.type.empty() ? "optimizer" : watched.type));
    }
  }
  for (Group* group : watched.groups) group->tell_averages(config_, catalog_);
  watched.groups.clear();  // found again before the next step
}

void Session::group_added(const Optimizer& optimizer) {
  guarded("inspecting an optimizer", [&] {
    // Steps of an earlier optimizer would otherwise be included in its initial versions.
    see_steps(not_intercepted_with(alive(parameters_of(optimizer))));
    // The base class's constructor adds groups, so a previous optimizer at this address is gone.
    // The second group of the same optimizer keeps the place of the first.
    int64_t made = 0;
    const auto known = optimizers_.find(&optimizer);
    if (typeid(optimizer) == typeid(Optimizer) && known != optimizers_.end()) {
      if (begins_with(optimizer, known->second.parameters)) made = known->second.made;
      optimizers_.erase(known);
    }
    Watched& seen = watched(optimizer);
    if (made > 0) seen.made = made;
    take_place(seen);
    for (auto seen = optimizers_.begin(); seen != optimizers_.end();) {
      const bool dead = alive(seen->second.parameters).empty();
      seen = dead ? optimizers_.erase(seen) : std::next(seen);
    }
  });
}

/// Assigns the place in the order of creation. An optimizer that shares parameters with another
/// gets the other's place.
void Session::take_place(Watched& watched) {
  if (watched.made > 0) return;
  std::unordered_set<const void*> own;
  for (const WeakTensor& parameter : watched.parameters) {
    own.insert(parameter._unsafe_get_target());
  }
  for (const auto& [address, other] : optimizers_) {
    const bool shares = std::any_of(
        other.parameters.begin(), other.parameters.end(),
        [&](const WeakTensor& parameter) { return own.count(parameter._unsafe_get_target()); });
    if (other.made > 0 && shares && (watched.made == 0 || other.made < watched.made)) {
      watched.made = other.made;
    }
  }
  if (watched.made == 0) watched.made = ++optimizers_made_;
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
    if (seen.type.empty()) seen.type = class_of(optimizer);
    if (!seen.intercepted && changed(seen)) step(seen);
  });
}

/// For loops that zero the gradients of a model instead. The classes of optimizers are not checked,
/// as they may be destroyed; LibTorch's are known by their first step.
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
    Watched& seen = watched(optimizer, /*before_step=*/true);
    if (std::exchange(seen.intercepted, true)) return;
    // An optimizer of the program's own may have stepped before.
    see_steps(not_intercepted_with(alive(seen.parameters)));
  });
}

void Session::stepped(const Optimizer& optimizer) {
  guarded("averaging", [&] {
    Watched& seen = watched(optimizer);
    seen.intercepted = true;
    if (seen.type.empty()) seen.type = class_of(optimizer);
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

/// Those that have any of the tensors.
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

/// Handles steps that zeroing_gradients() would detect in the next iteration.
void Session::see_steps(const std::vector<Watched*>& optimizers) {
  for (Watched* seen : optimizers) {
    if (seen->of_program && changed(*seen)) step(*seen);
  }
}

// ---- groups

void Session::step(Watched& watched) {
  ++steps_;
  if (!std::exchange(watched.looked_at, true)) find_groups(watched);
  for (Group* group : watched.groups) step(*group);
  if (steps_ == dry_run_) end_dry_run();
  if (not_intercepted().empty()) return;
  // This step must not be attributed to another optimizer of these parameters.
  for (Watched* other : not_intercepted_with(alive(watched.parameters))) {
    other->versions = sum_of_versions(alive(other->parameters));
  }
}

void Session::find_groups(Watched& watched) {
  std::vector<NamedTensor> fresh;
  for (const at::Tensor& parameter : alive(watched.parameters)) {
    Group* known = groups_.find(parameter.unsafeGetTensorImpl());
    if (!can_be_averaged(parameter)) {
      unstepped_.erase(parameter.unsafeGetTensorImpl());
      if (!std::exchange(left_out_, true)) {
        const std::string name = names_.name_of(parameter);
        say(fmt::format(
            "{}: is sparse, quantized or a meta tensor and is not averaged; it is saved unchanged",
            name.empty() ? "a parameter" : name));
      }
    } else if (!known) {
      fresh.push_back({"", parameter, false});
    } else if (parameter.requires_grad() &&  // a frozen one may be in the group of another
               std::find(watched.groups.begin(), watched.groups.end(), known) ==
                   watched.groups.end()) {
      watched.groups.push_back(known);
    }
  }
  drop_orphans(watched.groups);
  if (fresh.empty()) {
    for (Group* group : watched.groups) group->tell_averages(config_, catalog_);
    return;
  }
  if (watched.groups.empty()) {
    drop_expired_groups();
    take_place(watched);
    groups_made_ = true;
    watched.groups.push_back(&groups_.make(
        watched.made, watched.type.empty() ? "an optimizer of the program's own" : watched.type));
  }
  add_to(*watched.groups.front(), fresh);
}

/// The program took layers out of a model: what no one holds any more leaves the average.
void Session::drop_orphans(const std::vector<Group*>& groups) {
  for (Group* group : groups) {
    std::vector<std::string> names;
    for (const NamedTensor& item : groups_.remove_orphans(*group)) {
      const std::string name = names_.name_of(item.tensor);
      names.push_back(name.empty() ? "a tensor without a name" : name);
    }
    if (names.empty()) continue;
    say(fmt::format("the program released {}; left the average", list_names(names)));
  }
}

void Session::add_to(Group& group, const std::vector<NamedTensor>& tensors) {
  for (const NamedTensor& item : tensors) {
    unstepped_.erase(item.tensor.unsafeGetTensorImpl());
  }
  groups_.add(group, tensors);
  group.tell_averages(config_, catalog_);
}

/// Optimizers do not have buffers and frozen parameters, but files must contain the whole model.
void Session::add_buffers_and_frozen(Group& group) {
  group.generation = names_.generation();
  const std::vector<NamedTensor> buffers = groups_.set_frozen(group, names_.beside(group.tensors));
  add_to(group, buffers);
}

void Session::step(Group& group) {
  if (group.broken) return;
  try {
    if (group.generation != names_.generation()) add_buffers_and_frozen(group);
    group.see_resized();
    group.tell_averages(config_, catalog_);
    if (!group.runner) {
      group.runner = std::make_unique<AttachedRunner>(config_, catalog_, group.tensors);
    }
    group.runner->step();
  } catch (const std::exception& error) {
    group.broken = true;
    say(fmt::format("averaging stopped, the program continues: {}", first_line(error)));
    return;
  }
  group.written = false;
  if (config_.every > 0 && group.runner->progress().iter % config_.every == 0) write(group);
}

/// Programs that train one model after another do not keep them all, so neither do we.
void Session::drop_expired_groups() {
  const std::vector<Group*> expired = groups_.expired();
  for (Group* group : expired) {
    write(*group);
    for (auto& [address, seen] : optimizers_) {
      seen.groups.erase(std::remove(seen.groups.begin(), seen.groups.end(), group),
                        seen.groups.end());
    }
  }
  groups_.drop(expired);
}

// ---- files

/// Names the files of groups that have stepped, in the order in which optimizers were created.
void Session::name_files() {
  std::vector<Group*> fresh;
  for (const auto& group : groups_.all()) {
    if (group->file.empty() && group->runner) fresh.push_back(group.get());
  }
  std::stable_sort(fresh.begin(), fresh.end(),
                   [](const Group* a, const Group* b) { return a->made < b->made; });
  for (Group* group : fresh) group->file = files_.new_averages_file(group->made);
}

AveragesRecord Session::record_of(const Group& group, const Value& checkpoint) const {
  AveragesRecord record;
  record.file = group.file;
  record.made = group.made;
  record.optimizer = group.optimizer;
  record.parameters = group.count_parameters();
  record.steps = group.runner->progress().iter;
  record.saved_as = group.saved_as;
  for (const auto& [name, value] : checkpoint.at("state_dict").entries()) {
    record.names.push_back(name.as_string());
  }
  return record;
}

void Session::write(Group& group) {
  if (group.written || !group.runner || !writes_) return;
  name_files();
  try {
    const Value checkpoint = named_checkpoint_of(group, names_);
    write_checkpoint_file(group.file, checkpoint);
    if (config_.format == "pt") write_archives(group, names_, modules_);
    files_.averages_written(record_of(group, checkpoint));
    group.written = true;
  } catch (const std::exception& error) {
    say(first_line(error));
  }
}

void Session::saved(const torch::jit::Module& module, const std::string& path,
                    const Export& write) {
  if (!writes_) return;
  guarded("saving averaged weights", [&] {
    see_steps(not_intercepted());
    if (path.empty() && !files_.begin_stream()) return;
    bool written = false;
    const bool grown = groups_.is_grown(module);
    const auto succeeds = [&, let_go = groups_.orphans(names_)](const at::Tensor& tensor,
                                                                const std::string& name) {
      const auto before = let_go.find(name);
      return (grown && tensor.requires_grad()) ||
             (before != let_go.end() && (tensor.sizes() == before->second.sizes() ||
                                         same_but_for_rows(tensor, before->second)));
    };
    std::set<Group*> holders;  // groups whose averages the file contains
    for (const Node& hook : config_.custom_hooks.items()) {
      const Node *named = hook.find("name"), *buffers = hook.find("update_buffers");
      const std::string name = named ? named->as_string() : "";
      const std::string suffix = name.empty() ? "" : "." + name;
      const AveragedTensors own = groups_.averages(name, buffers && buffers->as_bool());
      const auto stand_in = [&](const at::Tensor& tensor, const std::string& full_name) {
        Group* group = groups_.find(tensor.unsafeGetTensorImpl());
        if (group) {
          names_.add(tensor, full_name);
          holders.insert(group);
          return at::Tensor();
        }
        return succeeds(tensor, full_name) ? tensor : at::Tensor();
      };
      const auto copy = averaged_copy(module, own, stand_in);
      if (!copy) continue;
      const std::string target =
          path.empty() ? files_.stream_file(suffix) : files_.sibling_of(path, suffix);
      if (!path.empty() && config_.siblings != "beside") {
        std::filesystem::create_directories(std::filesystem::path(target).parent_path());
      }
      replace_file(target, [&](const std::string& beside) {
        FileSink sink(beside, target);
        write(*copy, [&](const void* data, size_t size) {
          sink.write(data, size);
          return size;
        });
        sink.check();
      });
      if (!path.empty()) files_.sibling_written(path, target);
      written = true;
      for (Group* group : holders) {
        group->saved_as = target;
        group->written = false;  // the index must name it
      }
    }
    if (path.empty()) {
      files_.end_stream();
    } else if (!written && holders.empty() && groups_.may_be_copy(module)) {
      files_.no_sibling(path);
    }
  });
}

void Session::write_groups() {
  see_steps(not_intercepted());
  for (const auto& group : groups_.all()) write(*group);
}

void Session::write_averages() {
  if (at_work) {
    say("the program ends during an update; the averages on disk are those of the last write");
  }
  guarded("writing the averages", [&] { write_groups(); });
}

std::vector<std::string> Session::last_lines() const {
  if (steps_ == 0) return {"no optimizer step was seen; nothing was averaged"};
  if (!groups_made_)
    return {"the optimizers that stepped have no parameters to average; nothing was averaged"};
  std::vector<std::string> lines = files_.last_lines();
  std::set<std::string> names;
  for (const auto& [address, name] : unstepped_) names.insert(name);
  if (!unstepped_.empty()) {
    lines.push_back(fmt::format(
        "not averaged, since no optimizer stepped it: {}{} (a copy, or a target that the program "
        "updates itself)",
        *names.begin(),
        unstepped_.size() > 1 ? fmt::format(" and {} more", unstepped_.size() - 1) : ""));
  }
  return lines;
}

void Session::finish() {
  guarded("writing the averages", [&] {
    write_groups();
    if (speaks_) {
      for (const std::string& line : dry_run_ > 0 ? dry_run_lines() : last_lines()) say(line);
    }
    done_ = true;
  });
}

/// What the files of a run would contain.
std::vector<std::string> Session::dry_run_lines() {
  std::vector<std::string> lines = {
      fmt::format("dry run: {}{}; a run would write to {}:", count_of(steps_, "step"),
                  steps_ < dry_run_ ? ", then the program ended" : "", *config_.output_dir)};
  if (!groups_made_) lines.back() = "dry run: " + last_lines().front();
  name_files();
  std::vector<AveragesRecord> records;
  for (const auto& group : groups_.all()) {
    if (group->runner) records.push_back(record_of(*group, named_checkpoint_of(*group, names_)));
  }
  std::stable_sort(
      records.begin(), records.end(),
      [](const AveragesRecord& a, const AveragesRecord& b) { return a.made < b.made; });
  for (const AveragesRecord& record : records) lines.push_back("  " + line_of(record));
  if (groups_made_) {
    for (const std::string& line : last_lines()) lines.push_back(line);  // what is not averaged
  }
  return lines;
}

/// Not by exit(): handlers of the program would run while its threads train.
void Session::end_dry_run() {
  if (speaks_) {
    for (const std::string& line : dry_run_lines()) say(line);
  }
  std::fflush(nullptr);
  ::_exit(0);
}

}  // namespace polyak
