// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/run_processes.h"

#include <ATen/ATen.h>
#include <torch/version.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <random>
#include <set>
#include <sstream>

#include "polyak/core/log.h"
#include "polyak/distributed/process_group.h"
#include "polyak/version.h"

namespace polyak {
namespace {

constexpr const char* kStarting = "comparing what the processes start with";

at::Tensor bytes_of(const std::string& text, int64_t size) {
  at::Tensor bytes = at::zeros({size}, at::kByte);
  std::memcpy(bytes.data_ptr(), text.data(), text.size());
  return bytes;
}

/// The texts of all processes, by rank.
std::vector<std::string> all_gather_text(ProcessGroup& group, const std::string& text) {
  const auto size = static_cast<int64_t>(text.size());
  const std::vector<at::Tensor> sizes = group.all_gather(at::full({1}, size, at::kLong), kStarting);
  int64_t longest = 0;
  for (const at::Tensor& item : sizes) longest = std::max(longest, item.item<int64_t>());
  std::vector<std::string> texts;
  for (const at::Tensor& bytes : group.all_gather(bytes_of(text, longest + 1), kStarting)) {
    const auto* const begin = static_cast<const char*>(bytes.data_ptr());
    texts.emplace_back(begin, static_cast<size_t>(sizes[texts.size()].item<int64_t>()));
  }
  return texts;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// "'lr: 0.1' instead of 'lr: 0.2'": the first line that differs.
std::string first_difference(const std::string& mine, const std::string& theirs) {
  const std::vector<std::string> a = lines_of(mine), b = lines_of(theirs);
  const auto strip = [](const std::vector<std::string>& lines, size_t i) {
    if (i >= lines.size()) return std::string("nothing");
    const size_t begin = lines[i].find_first_not_of(' ');
    return fmt::format("'{}'", begin == std::string::npos ? "" : lines[i].substr(begin));
  };
  size_t i = 0;
  while (i < std::min(a.size(), b.size()) && a[i] == b[i]) ++i;
  return fmt::format("{}, and rank 0 {}", strip(b, i), strip(a, i));
}

}  // namespace

RunProcesses::RunProcesses(Node& config, const TrainConfig& options) {
  const Launcher launcher = launcher_of(options.launcher);
  if (launcher == Launcher::none) return;
  if (const std::string reason = why_not_distributed(); !reason.empty()) {
    config.at("launcher").fail(reason);
  }
  const Placement place = find_placement(launcher);
  EnvOptions env;
  read_options(options.env_cfg, env, "env_cfg");
  DistOptions dist;
  read_options(env.dist_cfg, dist, "dist_cfg");
  group_ =
      join_processes(place, std::chrono::milliseconds(static_cast<int64_t>(1000 * dist.timeout)));
  check_same({{"version of Polyak", POLYAK_VERSION},
              {"version of LibTorch", TORCH_VERSION},
              {"config", config.dump()}});
  const at::Tensor seed =
      at::full({1}, static_cast<int64_t>(std::random_device()() >> 1), at::kLong);
  group_->broadcast(seed, 0, "drawing a seed");
  drawn_seed_ = seed.item<int64_t>();
}

void RunProcesses::together(const std::function<void()>& function) const {
  if (size() == 1) return function();
  std::string text;
  std::exception_ptr thrown;
  try {
    function();
  } catch (const ProcessGroupError&) {
    throw;
  } catch (const ConfigError& error) {
    thrown = std::current_exception();
    text = fmt::format("C{}", error.what());
  } catch (const std::exception& error) {
    thrown = std::current_exception();
    text = fmt::format("E{}", first_line(error));
  }
  const std::vector<std::string> all = all_gather_text(*group_, text);
  if (thrown) std::rethrow_exception(thrown);
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].empty()) continue;
    const std::string why = fmt::format("rank {} cannot start: {}", rank, all[rank].substr(1));
    if (all[rank][0] == 'C') throw ConfigError(why);
    throw ProcessGroupError(why);
  }
}

void RunProcesses::check_same(const Facts& facts) const {
  if (size() == 1) return;
  for (const auto& [name, text] : facts) {
    const std::vector<std::string> all = all_gather_text(*group_, text);
    for (size_t rank = 1; rank < all.size(); ++rank) {
      if (all[rank] == all[0]) continue;
      fail<ConfigError>("the processes differ in the {}: rank {} has {}", name, rank,
                        first_difference(all[0], all[rank]));
    }
  }
}

void RunProcesses::share(const std::vector<NamedTensor>& tensors, const char* what) const {
  if (size() == 1) return;
  const at::NoGradGuard no_grad;
  for (const NamedTensor& item : tensors) {
    const at::Tensor whole = item.tensor.detach();
    const at::Tensor dense = whole.contiguous();
    group_->broadcast(dense, 0, what);
    if (!dense.is_same(whole)) whole.copy_(dense);
  }
}

void RunProcesses::add_up(const at::Tensor& numbers, const char* what) const {
  if (size() > 1) group_->all_reduce(numbers, what);
}

void RunProcesses::share_gradients(const std::vector<NamedTensor>& parameters,
                                   Value& gradients) const {
  if (size() == 1) return;
  constexpr const char* kWhat = "putting gradients into a checkpoint";
  // A process may lack some.
  const at::Tensor has = at::zeros({static_cast<int64_t>(parameters.size())});
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (gradients.find(parameters[i].name)) has[static_cast<int64_t>(i)] = 1;
  }
  group_->all_reduce(has, kWhat);
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (has[static_cast<int64_t>(i)].item<float>() == 0) continue;
    const Value* const own = gradients.find(parameters[i].name);
    const at::Tensor mean = own ? own->as_tensor().detach().contiguous().clone()
                                : at::zeros_like(parameters[i].tensor.detach().contiguous());
    mean.div_(static_cast<double>(size()));
    group_->all_reduce(mean, kWhat);
    gradients.set(parameters[i].name, mean);
  }
}

void RunProcesses::add_states(Value& random_state) const {
  const at::Tensor mine = random_state.at("cpu").as_tensor().contiguous();
  std::vector<Value> states;
  for (const at::Tensor& state : group_->all_gather(mine, "gathering random states")) {
    states.emplace_back(state);
  }
  random_state.set("ranks", Value::list(std::move(states)));
}

void RunProcesses::note(const Scalars& losses) {
  for (const auto& [name, value] : losses) {
    if (!std::isfinite(value)) invalid_.emplace(name, value);
  }
}

/// Makes the table of losses the same in all processes: which losses there are may depend on a
/// batch.
void RunProcesses::merge_names(const Scalars& mine) {
  std::set<std::string> all(names_.begin(), names_.end());
  std::string own;
  for (const auto& [name, value] : mine) own += name + "\n";
  for (const std::string& text : all_gather_text(*group_, own)) {
    for (const std::string& name : lines_of(text)) all.insert(name);
  }
  names_.assign(all.begin(), all.end());
}

RunProcesses::Step RunProcesses::agree(const Step& mine, double share) {
  if (size() == 1) return mine;
  constexpr const char* kWhat = "agreeing on an optimizer step";
  Scalars losses = mine.losses;
  for (const auto& [name, value] : invalid_) losses[name] = value;
  invalid_.clear();
  const auto is_known = [&](const std::string& name) {
    return std::binary_search(names_.begin(), names_.end(), name);
  };
  Step all;
  for (;;) {
    // Two flags; then, for each loss, the sum of its values and the share of samples that have it.
    constexpr int64_t kFlags = 3;
    const at::Tensor numbers =
        at::zeros({kFlags + 2 * static_cast<int64_t>(names_.size())}, at::kDouble);
    double* const begin = numbers.data_ptr<double>();
    begin[0] = mine.stop ? 1 : 0;
    begin[1] = mine.signal == 0 ? 0 : 1;
    begin[2] = std::all_of(losses.begin(), losses.end(),
                           [&](const auto& item) { return is_known(item.first); })
                   ? 0
                   : 1;
    double* const values = begin + kFlags;
    for (size_t i = 0; i < names_.size(); ++i) {
      const auto found = losses.find(names_[i]);
      if (found == losses.end()) continue;
      values[2 * i] = share * found->second;
      values[2 * i + 1] = share;
    }
    group_->all_reduce(numbers, kWhat);
    if (begin[2] > 0) {
      merge_names(losses);
      continue;
    }
    all.stop = begin[0] > 0;
    if (begin[1] > 0) {
      // Rare: which signal it was takes a second round.
      const at::Tensor signal = at::full({1}, mine.signal, at::kLong);
      for (const at::Tensor& item : group_->all_gather(signal, kWhat)) {
        all.signal = std::max(all.signal, item.item<int>());
      }
    }
    for (size_t i = 0; i < names_.size(); ++i) {
      if (values[2 * i + 1] > 0) all.losses[names_[i]] = values[2 * i] / values[2 * i + 1];
    }
    return all;
  }
}

MeanOfBuffers::MeanOfBuffers(const RunProcesses& processes, const ModelRef& model)
    : processes_(processes) {
  if (processes.size() == 1) return;
  for (const NamedTensor& item : model.tensors()) {
    if (item.buffer && item.tensor.is_floating_point()) {
      items_.push_back({item.tensor, item.tensor.detach().clone()});
    }
  }
}

void MeanOfBuffers::take() const {
  if (items_.empty()) return;
  const at::NoGradGuard no_grad;
  constexpr const char* kWhat = "putting statistics of layers together";
  const at::Tensor changed = at::zeros({static_cast<int64_t>(items_.size())});
  for (size_t i = 0; i < items_.size(); ++i) {
    if (!at::equal(items_[i].buffer, items_[i].before)) changed[static_cast<int64_t>(i)] = 1;
  }
  const at::Tensor count = changed.clone();
  processes_.add_up(count, kWhat);
  for (size_t i = 0; i < items_.size(); ++i) {
    const auto place = static_cast<int64_t>(i);
    const double all = count[place].item<double>();
    if (all == 0) continue;
    // A process without samples has nothing to say.
    const at::Tensor sum = items_[i].buffer.detach().contiguous().clone();
    if (changed[place].item<float>() == 0) sum.zero_();
    processes_.add_up(sum, kWhat);
    items_[i].buffer.copy_(sum.div_(all));
  }
}

}  // namespace polyak
