#include "polyak/averaging/averaged_model.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/cuda.h>
#include <torch/serialize/archive.h>

#include <algorithm>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "polyak/core/log.h"
#include "polyak/kernels/lerp.h"

namespace polyak {
namespace {

// Small enough that two threads share a layer evenly, large enough that a chunk's call is free.
constexpr int64_t kChunkElements = 32768;

bool is_half(at::ScalarType type) {
  return type == at::kHalf || type == at::kBFloat16;
}

/// Averaged rather than copied: complex too, unlike the reference, which leaves such tensors alone.
bool is_averageable(const at::Tensor& tensor) {
  return tensor.is_floating_point() || tensor.is_complex();
}

std::optional<kernels::DType> kernel_type(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return kernels::DType::float64;
    case at::kFloat:
      return kernels::DType::float32;
    case at::kHalf:
      return kernels::DType::float16;
    case at::kBFloat16:
      return kernels::DType::bfloat16;
    default:
      return std::nullopt;
  }
}

/// avg += w * (src - avg) by LibTorch, for every tensor that our kernel does not take.
void lerp_by_aten(const at::Tensor& average, const at::Tensor& source, double weight) {
  const at::Tensor value = source.to(average.device(), average.scalar_type());
  if (weight < 0.5) {
    average.add_(value - average, weight);
  } else {
    average.copy_(value - (value - average) * (1.0 - weight));
  }
}

/// cloning runs a model's random initialisation; the program's own random numbers must not notice.
class KeepRandomState {
 public:
  KeepRandomState()
      : generator_(at::detail::getDefaultCPUGenerator()), state_(generator_.get_state()) {}
  ~KeepRandomState() { generator_.set_state(state_); }
  KeepRandomState(const KeepRandomState&) = delete;
  KeepRandomState& operator=(const KeepRandomState&) = delete;

 private:
  at::Generator generator_;
  at::Tensor state_;
};

void copy_training_flags(const torch::nn::Module& from, torch::nn::Module& to) {
  to.train(from.is_training());  // sets the children too, so parents come first
  const auto targets = to.named_children();
  for (const auto& child : from.named_children()) {
    if (const auto* target = targets.find(child.key()))
      copy_training_flags(*child.value(), **target);
  }
}

/// A tree of plain modules that carries tensors under their dotted names: stands in for a copy of a
/// model that cannot be cloned, so that names, saving and moving work all the same.
std::shared_ptr<torch::nn::Module> make_skeleton(const std::vector<NamedTensor>& tensors) {
  auto root = std::make_shared<torch::nn::Module>("AveragedTensors");
  for (const NamedTensor& item : tensors) {
    std::shared_ptr<torch::nn::Module> at = root;
    size_t begin = 0;
    for (size_t dot; (dot = item.name.find('.', begin)) != std::string::npos; begin = dot + 1) {
      const std::string child = item.name.substr(begin, dot - begin);
      const auto children = at->named_children();
      const auto* found = children.find(child);
      at = found ? *found : at->register_module(child, std::make_shared<torch::nn::Module>(child));
    }
    at::Tensor value = item.tensor.detach().clone();
    item.buffer ? at->register_buffer(item.name.substr(begin), value)
                : at->register_parameter(item.name.substr(begin), value, /*requires_grad=*/false);
  }
  return root;
}

}  // namespace

void check_device(const std::string& text) {
  std::optional<c10::Device> device;
  try {
    device = c10::Device(text);
  } catch (const c10::Error&) {
    fail<ConfigError>("device: '{}' is no device; write cpu, cuda, or cuda:0", text);
  }
  if (!device->is_cpu() && !device->is_cuda()) {
    fail<ConfigError>("device: '{}' is not supported; it must be cpu, cuda or cuda:N", text);
  }
  if (device->is_cuda() && !torch::cuda::is_available()) {
    fail<ConfigError>("device: '{}' is not available: this LibTorch or this machine has no CUDA",
                      text);
  }
  if (device->is_cuda() && device->has_index()) {
    const auto count = static_cast<int64_t>(torch::cuda::device_count());
    if (device->index() >= count) {
      fail<ConfigError>("device: '{}' is not available: this machine has {} CUDA device(s)", text,
                        count);
    }
  }
}

struct AveragedModel::Slot {
  std::string name;    // the first one, when the tensor has several
  at::Tensor source;   // the model's own tensor
  at::Tensor held;     // its counterpart in module_, in the model's dtype
  at::Tensor average;  // held itself, or its float32 form for a half precision model
  bool buffer = false;
  std::vector<at::Tensor>
      also;  // counterparts in module_ under further names; they share held's storage
};

struct AveragedModel::Plan {
  struct Seen {  // what the plan was made for; compared before each use
    const void* source;
    const void* average;
    at::ScalarType source_type;
    at::ScalarType average_type;
    int64_t size;
  };
  std::vector<Seen> seen;
  std::vector<kernels::Span> chunks;
  std::vector<size_t> by_aten;  // averaged, but not by our kernel
  std::vector<size_t> copied;   // copied at every averaging: integers
  std::vector<size_t> buffers;  // copied at every call, when update_buffers is off
};

struct SwapGuard::State {
  struct Item {
    std::string name;
    at::Tensor live;  // the model's tensor
    at::Tensor raw;   // what it held
    bool buffer;
  };
  std::vector<Item> items;

  static void exchange(const at::Tensor& live, const at::Tensor& data) {
    live.set_data(data);
    // A graph that saved the tensor before this would take gradients at weights that it never saw.
    if (!live.is_inference()) live.unsafeGetTensorImpl()->bump_version();
  }

  void restore() noexcept {
    // Backwards: of tensors that share storage, the one put in last was saved with the average in
    // it.
    for (auto item = items.rbegin(); item != items.rend(); ++item) exchange(item->live, item->raw);
    items.clear();
  }

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { restore(); }
};

SwapGuard& SwapGuard::operator=(SwapGuard&& other) noexcept {
  release();
  state_ = std::move(other.state_);
  return *this;
}

SwapGuard::~SwapGuard() {
  release();
}

void SwapGuard::release() noexcept {
  state_.reset();
}

std::string LoadReport::text() const {
  std::vector<std::string> parts;
  if (!missing.empty()) parts.push_back(fmt::format("missing: {}", fmt::join(missing, ", ")));
  if (!unexpected.empty())
    parts.push_back(fmt::format("unexpected: {}", fmt::join(unexpected, ", ")));
  if (!mismatched.empty())
    parts.push_back(fmt::format("other shape: {}", fmt::join(mismatched, ", ")));
  return fmt::format("{}", fmt::join(parts, "; "));
}

AveragedModel::AveragedModel(const Model& model, Settings settings, ModuleFactory factory)
    : torch::nn::Module("AveragedModel"),
      settings_(std::move(settings)),
      factory_(std::move(factory)) {
  steps_ = register_buffer("steps", at::zeros({}, at::kLong));
  bind(model);
}

AveragedModel::~AveragedModel() = default;

void AveragedModel::warn_if_decay(double momentum, const char* rule_name) {
  if (momentum > 0.5) {
    log_warning(
        "{}: momentum {} is the weight of the NEW value and usually small; for a decay of {} write "
        "{:.6g}",
        rule_name, momentum, momentum, 1 - momentum);
  }
}

int64_t AveragedModel::steps() const {
  return *steps_.data_ptr<int64_t>();
}

double AveragedModel::weight(int64_t k) const {
  if (k < 0) fail<Error>("{}: weight(k) counts updates from 0, got {}", rule_name(), k);
  return k == 0 ? 1.0 : rule(k);
}

void AveragedModel::avg_func(const at::Tensor& averaged, const at::Tensor& source,
                             int64_t k) const {
  torch::NoGradGuard no_grad;
  lerp_by_aten(averaged, source, rule(k));
}

// ---- binding

void AveragedModel::bind(const Model& model) {
  torch::NoGradGuard no_grad;
  const std::vector<NamedTensor> tensors = model.tensors();
  for (const NamedTensor& item : tensors) {
    if (item.tensor.layout() != at::kStrided || item.tensor.is_meta()) {
      fail<Error>("{}: is a {} tensor, which cannot be averaged; make it dense before averaging",
                  item.name, item.tensor.is_meta() ? "meta" : "sparse");
    }
  }
  if (slots_.empty()) {
    build_slots(model, tensors);
    return;
  }

  std::unordered_map<std::string, at::Tensor> by_name;
  for (const NamedTensor& item : tensors) by_name.emplace(item.name, item.tensor);
  std::vector<std::string> lost;
  std::unordered_set<const void*> distinct;
  for (const NamedTensor& item : tensors) distinct.insert(item.tensor.unsafeGetTensorImpl());
  bool same = tensors.size() == names_.size() && distinct.size() == slots_.size();
  for (const auto& [name, slot] : names_) {
    auto found = by_name.find(name);
    if (found == by_name.end()) {
      lost.push_back(name);
      continue;
    }
    if (found->second.sizes() != slots_[slot].average.sizes()) {
      fail<Error>(
          "{}: has the shape {} in the model, but its average has {}; build a new average for a "
          "model of another shape",
          name, fmt::join(found->second.sizes(), "x"),
          fmt::join(slots_[slot].average.sizes(), "x"));
    }
    same = same && found->second.is_same(by_name.at(slots_[slot].name));  // tied as before
  }
  if (!lost.empty()) {
    fail<Error>("the model {} lacks what is averaged: {}", model.class_name(),
                fmt::join(lost, ", "));
  }
  if (same) {
    for (Slot& slot : slots_) slot.source = by_name.at(slot.name);
    model_class_ = model.class_name();
    bound_to_ = model.identity();
    plan_.reset();
    return;
  }

  // Parameters were added or tied in another way: build anew and keep the averages of those that
  // stay.
  std::unordered_map<std::string, at::Tensor> averages;
  for (const auto& [name, slot] : names_) averages.emplace(name, slots_[slot].average);
  build_slots(model, tensors);
  for (Slot& slot : slots_) {
    auto kept = averages.find(slot.name);
    if (kept != averages.end()) slot.average.copy_(kept->second);
  }
}

void AveragedModel::build_slots(const Model& model, const std::vector<NamedTensor>& tensors) {
  std::optional<c10::Device> device;
  if (settings_.device) device = c10::Device(*settings_.device);

  clone_error_.clear();
  std::shared_ptr<torch::nn::Module> copy;
  if (factory_) {
    KeepRandomState keep;
    copy = factory_();
    if (!copy) fail<Error>("the module factory gave no module");
  } else if (!model.nn_module()) {
    clone_error_ = "it is a TorchScript module";
  } else {
    KeepRandomState keep;
    try {
      copy = device ? model.nn_module()->clone(*device) : model.nn_module()->clone();
    } catch (const std::exception& error) {
      clone_error_ = first_line(error);
    }
  }
  if (!copy) copy = make_skeleton(tensors);
  if (device) copy->to(*device);
  if (model.nn_module()) copy_training_flags(*model.nn_module(), *copy);

  std::unordered_map<std::string, at::Tensor> held;
  for (const NamedTensor& item : Model(copy).tensors()) held.emplace(item.name, item.tensor);

  std::vector<Slot> slots;
  std::vector<std::pair<std::string, size_t>> names;
  std::unordered_map<const void*, size_t> slot_of;
  for (const NamedTensor& item : tensors) {
    auto counterpart = held.find(item.name);
    if (counterpart == held.end()) {
      fail<Error>(
          "the copy of {} lacks {}; its factory, or its reset(), must register the same tensors",
          model.class_name(), item.name);
    }
    const auto [known, is_new] = slot_of.emplace(item.tensor.unsafeGetTensorImpl(), slots.size());
    names.emplace_back(item.name, known->second);
    if (is_new) {
      at::Tensor mine = counterpart->second;
      mine.set_requires_grad(false);
      // A clone has the constructor's dtype where the model was cast since.
      const c10::Device place = device ? *device : item.tensor.device();
      mine.set_data(item.tensor.detach().to(place).clone());
      slots.push_back({item.name, item.tensor, mine, mine, item.buffer, {}});
    } else {
      counterpart->second.set_requires_grad(false);
      counterpart->second.set_data(
          slots[known->second].held.variable_data());  // tied here as there
      slots[known->second].also.push_back(counterpart->second);
    }
  }

  module_ ? replace_module("module", copy) : register_module("module", copy);
  module_ = copy;
  slots_ = std::move(slots);
  names_ = std::move(names);
  model_class_ = model.class_name();
  bound_to_ = model.identity();
  settle_precision();
}

void AveragedModel::settle_precision() {
  for (Slot& slot : slots_) {
    const bool averaged = !slot.buffer || settings_.update_buffers;
    const bool apart = !slot.average.is_same(slot.held);
    if (averaged && is_half(slot.held.scalar_type())) {
      if (!apart || slot.average.device() != slot.held.device()) {
        slot.average =
            slot.average.detach().to(slot.held.device(), at::kFloat, false, /*copy=*/!apart);
      }
    } else if (apart) {  // the copy was cast to full precision: the average moves in
      slot.held.copy_(slot.average);
      slot.average = slot.held;
    }
  }
  plan_.reset();
}

void AveragedModel::refresh_module() const {
  torch::NoGradGuard no_grad;
  for (const Slot& slot : slots_) {
    if (!slot.average.is_same(slot.held)) slot.held.copy_(slot.average);
  }
}

// ---- updating

bool AveragedModel::plan_is_current() const {
  if (!plan_) return false;
  for (size_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[i];
    const Plan::Seen& seen = plan_->seen[i];
    const c10::TensorImpl* source = slot.source.unsafeGetTensorImpl();
    const c10::TensorImpl* average = slot.average.unsafeGetTensorImpl();
    if (source->data() != seen.source || average->data() != seen.average ||
        source->numel() != seen.size || slot.source.scalar_type() != seen.source_type ||
        slot.average.scalar_type() != seen.average_type) {
      return false;
    }
  }
  return true;
}

void AveragedModel::make_plan() {
  settle_precision();
  auto plan = std::make_unique<Plan>();
  std::vector<kernels::Span> spans;
  for (size_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[i];
    plan->seen.push_back({slot.source.unsafeGetTensorImpl()->data(),
                          slot.average.unsafeGetTensorImpl()->data(), slot.source.scalar_type(),
                          slot.average.scalar_type(), slot.source.numel()});
    if (slot.buffer && !settings_.update_buffers) {
      plan->buffers.push_back(i);
      continue;
    }
    if (!is_averageable(slot.average)) {
      plan->copied.push_back(i);
      continue;
    }
    const auto average_type = kernel_type(slot.average.scalar_type());
    const auto source_type = kernel_type(slot.source.scalar_type());
    const bool same_order = slot.source.sizes() == slot.average.sizes() &&
                            ((slot.source.is_contiguous() && slot.average.is_contiguous()) ||
                             (slot.source.strides() == slot.average.strides() &&
                              slot.source.is_non_overlapping_and_dense()));
    if (average_type && source_type && same_order && slot.source.is_cpu() &&
        slot.average.is_cpu() && kernels::supports_average(*average_type)) {
      spans.push_back({slot.average.data_ptr(), slot.source.data_ptr(), slot.source.numel(),
                       *average_type, *source_type, nullptr});
    } else {
      plan->by_aten.push_back(i);
    }
  }
  plan->chunks = kernels::cut(spans, kChunkElements);
  plan_ = std::move(plan);
}

void AveragedModel::average(double weight) {
  const std::vector<kernels::Span>& chunks = plan_->chunks;
  at::parallel_for(0, static_cast<int64_t>(chunks.size()), 1, [&](int64_t begin, int64_t end) {
    kernels::lerp(chunks.data() + begin, static_cast<size_t>(end - begin), weight);
  });
  for (size_t i : plan_->by_aten) lerp_by_aten(slots_[i].average, slots_[i].source, weight);
  for (size_t i : plan_->copied) slots_[i].average.copy_(slots_[i].source);
}

void AveragedModel::update_parameters(const Model& model) {
  if (is_swapped()) {
    fail<Error>(
        "update_parameters: the averaged weights are in the model; let the guard of swap() go "
        "first");
  }
  torch::NoGradGuard no_grad;
  if (model.identity() != bound_to_) bind(model);
  if (!plan_is_current()) make_plan();

  const int64_t k = steps();
  if (k == 0) {
    for (const Slot& slot : slots_) slot.average.copy_(slot.source);
  } else {
    if (k % settings_.interval == 0) average(weight(k));
    for (size_t i : plan_->buffers) slots_[i].average.copy_(slots_[i].source);
  }
  *steps_.data_ptr<int64_t>() = k + 1;
}

// ---- swap and state

SwapGuard AveragedModel::swap(const Model& model) {
  if (is_swapped() || steps() == 0) return {};
  torch::NoGradGuard no_grad;
  bind(model);
  refresh_module();
  auto state = std::make_shared<SwapGuard::State>();
  state->items.reserve(slots_.size());
  for (const Slot& slot : slots_) {
    const at::Tensor data = slot.held.to(slot.source.device(), slot.source.scalar_type());
    state->items.push_back({slot.name, slot.source, slot.source.variable_data(), slot.buffer});
    SwapGuard::State::exchange(slot.source, data.variable_data());
  }
  swap_ = state;
  return SwapGuard(state);
}

bool AveragedModel::is_swapped() const {
  return !swap_.expired();
}

std::vector<NamedTensor> AveragedModel::swapped_out() const {
  std::vector<NamedTensor> raw;
  const auto state = swap_.lock();
  if (!state) return raw;
  for (const auto& [name, slot] : names_) {
    raw.push_back({name, state->items[slot].raw, slots_[slot].buffer});
  }
  return raw;
}

torch::OrderedDict<std::string, at::Tensor> AveragedModel::named_averages() const {
  torch::OrderedDict<std::string, at::Tensor> averages("name");
  for (const auto& [name, slot] : names_) averages.insert(name, slots_[slot].average);
  return averages;
}

std::vector<NamedTensor> AveragedModel::state() {
  refresh_module();
  std::vector<NamedTensor> state;
  for (const auto& [name, slot] : names_)
    state.push_back({name, slots_[slot].held, slots_[slot].buffer});
  return state;
}

LoadReport AveragedModel::load_state(const std::vector<NamedTensor>& values, int64_t steps) {
  torch::NoGradGuard no_grad;
  LoadReport report;
  std::set<std::string> given;
  std::unordered_map<std::string, size_t> slot_of(names_.begin(), names_.end());
  for (const NamedTensor& value : values) {
    given.insert(value.name);
    auto found = slot_of.find(value.name);
    if (found == slot_of.end()) {
      report.unexpected.push_back(value.name);
      continue;
    }
    const at::Tensor& average = slots_[found->second].average;
    if (average.sizes() != value.tensor.sizes()) {
      report.mismatched.push_back(fmt::format("{} [{}] instead of [{}]", value.name,
                                              fmt::join(value.tensor.sizes(), ", "),
                                              fmt::join(average.sizes(), ", ")));
      continue;
    }
    average.copy_(value.tensor);
  }
  for (const auto& [name, slot] : names_) {
    if (!given.count(name)) report.missing.push_back(name);
  }
  *steps_.data_ptr<int64_t>() = steps;
  refresh_module();
  return report;
}

void AveragedModel::reset(const Model& model) {
  if (is_swapped()) fail<Error>("reset: let the guard of swap() go first");
  torch::NoGradGuard no_grad;
  bind(model);
  for (const Slot& slot : slots_) slot.average.copy_(slot.source);
  *steps_.data_ptr<int64_t>() = 0;
}

void AveragedModel::copy_to(const Model& model) {
  if (is_swapped()) fail<Error>("copy_to: let the guard of swap() go first");
  torch::NoGradGuard no_grad;
  bind(model);
  for (const Slot& slot : slots_) slot.source.copy_(slot.average);
}

void AveragedModel::rebind(const Model& model) {
  if (is_swapped()) fail<Error>("rebind: let the guard of swap() go first");
  bind(model);
}

// ---- the module's duties

std::shared_ptr<torch::nn::Module> AveragedModel::module() {
  if (!clone_error_.empty()) {
    fail<Error>(
        "{} has no averaged copy to run: it cannot be cloned ({}). Derive it from "
        "torch::nn::Cloneable and register everything in reset(), or pass a factory that makes an "
        "empty one; averaging, swap() and saving work without",
        model_class_, clone_error_);
  }
  refresh_module();
  return module_;
}

void AveragedModel::throw_wrong_module() const {
  fail<Error>("module<Net>(): the averaged module is a {}, not what was asked for",
              module_->name());
}

void AveragedModel::to(torch::Device device, torch::Dtype dtype, bool non_blocking) {
  move([&](const at::Tensor& tensor) {
    return tensor.to(device, is_averageable(tensor) ? dtype : tensor.scalar_type(), non_blocking);
  });
}

void AveragedModel::to(torch::Dtype dtype, bool non_blocking) {
  move([&](const at::Tensor& tensor) {
    return is_averageable(tensor) ? tensor.to(dtype, non_blocking) : tensor;
  });
}

void AveragedModel::to(torch::Device device, bool non_blocking) {
  move([&](const at::Tensor& tensor) { return tensor.to(device, non_blocking); });
}

/// Unlike torch::nn::Module::to it leaves integers integers, tied tensors tied, and steps where it
/// is.
void AveragedModel::move(const std::function<at::Tensor(const at::Tensor&)>& moved) {
  torch::NoGradGuard no_grad;
  for (Slot& slot : slots_) {
    const bool apart = !slot.average.is_same(slot.held);
    const at::Tensor before = slot.held.variable_data();
    slot.held.set_data(moved(slot.held));
    for (const at::Tensor& other : slot.also) other.set_data(slot.held.variable_data());
    const bool averaged = !slot.buffer || settings_.update_buffers;
    if (!apart && averaged && is_half(slot.held.scalar_type())) {
      slot.average =
          before.to(slot.held.device(), at::kFloat, false, /*copy=*/true);  // still exact
    }
  }
  settle_precision();
}

void AveragedModel::load(torch::serialize::InputArchive& archive) {
  torch::nn::Module::load(archive);
  torch::NoGradGuard no_grad;
  for (const Slot& slot : slots_) {
    if (!slot.average.is_same(slot.held)) slot.average.copy_(slot.held);
  }
}

void AveragedModel::save(torch::serialize::OutputArchive& archive) const {
  refresh_module();
  torch::nn::Module::save(archive);
}

}  // namespace polyak
