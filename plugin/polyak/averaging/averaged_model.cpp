// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/averaged_model.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/ranges.h>
#include <sys/mman.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/serialize/archive.h>

#include <algorithm>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "polyak/averaging/background.h"
#include "polyak/averaging/by_aten.h"
#include "polyak/averaging/list_watch.h"
#include "polyak/averaging/plan.h"
#include "polyak/averaging/slot.h"
#include "polyak/averaging/swap_state.h"
#include "polyak/core/log.h"

namespace polyak {
namespace {

bool is_half(at::ScalarType type) {
  return type == at::kHalf || type == at::kBFloat16;
}

constexpr int64_t kLine = 64;  // of the caches, and what vectors like to be aligned to

/// Bytes that nobody has written yet. Where they fill a huge page, Linux is asked for such.
at::Tensor room_in_huge_pages(int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr int64_t kHugePage = 2 << 20;
  if (bytes >= kHugePage) {
    const at::Tensor room = at::empty({bytes + kHugePage}, at::kByte);
    const auto start = reinterpret_cast<uintptr_t>(room.data_ptr());
    const auto skipped = static_cast<int64_t>((kHugePage - start % kHugePage) % kHugePage);
    at::Tensor aligned = room.narrow(0, skipped, bytes);
    // Only advice: where it is not taken, memory is as it always was.
    ::madvise(aligned.data_ptr(), static_cast<size_t>(bytes), MADV_HUGEPAGE);
    return aligned;
  }
#endif
  return at::empty({bytes}, at::kByte);
}

/// How many bytes to leave free at this offset of a page, so that a large average comes to its new
/// pages when its source does. Averages that did not took 1 to 3 % longer on an EPYC.
int64_t gap_before(const Slot& slot, int64_t offset) {
  constexpr int64_t kLarge = 16 * kernels::kPage;
  const at::Tensor& source = slot.source;
  if (!source.is_cpu() || !source.has_storage()) return 0;
  if (static_cast<int64_t>(slot.average.nbytes()) < kLarge) return 0;
  const auto source_offset =
      static_cast<int64_t>(reinterpret_cast<uintptr_t>(source.data_ptr()) % kernels::kPage);
  const int64_t wanted = source_offset / source.element_size() * slot.average.element_size();
  const int64_t gap = (wanted - offset) % kernels::kPage;
  return (gap < 0 ? gap + kernels::kPage : gap) / kLine * kLine;
}

/// The largest part of a number that rounding its average may take away.
double rounding_of(at::ScalarType type, bool compensated) {
  switch (type) {
    case at::kHalf:
      return 0x1p-11;
    case at::kBFloat16:
      return 0x1p-8;
    case at::kFloat:
      return compensated ? 0x1p-40 : 0x1p-24;
    default:
      return 0x1p-53;
  }
}

// An update of a value that differs from its source by less than this part of its size must not
// vanish.
constexpr double kStall = 0.05;

void warn_of_stall(const std::string& rule, double weight, at::ScalarType type, bool compensated) {
  const double stuck = rounding_of(type, compensated) / weight;
  const bool half = is_half(type);
  log_warning(
      "{}: with the weight {:.3g} an average in {} hardly moves: values within {:.2g} % of the "
      "model's stay where they are, since an update smaller than half a unit in the last place is "
      "rounded away; use {} or a larger momentum",
      rule, weight, at::toString(type), 100 * stuck,
      half                                 ? "a float32 average"
      : compensated || type == at::kDouble ? "fewer updates (interval)"
                                           : "precision: compensated");
}

// Parts of a model that are trained by turns have no gradient for a few steps.
constexpr int64_t kStepsOfSilence = 32;

void check_shape(const std::string& name, const at::Tensor& source, const at::Tensor& average) {
  if (source.sizes() == average.sizes()) return;
  fail<Error>(
      "{}: has the shape {} in the model, but its average has {}; build a new average for a "
      "model of another shape",
      name, fmt::join(source.sizes(), "x"), fmt::join(average.sizes(), "x"));
}

/// Whether both are real, complex or whole numbers.
bool same_kind(const at::Tensor& a, const at::Tensor& b) {
  return a.is_floating_point() == b.is_floating_point() && a.is_complex() == b.is_complex();
}

/// The average with all that is kept of it.
at::Tensor value_of(const Slot& slot) {
  return slot.lost.defined() && slot.average.scalar_type() == at::kFloat
             ? widen_compensated(slot.average, slot.lost.to(slot.average.device()))
             : slot.average.detach();
}

/// Puts `data` in the place of what the averaged module holds; the average keeps its value.
void set_held(Slot& slot, const at::Tensor& data) {
  if (slot.average.is_same(slot.held)) slot.average = slot.held.variable_data();  // uncast so far
  slot.held.set_data(data);
  for (const at::Tensor& other : slot.also) other.set_data(slot.held.variable_data());
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

/// A tensor of an archive by its dotted name, as it stands there.
at::Tensor read_tensor(torch::serialize::InputArchive& archive, const std::string& name) {
  const size_t dot = name.find('.');
  if (dot == std::string::npos) {
    at::Tensor tensor;
    archive.read(name, tensor);
    return tensor;
  }
  torch::serialize::InputArchive child;
  archive.read(name.substr(0, dot), child);
  return read_tensor(child, name.substr(dot + 1));
}

}  // namespace

std::string LoadReport::text() const {
  std::vector<std::string> parts;
  if (!missing.empty()) parts.push_back(fmt::format("missing: {}", fmt::join(missing, ", ")));
  if (!unexpected.empty())
    parts.push_back(fmt::format("unexpected: {}", fmt::join(unexpected, ", ")));
  if (!mismatched.empty())
    parts.push_back(fmt::format("other shape or numbers: {}", fmt::join(mismatched, ", ")));
  return fmt::format("{}", fmt::join(parts, "; "));
}

/// The tables that graphs read which captured updates, and the plan that they were made from.
struct AveragedModel::Captured {
  std::vector<Plan::Place> places;
  std::weak_ptr<const Plan> plan;
};

AveragedModel::AveragedModel(const Model& model, Settings settings, ModuleFactory factory)
    : torch::nn::Module("AveragedModel"),
      settings_(std::move(settings)),
      factory_(std::move(factory)) {
  steps_ = register_buffer("steps", at::zeros({}, at::kLong));
  steps_at_ = steps_.data_ptr();
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
  const double weight = rule(k);
  if (!half_checked_ && is_half(averaged.scalar_type())) {
    half_checked_ = true;
    if (weight > 0 && rounding_of(averaged.scalar_type(), false) / weight >= kStall) {
      warn_of_stall(rule_name(), weight, averaged.scalar_type(), false);
    }
  }
  lerp_by_aten(averaged, source, weight);
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
    check_shape(name, found->second, slots_[slot].average);
    check_kind(slots_[slot], found->second);
    same = same && found->second.is_same(by_name.at(slots_[slot].name));  // tied as before
  }
  if (!lost.empty()) {
    fail<Error>("the model {} lacks what is averaged: {}", model.class_name(),
                fmt::join(lost, ", "));
  }
  if (same) {
    for (Slot& slot : slots_) {
      const at::Tensor& source = by_name.at(slot.name);
      if (slot.source.is_same(source)) continue;
      slot.source = source;
      plan_.reset();
    }
    bind_to(model);
    follow_model();
    return;
  }

  // Parameters were added or tied in another way: build anew and keep the averages of those that
  // stay.
  std::unordered_map<std::string, Slot> before;
  for (const auto& [name, slot] : names_) before.emplace(name, slots_[slot]);
  build_slots(model, tensors);
  for (Slot& slot : slots_) {
    auto kept = before.find(slot.name);
    if (kept == before.end()) continue;
    const Slot& had = kept->second;
    const bool same_dtype = slot.average.scalar_type() == had.average.scalar_type();
    if (slot.lost.defined() && had.lost.defined() && same_dtype) slot.lost.copy_(had.lost);
    slot.average.copy_(same_dtype ? had.average : value_of(had));
  }
}

/// Whether what the slot's average holds can go on as numbers of the source's kind.
bool AveragedModel::could_follow(const Slot& slot, const at::Tensor& source) const {
  // LibTorch casts a module's whole numbers too. They are copied, as are buffers.
  const bool copied = (slot.buffer && !settings_.update_buffers) || !is_averageable(slot.average);
  return copied || same_kind(source, slot.average);
}

void AveragedModel::check_kind(const Slot& slot, const at::Tensor& source) const {
  if (could_follow(slot, source)) return;
  fail<Error>(
      "{}: is {} in the model, but its average is {}; build a new average for a model of other "
      "numbers",
      slot.name, at::toString(source.scalar_type()), at::toString(slot.average.scalar_type()));
}

/// What comes before anything reads or writes the averages.
void AveragedModel::catch_up() const {
  finish();
  take_in_what_was_loaded();
  follow_model();
}

/// Gives the averaged module the model's dtypes and devices where those changed.
void AveragedModel::follow_model() const {
  // While an average is swapped in, the tensors of the model, or our own, are not what they were.
  if (is_swapped() || steps_.data_ptr() != steps_at_) return;
  torch::NoGradGuard no_grad;
  bool followed = false;
  for (Slot& slot : slots_) {
    const at::ScalarType dtype = slot.source.scalar_type();
    const c10::Device device = slot.source.device();
    const bool cast = dtype != slot.followed_dtype;
    const bool moved = device != slot.followed_device && !settings_.device;
    if ((!cast && !moved) || !could_follow(slot, slot.source)) continue;
    set_held(slot, slot.held.to(moved ? device : slot.held.device(),
                                cast ? dtype : slot.held.scalar_type()));
    slot.followed_dtype = dtype;
    slot.followed_device = device;
    followed = true;
  }
  if (!followed) return;
  settle_precision();
  gather_averages();
}

void AveragedModel::bind_to(const Model& model) {
  model_class_ = model.class_name();
  bound_to_ = model.identity();
  tree_ = model.nn_module() ? ModuleTree(*model.nn_module())
          : model.script()  ? ModuleTree(*model.script())
                            : ModuleTree();
  list_watch_ = model.is_list() ? std::make_unique<ListWatch>(model.list_->averages) : nullptr;
}

void AveragedModel::build_slots(const Model& model, const std::vector<NamedTensor>& tensors) {
  const std::optional<c10::Device>& device = settings_.device;

  clone_error_.clear();
  std::shared_ptr<torch::nn::Module> copy;
  if (factory_) {
    KeepRandomState keep;
    copy = factory_();
    if (!copy) fail<Error>("the module factory gave no module");
  } else if (!model.nn_module()) {
    clone_error_ = model.is_list() ? "it is a list of tensors" : "it is a TorchScript module";
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
      slots.push_back({item.name,
                       item.tensor,
                       mine,
                       mine,
                       {},
                       item.buffer,
                       {},
                       item.tensor.scalar_type(),
                       item.tensor.device()});
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
  bind_to(model);
  settle_precision();
  gather_averages();
}

/// Lays averages side by side, in the order in which updates go through them, and in huge pages
/// where there are any: alone, each small one would be a place in memory that the CPU does not
/// foresee, and a large one a new page every 4 KiB. Each keeps a storage of its own.
void AveragedModel::gather_averages() const {
  const auto can_move = [](const at::Tensor& tensor) {
    return tensor.is_cpu() && tensor.numel() > 0 && tensor.is_non_overlapping_and_dense();
  };
  const auto room_for = [](const at::Tensor& tensor) {
    return (static_cast<int64_t>(tensor.nbytes()) + kLine - 1) / kLine * kLine;
  };
  std::vector<int64_t> places;
  int64_t bytes = 0;
  for (const Slot& slot : slots_) {
    if (can_move(slot.average)) bytes += gap_before(slot, bytes);
    places.push_back(bytes);
    if (can_move(slot.average)) bytes += room_for(slot.average);
  }
  const at::Tensor memory = room_in_huge_pages(bytes);
  for (size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    at::Tensor& average = slot.average;
    if (!can_move(average)) continue;
    const at::Tensor there = at::from_blob(
        static_cast<char*>(memory.data_ptr()) + places[i], average.sizes(), average.strides(),
        [memory](void*) { /* held for as long as it is used */ }, average.options());
    there.copy_(average);
    average.set_data(there);
    if (!average.is_same(slot.held)) continue;
    for (at::Tensor& tied : slot.also) tied.set_data(there);
  }
}

void AveragedModel::settle_precision() const {
  for (Slot& slot : slots_) settle_precision(slot);
  plan_.reset();
}

/// Gives the average the dtype that it should have beside `held`, on held's device, with the value
/// that it has.
void AveragedModel::settle_precision(Slot& slot) const {
  const bool averaged = (!slot.buffer || settings_.update_buffers) && slot.held.is_floating_point();
  const at::ScalarType dtype = slot.held.scalar_type();
  const at::ScalarType wanted = !averaged                                   ? dtype
                                : settings_.precision == Precision::float64 ? at::kDouble
                                : is_half(dtype)                            ? at::kFloat
                                                                            : dtype;
  const bool apart = wanted != dtype;
  const bool compensated =
      averaged && settings_.precision == Precision::compensated && wanted == at::kFloat;
  if (slot.average.is_same(slot.held) != apart && slot.average.scalar_type() == wanted &&
      slot.average.device() == slot.held.device() && slot.lost.defined() == compensated &&
      (!compensated || slot.lost.device() == slot.held.device())) {
    return;
  }
  const at::Tensor value = value_of(slot);
  if (apart) {
    slot.average = value.to(slot.held.device(), wanted, false, /*copy=*/true);
  } else {
    if (!slot.average.is_same(slot.held)) slot.held.copy_(value);
    slot.average = slot.held;
  }
  slot.lost = compensated ? at::zeros_like(slot.average, at::kShort) : at::Tensor();
  if (compensated && value.scalar_type() == at::kDouble) {
    narrow_compensated(value.to(slot.average.device()), slot.average, slot.lost);
  }
}

void AveragedModel::count(int64_t steps) {
  counted_ = steps;
  *steps_.data_ptr<int64_t>() = steps;
}

/// Who copies a state dict into the tensors of a model that has this for a child knows nothing of
/// averages that are kept apart: another count of steps tells of it. One that stands elsewhere in
/// memory tells that an average of the whole model is swapped in, with tensors of its own.
void AveragedModel::take_in_what_was_loaded() const {
  if (steps_.data_ptr() == steps_at_ && steps() != counted_) take_module_in();
}

void AveragedModel::take_module_in() const {
  torch::NoGradGuard no_grad;
  for (const Slot& slot : slots_) {
    if (!slot.average.is_same(slot.held)) slot.average.copy_(slot.held);
    if (slot.lost.defined()) slot.lost.zero_();
  }
  steps_at_ = steps_.data_ptr();
  counted_ = steps();
}

void AveragedModel::refresh_module() const {
  catch_up();
  if (steps_.data_ptr() != steps_at_) return;  // an average of the whole is swapped in
  torch::NoGradGuard no_grad;
  for (const Slot& slot : slots_) {
    if (!slot.average.is_same(slot.held)) slot.held.copy_(slot.average);
  }
}

// ---- updating

/// Waits for an update that is made in the background.
void AveragedModel::finish() const {
  if (background_) background_->wait();
}

void AveragedModel::fence() {
  if (plan_ && plan_->offload()) plan_->offload()->fence();
}

void AveragedModel::prepare_replay() {
  catch_up();
  if (!captured_) {
    fail<Error>("prepare_replay: no CUDA graph has captured an update of this average{}",
                DeviceTables::has_kernel(c10::kCUDA) ? "" : "; this build has no CUDA kernel");
  }
  if (!plan_ || captured_->plan.lock() != plan_ || !plan_->is_current()) {
    fail<Error>(
        "prepare_replay: the tensors of the model or the average were moved since the graph was "
        "captured; capture it anew");
  }
  const int64_t k = steps();
  const bool averages = k % settings_.interval == 0;
  // Which graph is replayed is not known.
  for (const Plan::Place& place : captured_->places) {
    place.tables->set_turns(
        place.row, kernels::CudaTurn{averages ? weight(k) : 0.0, averages, /*copies=*/true});
  }
  count(k + 1);
}

/// After an update was captured.
void AveragedModel::keep_for_replays() {
  if (!captured_ || captured_->plan.lock() != plan_) {
    captured_.reset(new Captured{{}, plan_});
  }
  const Plan::Place& place = plan_->place();
  const bool known =
      std::any_of(captured_->places.begin(), captured_->places.end(),
                  [&](const Plan::Place& other) { return other.tables == place.tables; });
  if (place.tables && !known) captured_->places.push_back(place);
}

/// Sees to it that the plan fits the model as it is now.
void AveragedModel::prepare(const Model& model) {
  finish();
  if (steps() != counted_) take_module_in();
  steps_at_ = steps_.data_ptr();
  if (is_swapped()) {
    fail<Error>(
        "update_parameters: the averaged weights are in the model; let the guard of swap() go "
        "first");
  }
  if (model.identity() != bound_to_ || !tree_.is_current()) bind(model);
  if (!plan_ || !plan_->is_current()) {
    for (const Slot& slot : slots_) {
      check_shape(slot.name, slot.source, slot.average);
      check_kind(slot, slot.source);
    }
    follow_model();
    settle_precision();
    plan_ = std::make_shared<Plan>(slots_, settings_.update_buffers, settings_.skip_nonfinite);
  }
}

void AveragedModel::check_capture() const {
  if (!plan_->is_captured_now()) return;
  if (steps() == 0) {
    fail<Error>(
        "update_parameters: the first update copies and cannot be part of a CUDA graph; call it "
        "once before the capture");
  }
  if (settings_.skip_nonfinite) {
    fail<Error>(
        "update_parameters: skip_nonfinite waits for the GPU, which a CUDA graph cannot; turn it "
        "off");
  }
  if (!plan_->can_be_captured(settings_.interval == 1)) {
    fail<Error>(
        "update_parameters: a CUDA graph takes an update only where model and average are on GPUs, "
        "dense and real{}",
        settings_.interval == 1 ? "" : ", and with update_buffers without integer buffers");
  }
}

void AveragedModel::copy_model() {
  for (const Slot& slot : slots_) {
    slot.average.copy_(slot.source);
    if (slot.lost.defined()) slot.lost.zero_();
  }
}

void AveragedModel::count_skipped() {
  ++skipped_;
  if ((skipped_ & (skipped_ - 1)) == 0) {  // 1, 2, 4, 8, ...: a run that went bad says so, briefly
    const auto bad = std::find_if(slots_.begin(), slots_.end(), [&](const Slot& slot) {
      return (!slot.buffer || settings_.update_buffers) && is_averageable(slot.source) &&
             !are_finite_by_aten({slot.source});
    });
    log_warning(
        "{}: {} holds a NaN or an infinity; the average stays as it was ({} update(s) skipped so "
        "far, {} made)",
        rule_name(), bad == slots_.end() ? "the model" : bad->name, skipped_, steps());
  }
}

void AveragedModel::warn_if_stalled() {
  if (stall_checked_) return;
  stall_checked_ = true;
  const double weight = lasting_weight();
  for (const Slot& slot : slots_) {
    if (!slot.average.is_floating_point() || (slot.buffer && !settings_.update_buffers)) continue;
    const at::ScalarType type = slot.average.scalar_type();
    if (weight > 0 && rounding_of(type, slot.lost.defined()) / weight >= kStall) {
      return warn_of_stall(rule_name(), weight, type, slot.lost.defined());
    }
  }
}

/// Once, by name: an average of what nothing trains any more says nothing about the model.
void AveragedModel::warn_of_orphans(bool look_at_gradients) {
  if (!list_watch_ || orphans_told_) return;
  std::vector<std::string> names = list_watch_->held_by_nobody_else(slots_);
  const bool held = names.empty();
  if (look_at_gradients) {
    const std::vector<std::string> more = list_watch_->without_new_gradient(slots_);
    if (names.empty() && steps() >= kStepsOfSilence) names = more;
  }
  if (names.empty()) return;
  orphans_told_ = true;
  log_warning(
      "{}: {} of the list of tensors {}: where the optimizer got another tensor in the place of "
      "one, make a new Model of the list and a new average, which load_state() gives what the old "
      "one had",
      rule_name(), fmt::join(names, ", "),
      held ? fmt::format("got no new gradient in {} updates, while others did", steps() / 2)
           : "is held by nobody else, so nothing trains it any more");
}

void AveragedModel::update_parameters(const Model& model) {
  AveragedModel* self = this;
  update_together(self, model);
}

void update_together(c10::ArrayRef<AveragedModel*> averages, const Model& model) {
  torch::NoGradGuard no_grad;
  for (size_t i = 0; i < averages.size(); ++i) {
    if (!averages[i]) fail<Error>("update_together: average {} is a null pointer", i);
    for (size_t j = 0; j < i; ++j) {
      if (averages[i] == averages[j]) {
        fail<Error>("update_together: average {} is given twice, as {} and {}",
                    averages[i]->rule_name(), j, i);
      }
    }
    averages[i]->prepare(model);
    averages[i]->check_capture();
  }

  // All that may throw for an average's own reasons comes before anything changed.
  struct Turn {
    AveragedModel* average;
    double weight;
    bool averages;
    bool skipped;
  };
  c10::SmallVector<Turn, 8> turns;
  std::optional<bool> finite[2];  // asked once for all that average the same tensors
  for (AveragedModel* average : averages) {
    bool skipped = false;
    if (average->settings_.skip_nonfinite) {
      std::optional<bool>& known = finite[average->settings_.update_buffers ? 1 : 0];
      if (!known) known = average->plan_->model_is_finite(average->slots_);
      skipped = !*known;
      if (skipped) average->count_skipped();
    }
    const int64_t k = average->steps();
    const bool averages_now = !skipped && k > 0 && k % average->settings_.interval == 0;
    turns.push_back({average, averages_now ? average->weight(k) : 0.0, averages_now, skipped});
  }
  // Those that do nothing this time are here too, since GPUs need other tables for other averages.
  c10::SmallVector<Plan::Share, 8> shares;
  for (const Turn& turn : turns) {
    const AveragedModel& average = *turn.average;
    const Plan::Share share{average.plan_.get(), &average.slots_, turn.weight,
                            turn.averages || average.plan_->is_captured_now(),
                            !turn.skipped && average.steps() > 0};
    average.plan_->offload() ? Plan::place_on_gpus(share) : shares.push_back(share);
  }
  Plan::place_on_gpus(shares);

  for (const Turn& turn : turns) {
    if (turn.skipped) continue;
    if (turn.average->steps() == 0) {
      turn.average->copy_model();
    } else if (turn.average->plan_->offload()) {
      turn.average->average_in_background(turn.weight, turn.averages);
    }
    if (turn.averages) turn.average->warn_if_stalled();
    const int64_t k = turn.average->steps();
    if ((k & (k - 1)) == 0) turn.average->warn_of_orphans(/*look_at_gradients=*/true);
  }
  Plan::update(shares);
  for (const Turn& turn : turns) {
    if (turn.skipped) continue;
    if (turn.average->plan_->is_captured_now()) {
      turn.average->keep_for_replays();
    } else {
      turn.average->count(turn.average->steps() + 1);
    }
  }
}

/// An update of an average on the CPU by a model on a GPU: `averages`, or just copies buffers.
void AveragedModel::average_in_background(double weight, bool averages) {
  Offload& offload = *plan_->offload();
  offload.copy(/*parameters=*/averages);
  if (!defer_fence_) offload.fence();
  if (!background_) background_ = std::make_unique<Background>();
  background_->start([this, weight, averages] {
    plan_->offload()->wait();
    if (averages) {
      Plan::run_kernels(Plan::Share{plan_.get(), &slots_, weight, averages, /*copies=*/false});
    }
    plan_->copy_arrived_buffers();
  });
  Plan::run_on_gpus(Plan::Share{plan_.get(), &slots_, weight, averages, /*copies=*/true});
  if (averages) plan_->run_aten(slots_, weight);
  plan_->copy_other_buffers(slots_);
}

// ---- swap and state

SwapGuard AveragedModel::swap(const Model& model, SwapMode mode) {
  catch_up();
  if (is_swapped() || steps() == 0) return {};
  torch::NoGradGuard no_grad;
  bind(model);
  if (model.is_list()) mode = SwapMode::copy;
  warn_of_orphans(/*look_at_gradients=*/false);
  if (mode == SwapMode::copy) check_writable("swap: SwapMode::copy cannot write", "exchange");
  refresh_module();
  auto state = std::make_shared<SwapState>(mode);
  state->items.reserve(slots_.size());
  for (const Slot& slot : slots_) state->keep(slot.source);
  for (size_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[i];
    const at::Tensor data = slot.held.to(slot.source.device(), slot.source.scalar_type());
    state->put(i, data.variable_data());
  }
  swap_ = state;
  return SwapGuard(state);
}

/// Of an expanded tensor several elements are one place in memory: values cannot be written there.
void AveragedModel::check_writable(const char* what, const char* instead) const {
  for (const Slot& slot : slots_) {
    const at::Tensor& source = slot.source;
    for (int64_t i = 0; i < source.dim(); ++i) {
      if (source.size(i) > 1 && source.stride(i) == 0) {
        fail<Error>(
            "{} {}: it is expanded, one number under several indices; use {}, or contiguous()",
            what, slot.name, instead);
      }
    }
  }
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
  catch_up();
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
  catch_up();
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
    if (!same_kind(average, value.tensor)) {
      report.mismatched.push_back(fmt::format("{} in {} instead of {}", value.name,
                                              at::toString(value.tensor.scalar_type()),
                                              at::toString(average.scalar_type())));
      continue;
    }
    average.copy_(value.tensor);
    if (slots_[found->second].lost.defined()) slots_[found->second].lost.zero_();
  }
  for (const auto& [name, slot] : names_) {
    if (!given.count(name)) report.missing.push_back(name);
  }
  count(steps);
  refresh_module();
  return report;
}

std::vector<NamedTensor> AveragedModel::compensation() const {
  catch_up();
  std::vector<NamedTensor> compensation;
  for (const auto& [name, slot] : names_) {
    if (slots_[slot].lost.defined()) {
      compensation.push_back({name, slots_[slot].lost, slots_[slot].buffer});
    }
  }
  return compensation;
}

void AveragedModel::load_compensation(const std::vector<NamedTensor>& values) {
  catch_up();
  std::unordered_map<std::string, size_t> slot_of(names_.begin(), names_.end());
  for (const NamedTensor& value : values) {
    auto found = slot_of.find(value.name);
    if (found == slot_of.end()) continue;
    const at::Tensor& lost = slots_[found->second].lost;
    if (lost.defined() && lost.sizes() == value.tensor.sizes()) lost.copy_(value.tensor);
  }
}

void AveragedModel::reset(const Model& model) {
  catch_up();
  if (is_swapped()) fail<Error>("reset: let the guard of swap() go first");
  torch::NoGradGuard no_grad;
  bind(model);
  copy_model();
  count(0);
}

void AveragedModel::copy_to(const Model& model) {
  catch_up();
  if (is_swapped()) fail<Error>("copy_to: let the guard of swap() go first");
  torch::NoGradGuard no_grad;
  bind(model);
  check_writable("copy_to: cannot write", "swap");
  for (const Slot& slot : slots_) slot.source.copy_(slot.average);
}

void AveragedModel::rebind(const Model& model) {
  catch_up();
  if (is_swapped()) fail<Error>("rebind: let the guard of swap() go first");
  bind(model);
}

// ---- the module's duties

std::shared_ptr<torch::nn::Module> AveragedModel::module() {
  finish();
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
  catch_up();
  torch::NoGradGuard no_grad;
  for (Slot& slot : slots_) set_held(slot, moved(slot.held));
  settle_precision();
  gather_averages();
}

void AveragedModel::load(torch::serialize::InputArchive& archive) {
  catch_up();
  torch::NoGradGuard no_grad;
  at::Tensor steps;
  archive.read("steps", steps, /*is_buffer=*/true);
  torch::serialize::InputArchive of_module;
  archive.read("module", of_module);
  // LibTorch's own load() reads numbers of another dtype as if they were of the module's.
  const std::vector<NamedTensor> mine = Model(*module_).tensors();
  std::vector<at::Tensor> read;
  for (const NamedTensor& item : mine) {
    read.push_back(read_tensor(of_module, item.name));
    const bool any_kind = item.buffer || !is_averageable(item.tensor);
    if (read.back().sizes() == item.tensor.sizes() &&
        (any_kind || same_kind(read.back(), item.tensor))) {
      continue;
    }
    fail<Error>("load: {}: is {} [{}] in the archive, but {} [{}] here; nothing was taken in",
                item.name, at::toString(read.back().scalar_type()),
                fmt::join(read.back().sizes(), ", "), at::toString(item.tensor.scalar_type()),
                fmt::join(item.tensor.sizes(), ", "));
  }
  for (size_t i = 0; i < mine.size(); ++i) mine[i].tensor.copy_(read[i]);
  steps_.copy_(steps);
  take_module_in();
}

void AveragedModel::save(torch::serialize::OutputArchive& archive) const {
  refresh_module();
  torch::nn::Module::save(archive);
}

}  // namespace polyak
