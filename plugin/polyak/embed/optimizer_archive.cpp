// SPDX-License-Identifier: Apache-2.0
#include "polyak/embed/optimizer_archive.h"

#include <ATen/ATen.h>
#include <c10/util/Type.h>
#include <torch/optim/lbfgs.h>
#include <torch/serialize/archive.h>
#include <torch/version.h>

#include <algorithm>
#include <memory>
#include <sstream>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

namespace polyak {
namespace {

using torch::optim::Optimizer;

torch::serialize::InputArchive archive_of(const void* bytes, size_t size) {
  torch::serialize::InputArchive archive;
  archive.load_from(static_cast<const char*>(bytes), size);
  return archive;
}

/// LBFGS also writes its scratch space, which has undefined tensors until it is full, and those
/// cannot be written. Each step fills it before reading it, so this class sets it aside for a
/// while.
class WithoutScratch {
 public:
  explicit WithoutScratch(const Optimizer& optimizer) {
    for (const auto& item : optimizer.state()) {
      auto* state = dynamic_cast<torch::optim::LBFGSParamState*>(item.second.get());
      if (!state) continue;
      items_.emplace_back(state, std::move(state->al()));
      state->al().reset();
    }
  }
  ~WithoutScratch() {
    for (auto& [state, scratch] : items_) state->al() = std::move(scratch);
  }
  WithoutScratch(const WithoutScratch&) = delete;
  WithoutScratch& operator=(const WithoutScratch&) = delete;

 private:
  using Scratch = std::decay_t<decltype(std::declval<torch::optim::LBFGSParamState>().al())>;
  std::vector<std::pair<torch::optim::LBFGSParamState*, Scratch>> items_;
};

/// Copies of an optimizer's states and options, for restoring them, if its classes are LibTorch's.
/// The program's own classes may not support copies.
class KeptOptimizer {
 public:
  explicit KeptOptimizer(Optimizer& optimizer) : optimizer_(optimizer) {
    try {
      for (const auto& item : optimizer.state()) states_[item.first] = item.second->clone();
      for (const auto& group : optimizer.param_groups()) {
        options_.push_back(group.options().clone());
      }
      whole_ = true;
    } catch (const c10::Error&) {
      whole_ = false;
    }
  }
  void put_back() {
    if (!whole_) return;
    optimizer_.state() = std::move(states_);
    for (size_t i = 0; i < options_.size(); ++i) {
      optimizer_.param_groups()[i].set_options(std::move(options_[i]));
    }
  }

 private:
  using States = std::decay_t<decltype(std::declval<Optimizer&>().state())>;
  Optimizer& optimizer_;
  States states_;
  std::vector<std::unique_ptr<torch::optim::OptimizerOptions>> options_;
  bool whole_ = false;
};

/// Adam silently reads AdamW's state, and for other optimizers LibTorch reports a missing key.
void check_type(const Optimizer& optimizer, const Value& state) {
  const Value* saved = state.find("type");
  const std::string ours = type_of(optimizer);
  if (!saved || saved->as_string() == ours) return;
  const auto is_libtorchs = [](const std::string& type) {
    return type.rfind("torch::optim::", 0) == 0;
  };
  // A program's own class may have been renamed.
  if (!is_libtorchs(ours) || !is_libtorchs(saved->as_string())) return;
  fail<CheckpointError>(
      "holds the optimizer state of {}, but the loop's optimizer is {}; pass the previous "
      "optimizer, "
      "or none to continue without its state",
      saved->as_string(), ours);
}

/// The archive identifies parameters by position: in another order, each would get another's state.
void check_parameters(const std::vector<std::string>& ours, const Value& state) {
  const Value* saved = state.find("parameters");
  if (!saved) return;  // files of 0.1 have no names
  const std::vector<Value>& theirs = saved->items();
  if (theirs.size() != ours.size()) {
    fail<CheckpointError>(
        "holds the optimizer state of {} parameters, but the loop's optimizer has {}",
        theirs.size(), ours.size());
  }
  for (size_t i = 0; i < ours.size(); ++i) {
    if (theirs[i].as_string() == ours[i]) continue;
    const auto in_quotes = [](const std::string& name) {
      return name.empty() ? "a tensor outside the model" : "'" + name + "'";
    };
    fail<CheckpointError>(
        "parameter {} of its optimizer is {}, but {} in the loop's; give the optimizer its "
        "parameters in the same order as before",
        i + 1, in_quotes(theirs[i].as_string()), in_quotes(ours[i]));
  }
}

/// LibTorch names a parameter by its address: before version 2 in hexadecimal digits, which later
/// versions read as 0, so that all parameters would get the state of one.
void check_addresses(const Value& state) {
  using Key = std::decay_t<decltype(std::declval<Optimizer&>().state())>::key_type;
  if constexpr (std::is_pointer_v<Key>) {
    const at::Tensor bytes = state.at("libtorch_archive").as_tensor().contiguous();
    std::vector<std::string> keys;
    try {
      torch::serialize::InputArchive archive =
          archive_of(bytes.data_ptr<uint8_t>(), static_cast<size_t>(bytes.numel()));
      torch::serialize::InputArchive states;
      if (archive.try_read("state", states)) keys = states.keys();
    } catch (const c10::Error&) {
      return;  // loading says what is wrong with it
    }
    const bool hexadecimal = std::any_of(
        keys.begin(), keys.end(), [](const std::string& key) { return key.rfind("0x", 0) == 0; });
    if (!hexadecimal) return;
    fail<CheckpointError>(
        "its optimizer state was saved by LibTorch 1, and LibTorch {} would give each parameter "
        "the "
        "state of another; resume once with LibTorch 1, whose next file holds it in Python's "
        "layout, or pass no optimizer to continue without the state",
        TORCH_VERSION);
  }
}

}  // namespace

std::string type_of(const Optimizer& optimizer) {
  return c10::demangle(typeid(optimizer).name());
}

Value save_archive(const Optimizer& optimizer, const std::vector<std::string>& names) {
  Value state = Value::dict();
  try {
    const WithoutScratch guard(optimizer);
    torch::serialize::OutputArchive archive;
    optimizer.save(archive);
    std::ostringstream stream;
    archive.save_to(stream);
    const std::string bytes = stream.str();
    // A user's own class that does not override save() silently writes nothing.
    if (bytes.size() < 4096 && archive_of(bytes.data(), bytes.size()).keys().empty()) {
      fail<CheckpointError>(
          "the optimizer's class does not save its state; override its save() and load(), set "
          "save_optimizer: false, or pass no optimizer");
    }
    const at::Tensor tensor = at::empty({static_cast<int64_t>(bytes.size())}, at::kByte);
    std::copy(bytes.begin(), bytes.end(), tensor.data_ptr<uint8_t>());

    std::vector<Value> rates;
    for (const auto& group : optimizer.param_groups()) rates.emplace_back(group.options().get_lr());
    state.set("type", type_of(optimizer));
    state.set("libtorch_archive", tensor);
    state.set("lr", Value::list(std::move(rates)));
  } catch (const c10::Error& error) {
    fail<CheckpointError>(
        "the optimizer's state cannot be saved: {}; set save_optimizer: false, or pass no "
        "optimizer",
        first_line(error));
  }
  state.set("parameters", Value::list({names.begin(), names.end()}));
  return state;
}

bool is_archive(const Value& state) {
  return state.is_dict() && state.contains("libtorch_archive");
}

void check_archive(const Optimizer& optimizer, const std::vector<std::string>& names,
                   const Value& state) {
  check_type(optimizer, state);
  check_parameters(names, state);
  check_addresses(state);
}

void load_archive(Optimizer& optimizer, const Value& state) {
  const at::Tensor& saved = state.at("libtorch_archive").as_tensor();
  const std::vector<Value>& rates = state.at("lr").items();
  KeptOptimizer kept(optimizer);
  try {
    const at::Tensor bytes = saved.contiguous();
    torch::serialize::InputArchive archive =
        archive_of(bytes.data_ptr<uint8_t>(), static_cast<size_t>(bytes.numel()));
    optimizer.load(archive);
    // LibTorch 1.13 leaves options as they are.
    for (size_t i = 0; i < rates.size() && i < optimizer.param_groups().size(); ++i) {
      optimizer.param_groups()[i].options().set_lr(rates[i].as_real());
    }
  } catch (const c10::Error& error) {
    kept.put_back();
    fail<CheckpointError>("its optimizer state does not fit: {}", first_line(error));
  } catch (...) {
    kept.put_back();
    throw;
  }
}

}  // namespace polyak
