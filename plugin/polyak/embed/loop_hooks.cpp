// SPDX-License-Identifier: Apache-2.0
#include "polyak/embed/loop_hooks.h"

#include <ATen/ATen.h>
#include <c10/util/Type.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/optimizer.h>
#include <torch/serialize/archive.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <filesystem>
#include <optional>
#include <sstream>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include "polyak/averaging/averaged_model.h"
#include "polyak/averaging/register.h"
#include "polyak/config/load.h"
#include "polyak/config/options.h"
#include "polyak/core/log.h"
#include "polyak/loader/loader.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/run_folder.h"
#include "polyak/runtime/run_lock.h"
#include "polyak/runtime/runner.h"
#include "polyak/runtime/state_dict.h"
#include "polyak/runtime/stop_signals.h"

namespace polyak {
namespace {

/// The keys of the file.
struct LoopConfig : Options {
  Node custom_hooks, default_hooks;
  std::vector<std::string> plugins;
  std::optional<std::string> work_dir;
  std::optional<int64_t> max_epochs, max_iters;

  void visit(OptionVisitor& visitor) override {
    visitor.key("custom_hooks", &custom_hooks, "The hooks, a list.");
    visitor.key("default_hooks", &default_hooks, "More hooks by name, before the others.");
    visitor.key("plugins", &plugins, "Paths or names of shared libraries with more hooks.");
    visitor.key("work_dir", &work_dir, "Where files go; null: nowhere.");
    visitor.key("max_epochs", &max_epochs, "Epochs of the run, where the loop states no length.",
                steps_from(1));
    visitor.key("max_iters", &max_iters, "Iterations of the run, where the loop states no length.",
                steps_from(1));
  }

  std::vector<Node> hooks() const {
    std::vector<Node> nodes;
    if (!default_hooks.is_null()) {
      for (const auto& [name, node] : default_hooks.entries()) {
        if (!node.is_null()) nodes.push_back(node);
      }
    }
    if (!custom_hooks.is_null()) {
      for (const Node& node : custom_hooks.items()) nodes.push_back(node);
    }
    return nodes;
  }
};

void check_length(const char* name, std::optional<int64_t> value) {
  if (value && *value < 1) {
    fail<ConfigError>("LoopHooksOptions: {}: must be at least 1, got {}", name, *value);
  }
  if (value && !steps_from(1).contains(static_cast<double>(*value))) {
    fail<ConfigError>("LoopHooksOptions: {}: must be {}, got {}", name, steps_from(1).text(),
                      *value);
  }
}

void check_place(const char* unit, int64_t done, int64_t end) {
  if (done <= end) return;
  fail<CheckpointError>("stands at {} {}, and this run ends at {}; make the run longer", unit, done,
                        end);
}

// ---- the optimizer in a checkpoint: LibTorch's own archive, as bytes, since that holds every kind

torch::serialize::InputArchive archive_of(const void* bytes, size_t size) {
  torch::serialize::InputArchive archive;
  archive.load_from(static_cast<const char*>(bytes), size);
  return archive;
}

/// LBFGS writes its scratch space too, which has undefined tensors until it is full, and those
/// cannot be written. Each step fills it before it reads it, so it is put aside until this goes.
class WithoutScratch {
 public:
  explicit WithoutScratch(const torch::optim::Optimizer& optimizer) {
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

std::string type_of(const torch::optim::Optimizer& optimizer) {
  return c10::demangle(typeid(optimizer).name());
}

/// Adam reads AdamW's state without a word, and of others LibTorch says that a key is missing.
void check_optimizer_type(const torch::optim::Optimizer& optimizer, const Value& state) {
  const Value* saved = state.find("type");
  const std::string ours = type_of(optimizer);
  if (!saved || saved->as_string() == ours) return;
  const auto is_libtorchs = [](const std::string& type) {
    return type.rfind("torch::optim::", 0) == 0;
  };
  // A program's own class may have been renamed.
  if (!is_libtorchs(ours) || !is_libtorchs(saved->as_string())) return;
  fail<CheckpointError>(
      "holds the optimizer state of {}, but the loop's optimizer is {}; hand in the one of before, "
      "or none to go on without",
      saved->as_string(), ours);
}

Value optimizer_state(const torch::optim::Optimizer& optimizer) {
  const WithoutScratch guard(optimizer);
  torch::serialize::OutputArchive archive;
  optimizer.save(archive);
  std::ostringstream stream;
  archive.save_to(stream);
  const std::string bytes = stream.str();
  // A class of the user's own that does not override save() writes nothing, without a word.
  if (bytes.size() < 4096 && archive_of(bytes.data(), bytes.size()).keys().empty()) {
    fail<CheckpointError>(
        "the optimizer's class saves nothing of its state; override its save() and load(), set "
        "save_optimizer: false, or hand in none");
  }
  const at::Tensor tensor = at::empty({static_cast<int64_t>(bytes.size())}, at::kByte);
  std::copy(bytes.begin(), bytes.end(), tensor.data_ptr<uint8_t>());

  std::vector<Value> rates;
  for (const auto& group : optimizer.param_groups()) rates.emplace_back(group.options().get_lr());
  Value state = Value::dict();
  state.set("type", type_of(optimizer));
  state.set("libtorch_archive", tensor);
  state.set("lr", Value::list(std::move(rates)));
  return state;
}

void load_optimizer_state(torch::optim::Optimizer& optimizer, const Value& state) {
  const at::Tensor bytes = state.at("libtorch_archive").as_tensor().contiguous();
  torch::serialize::InputArchive archive =
      archive_of(bytes.data_ptr<uint8_t>(), static_cast<size_t>(bytes.numel()));
  optimizer.load(archive);
  const std::vector<Value>& rates = state.at("lr").items();
  // LibTorch 1.13 leaves options as they are.
  for (size_t i = 0; i < rates.size() && i < optimizer.param_groups().size(); ++i) {
    optimizer.param_groups()[i].options().set_lr(rates[i].as_real());
  }
}

}  // namespace

/// The loop as its hooks see it.
class LoopHooks::Loop final : public Runner {
 public:
  Loop(Node config, const Model& model, LoopHooksOptions options);

  Model model() override { return model_; }
  const Progress& progress() const override { return progress_; }
  HookList& hooks() override { return hooks_; }
  bool resuming() const override { return resuming_; }
  std::string work_dir() const override { return work_dir_; }
  std::string timestamp() const override { return timestamp_; }
  std::optional<double> learning_rate() const override;
  bool began_unseen() const override { return began_unseen_; }
  void log(const std::string& name, double value) override { logged_[name] = value; }
  const Scalars& logged() const override { return logged_; }
  Scalars validate(const std::string& suffix) override;
  void run_training_forward(int64_t num_samples) override;
  bool has_training_forward() const override {
    return static_cast<bool>(options_.training_forward_);
  }
  Value make_checkpoint(bool with_optimizer, bool with_schedulers) override;
  bool has_schedulers() const override { return false; }
  bool can_resume_from(const Value& checkpoint) const override {
    return checkpoint.contains("meta") &&
           (!options_.optimizer_ || checkpoint.contains("optimizer"));
  }
  void request_stop() override { stop_ = true; }
  bool stop_requested() const override { return stop_ || stop_signal() != 0; }
  void stop_on_signals() {
    if (!signals_) signals_.emplace();
  }
  int stop_signal() const { return signals_ ? StopSignals::received() : signal_; }

  bool resume();
  void before_epoch();
  void before_iter();
  void after_step();
  void after_iter(const Scalars& outputs);
  void after_epoch();
  void after_train();
  bool ran_on() const { return phase_ == Phase::training && !hooks_.empty(); }

  /// Notes that an evaluation begins and ends; `again` measures once more, where that is possible.
  void begin_evaluation(const char* call, const std::function<Scalars()>* again);
  void end_evaluation() {
    evaluating_ = false;
    again_ = nullptr;
  }

  std::atomic<bool> stop_{false};
  std::atomic<int64_t> iterations_{0};
  std::atomic<int64_t> steps_{0};
  int64_t batch_ = 0;  // iterations in this epoch

 private:
  enum class Phase { ready, training, ended };

  void set_lengths(const LoopConfig& config);
  void check_call(const char* call) const;
  void check_steps(const char* call) const;
  void enter_training();
  void enter_epoch(bool seen);
  void enter_iter(bool seen);

  void go_on_from(Value& checkpoint);
  void restore(const Value& checkpoint);

  Catalog catalog_;  // before hooks_, which refer to it
  RunLocks locks_;
  std::optional<StopSignals> signals_;
  int signal_ = 0;  // that stopped the run, once signals_ are gone
  Node config_;
  Model model_;
  LoopHooksOptions options_;
  HookList hooks_;
  Progress progress_;
  Scalars logged_;
  std::string work_dir_;
  std::string timestamp_;
  Phase phase_ = Phase::ready;
  bool resuming_ = false;
  bool in_epoch_ = false;
  bool in_iter_ = false;
  bool began_unseen_ = false;
  bool stepped_ = false;     // in this iteration
  bool gathered_ = false;    // the last iteration made no step
  bool evaluating_ = false;  // a LoopEvaluation lives
  const std::function<Scalars()>* again_ = nullptr;
  int64_t first_iter_ = 0;       // of this process
  int64_t first_step_ = 0;       // of this process
  int64_t iters_in_hooks_ = 0;   // 1 while after_train_iter runs: the counter does not count it yet
  int64_t epochs_in_hooks_ = 0;  // the same of after_train_epoch
};

LoopHooks::Loop::Loop(Node config, const Model& model, LoopHooksOptions options)
    : config_(std::move(config)), model_(model), options_(std::move(options)) {
  LoopConfig keys;
  read_options(config_, keys, "a loop's config");
  set_lengths(keys);
  const std::vector<Node> nodes = keys.hooks();
  register_averages(catalog_);
  if (!nodes.empty()) load_plugin(find_plugin("polyak_hooks", ""), catalog_);
  load_plugins(config_, catalog_);
  if (nodes.empty()) return;

  work_dir_ = keys.work_dir.value_or("");
  if (!work_dir_.empty()) {
    check_writable(config_, work_dir_);
    std::error_code error;
    std::filesystem::create_directories(work_dir_, error);
    if (error) config_.at("work_dir").fail(fmt::format("cannot be made: {}", error.message()));
    std::vector<std::string> folders = out_dirs(config_);
    for (const std::string& folder : folders) std::filesystem::create_directories(folder, error);
    folders.push_back(work_dir_);
    locks_.add(folders, config_.at("work_dir"));
  }
  timestamp_ = new_timestamp(work_dir_);
  for (const Node& node : nodes) hooks_.add(node, catalog_.of<Hook>(), {&catalog_});
  hooks_.call([&](Hook& hook) { hook.check_run(*this); });
  hooks_.call([&](Hook& hook) { hook.before_run(*this); });
}

void LoopHooks::Loop::set_lengths(const LoopConfig& config) {
  check_length("max_epochs", options_.max_epochs_);
  check_length("epoch_length", options_.epoch_length_);
  check_length("max_iters", options_.max_iters_);
  check_length("accumulative_counts", options_.accumulative_counts_);
  std::optional<int64_t> epochs = options_.max_epochs_, iters = options_.max_iters_;
  if (epochs || iters) {
    for (const char* key : {"max_epochs", "max_iters"}) {
      const Node* node = config_.find(key);
      if (!node || node->is_null()) continue;
      node->fail(
          "the training loop states its own length; leave this out (an average takes a "
          "max_iters of its own)");
    }
  } else {
    epochs = config.max_epochs;
    iters = config.max_iters;
  }
  const std::optional<int64_t> length = options_.epoch_length_;
  if (epochs && length) {
    const double all = static_cast<double>(*epochs) * static_cast<double>(*length);
    if (!steps_from(1).contains(all)) {
      fail<ConfigError>("LoopHooks: {} epochs of {} iterations are {:.3g}; a run has at most 2^53",
                        *epochs, *length, all);
    }
    if (iters && *iters != *epochs * *length) {
      fail<ConfigError>(
          "LoopHooksOptions: max_iters is {}, but {} epochs of {} iterations are {}; leave "
          "max_iters "
          "out",
          *iters, *epochs, *length, *epochs * *length);
    }
    iters = *epochs * *length;
  }
  progress_.by_epoch = epochs || !iters;
  progress_.max_epochs = epochs.value_or(progress_.by_epoch ? 0 : 1);
  progress_.max_iters = iters.value_or(0);
  progress_.epoch_length = length.value_or(0);
  progress_.optimizer_steps = 0;
  progress_.accumulative_counts = options_.accumulative_counts_;
  progress_.max_optimizer_steps = progress_.steps_in(progress_.max_iters);
}

std::optional<double> LoopHooks::Loop::learning_rate() const {
  if (!options_.optimizer_ || options_.optimizer_->param_groups().empty()) return std::nullopt;
  try {
    return options_.optimizer_->param_groups().front().options().get_lr();
  } catch (const c10::Error&) {  // a user's own options need not know one
    return std::nullopt;
  }
}

Scalars LoopHooks::Loop::validate(const std::string& suffix) {
  if (!again_) {
    fail<Error>(
        "LoopHooks: validation() cannot measure a second time, as evaluate_on_origin and named "
        "averages need it; call validate(function) instead, or take them out of the config");
  }
  Scalars metrics;
  for (const auto& [name, value] : (*again_)()) metrics[name + suffix] = value;
  return metrics;
}

void LoopHooks::Loop::run_training_forward(int64_t num_samples) {
  if (!options_.training_forward_) return Runner::run_training_forward(num_samples);
  options_.training_forward_(num_samples);
}

Value LoopHooks::Loop::make_checkpoint(bool with_optimizer, bool /*with_schedulers*/) {
  Value checkpoint = begin_checkpoint(*this, progress_.epoch + epochs_in_hooks_,
                                      progress_.iter + iters_in_hooks_, config_.dump());
  if (with_optimizer && options_.optimizer_) {
    try {
      checkpoint.set("optimizer", optimizer_state(*options_.optimizer_));
    } catch (const c10::Error& error) {
      fail<CheckpointError>(
          "the optimizer's state cannot be saved: {}; set save_optimizer: false, or hand in none",
          first_line(error));
    }
    // What the iterations since the last step gathered.
    const bool between = iters_in_hooks_ > 0 ? !stepped_ : gathered_;
    if (between && options_.accumulative_counts_ > 1) {
      checkpoint.at("polyak").set("gradients", gathered_gradients(model_));
      checkpoint.at("polyak").set("accumulative_counts", options_.accumulative_counts_);
    }
  }
  return checkpoint;
}

bool LoopHooks::Loop::resume() {
  check_call("resume");
  if (phase_ != Phase::ready || resuming_) {
    fail<Error>("LoopHooks: resume: the run has begun; call it once, before the first iteration");
  }
  const std::vector<std::string> folders = out_dirs(config_);
  if (work_dir_.empty() && folders.empty()) return false;  // nothing was ever written
  const std::string file = find_last_checkpoint(work_dir_, folders);
  if (file.empty()) {
    log_info("resume: {} holds no checkpoint yet; training starts from scratch",
             work_dir_.empty() ? folders.front() : work_dir_);
    return false;
  }
  Value checkpoint = read_checkpoint(file);
  name_file_in_errors(file, [&] { go_on_from(checkpoint); });
  log_info("going on from {}: epoch {}, iteration {}", file, progress_.epoch, progress_.iter);
  if (progress_.by_epoch ? progress_.epoch == progress_.max_epochs
                         : progress_.max_iters > 0 && progress_.iter == progress_.max_iters) {
    log_info("resume: this run is finished; a longer one trains on");
  }
  return true;
}

void LoopHooks::Loop::go_on_from(Value& checkpoint) {
  if (!checkpoint.contains("meta")) {
    fail<CheckpointError>("holds no 'meta', so a run cannot go on from it");
  }
  const Value& meta = checkpoint.at("meta");
  if (progress_.by_epoch && progress_.max_epochs > 0) {
    check_place("epoch", meta.at("epoch").as_int(), progress_.max_epochs);
  } else if (progress_.max_iters > 0) {
    check_place("iteration", meta.at("iter").as_int(), progress_.max_iters);
  }
  fit_checkpoint(checkpoint, model_, /*resuming=*/true);
  const StateDifference found = compare_state_dict(model_, checkpoint.at("state_dict"));
  if (!found.empty()) fail<CheckpointError>("does not fit the model; {}", found.text());
  if (options_.optimizer_) {
    const Value* state = checkpoint.find("optimizer");
    if (!state || !state->contains("libtorch_archive")) {
      fail<CheckpointError>("holds no state of a loop's optimizer; hand in none to go on without");
    }
    check_optimizer_type(*options_.optimizer_, *state);
    const std::optional<double> given = learning_rate();
    try {
      load_optimizer_state(*options_.optimizer_, *state);
    } catch (const c10::Error& error) {
      fail<CheckpointError>("its optimizer state does not fit: {}", first_line(error));
    }
    if (given && learning_rate() != given) {
      log_info("resume: the checkpoint's lr {} goes on (the program set {})", *learning_rate(),
               *given);
    }
  }
  resuming_ = true;
  load_into_run(*this, checkpoint);
  restore(checkpoint);
}

void LoopHooks::Loop::restore(const Value& checkpoint) {
  const Value& meta = checkpoint.at("meta");
  progress_.iter = meta.at("iter").as_int();
  progress_.epoch = progress_.by_epoch ? meta.at("epoch").as_int() : 0;
  progress_.optimizer_steps = progress_.steps_in(progress_.iter);
  run_info() = resumed_run_info(checkpoint);
  if (const Value* extra = checkpoint.find("polyak")) {
    if (const Value* steps = extra->find("optimizer_steps")) {
      progress_.optimizer_steps = steps->as_int();
    }
    if (const Value* gradients = extra->find("gradients")) {
      load_gradients(model_, *gradients);
      gathered_ = true;
    }
    const Value* length = extra->find("epoch_length");
    if (progress_.by_epoch && length && length->as_int() == progress_.epoch_length) {
      batch_ = progress_.iter - progress_.epoch * progress_.epoch_length;
      if (batch_ == progress_.epoch_length) ++progress_.epoch;  // written by its last iteration
      if (batch_ < 0 || batch_ >= progress_.epoch_length) batch_ = 0;
    }
  }
  if (!progress_.by_epoch) batch_ = progress_.iter;
  iterations_ = progress_.iter;
  steps_ = progress_.optimizer_steps;
}

// ---- the calls of the loop

void LoopHooks::Loop::check_call(const char* call) const {
  if (evaluating_) {
    fail<Error>("LoopHooks: {}: a validation or test is running; let its guard go first", call);
  }
}

/// A loop that never tells of steps would train without any average.
void LoopHooks::Loop::check_steps(const char* call) const {
  const int64_t iters = progress_.iter - first_iter_;
  if (hooks_.empty() || progress_.optimizer_steps > first_step_) return;
  if (iters < options_.accumulative_counts_ || iters == 0) return;
  fail<Error>(
      "LoopHooks: {}: {} iterations went by without an optimizer step; call after_step() after "
      "optimizer.step(), before after_iter()",
      call, iters);
}

void LoopHooks::Loop::enter_training() {
  if (phase_ == Phase::training) return;
  if (phase_ == Phase::ended) {
    fail<Error>("LoopHooks: after_train() ended this run; make a new LoopHooks for another");
  }
  phase_ = Phase::training;
  first_iter_ = progress_.iter;
  first_step_ = progress_.optimizer_steps;
  hooks_.call([&](Hook& hook) { hook.before_train(*this); });
}

/// `seen`: the loop says so where it begins.
void LoopHooks::Loop::enter_epoch(bool seen) {
  enter_training();
  if (in_epoch_) return;
  in_epoch_ = true;
  began_unseen_ = !seen;
  hooks_.call([&](Hook& hook) { hook.before_train_epoch(*this); });
}

void LoopHooks::Loop::enter_iter(bool seen) {
  enter_epoch(/*seen=*/false);
  if (in_iter_) return;
  in_iter_ = true;
  began_unseen_ = !seen;
  logged_.clear();
  hooks_.call([&](Hook& hook) { hook.before_train_iter(*this, batch_); });
}

void LoopHooks::Loop::before_epoch() {
  check_call("before_epoch");
  if (!progress_.by_epoch) {
    fail<Error>(
        "LoopHooks: before_epoch: this loop counts iterations (max_iters without max_epochs); "
        "state "
        "max_epochs too, or leave the call out");
  }
  if (in_epoch_) {
    fail<Error>("LoopHooks: before_epoch: epoch {} has not ended; call after_epoch() first",
                progress_.epoch + 1);
  }
  enter_epoch(/*seen=*/true);
}

void LoopHooks::Loop::before_iter() {
  check_call("before_iter");
  if (in_iter_) {
    fail<Error>("LoopHooks: before_iter: iteration {} has not ended; call after_iter() first",
                progress_.iter + 1);
  }
  enter_iter(/*seen=*/true);
}

void LoopHooks::Loop::after_step() {
  check_call("after_step");
  if (stepped_) {
    fail<Error>(
        "LoopHooks: after_step: iteration {} has had its step; call after_iter() between two steps "
        "(one LoopHooks goes with one optimizer)",
        progress_.iter + 1);
  }
  enter_iter(/*seen=*/false);
  stepped_ = true;
  steps_ = ++progress_.optimizer_steps;
}

void LoopHooks::Loop::after_iter(const Scalars& outputs) {
  check_call("after_iter");
  enter_iter(/*seen=*/false);
  for (const auto& [name, value] : outputs) logged_[name] = value;
  struct End {  // a hook that throws ends the iteration too
    Loop& loop;
    ~End() {
      loop.iters_in_hooks_ = 0;
      loop.gathered_ = !loop.stepped_;
      loop.in_iter_ = loop.stepped_ = false;
      ++loop.batch_;
      loop.iterations_ = ++loop.progress_.iter;
    }
  } end{*this};
  iters_in_hooks_ = 1;
  hooks_.call([&](Hook& hook) { hook.after_train_iter(*this, batch_, outputs); });
}

void LoopHooks::Loop::after_epoch() {
  check_call("after_epoch");
  if (!progress_.by_epoch) {
    fail<Error>(
        "LoopHooks: after_epoch: this loop counts iterations (max_iters without max_epochs); state "
        "max_epochs too, or leave the call out");
  }
  if (in_iter_) {
    fail<Error>("LoopHooks: after_epoch: iteration {} has not ended; call after_iter() first",
                progress_.iter + 1);
  }
  if (!in_epoch_) {
    fail<Error>(
        "LoopHooks: after_epoch: no iteration was told of in epoch {}; call after_iter() after "
        "each "
        "batch",
        progress_.epoch + 1);
  }
  check_steps("after_epoch");
  if (progress_.epoch_length > 0 && batch_ != progress_.epoch_length && !stop_requested() &&
      !hooks_.empty()) {
    log_warning(
        "LoopHooks: epoch {} had {} iterations, but epoch_length {} was stated; schedules over the "
        "run's length are off by that",
        progress_.epoch + 1, batch_, progress_.epoch_length);
  }
  struct End {
    Loop& loop;
    ~End() {
      loop.epochs_in_hooks_ = 0;
      loop.in_epoch_ = false;
      loop.batch_ = 0;
      ++loop.progress_.epoch;
    }
  } end{*this};
  epochs_in_hooks_ = 1;
  hooks_.call([&](Hook& hook) { hook.after_train_epoch(*this); });
}

void LoopHooks::Loop::after_train() {
  check_call("after_train");
  if (phase_ == Phase::ended) fail<Error>("LoopHooks: after_train: was called before");
  if (in_iter_) {
    fail<Error>("LoopHooks: after_train: iteration {} has not ended; call after_iter() first",
                progress_.iter + 1);
  }
  enter_training();
  check_steps("after_train");
  phase_ = Phase::ended;
  if (!progress_.by_epoch && in_epoch_) {
    hooks_.call([&](Hook& hook) { hook.after_train_epoch(*this); });
  }
  struct End {  // whatever a hook throws
    Loop& loop;
    ~End() {
      loop.signal_ = loop.stop_signal();
      loop.signals_.reset();
      loop.locks_.release();
    }
  } end{*this};
  hooks_.call([&](Hook& hook) { hook.after_train(*this); });
  hooks_.call([&](Hook& hook) { hook.after_run(*this); });
}

void LoopHooks::Loop::begin_evaluation(const char* call, const std::function<Scalars()>* again) {
  check_call(call);
  if (in_iter_) {
    fail<Error>("LoopHooks: {}: iteration {} has not ended; call after_iter() first", call,
                progress_.iter + 1);
  }
  began_unseen_ = false;
  if (phase_ == Phase::training) check_steps(call);
  // A validation that the run before owes belongs to the training that goes on.
  if (phase_ == Phase::ready && resuming_) enter_training();
  evaluating_ = true;
  again_ = again;
}

// ---- LoopEvaluation

struct LoopEvaluation::State {
  /// Begun before the scope and ended after it.
  struct Mark {
    std::shared_ptr<LoopHooks::Loop> loop;
    ~Mark() { loop->end_evaluation(); }
  };

  State(std::shared_ptr<LoopHooks::Loop> loop, Hook::Stage stage)
      : mark{std::move(loop)}, scope(*mark.loop, mark.loop->hooks(), stage) {}

  Mark mark;
  EvaluationScope scope;
  bool finished = false;
};

LoopEvaluation::LoopEvaluation(std::unique_ptr<State> state) : state_(std::move(state)) {}
LoopEvaluation::LoopEvaluation(LoopEvaluation&&) noexcept = default;
LoopEvaluation::~LoopEvaluation() = default;

void LoopEvaluation::before_iter(int64_t batch) {
  if (!state_) fail<Error>("LoopEvaluation: before_iter: finish() ended this pass");
  state_->scope.before_iter(batch);
}

void LoopEvaluation::after_iter(int64_t batch) {
  if (!state_) fail<Error>("LoopEvaluation: after_iter: finish() ended this pass");
  state_->scope.after_iter(batch);
}

Scalars LoopEvaluation::finish(Scalars metrics) {
  if (!state_) fail<Error>("LoopEvaluation: finish: was called before");
  const std::unique_ptr<State> state = std::move(state_);  // ends here, whatever is thrown
  state->scope.finish(metrics);
  return metrics;
}

// ---- LoopHooks

LoopHooks::LoopHooks(std::shared_ptr<Loop> loop) : loop_(std::move(loop)) {}

LoopHooks::LoopHooks(const std::string& file, const Model& model, const LoopHooksOptions& options)
    : LoopHooks(std::make_shared<Loop>(load_config(file), model, options)) {}

LoopHooks LoopHooks::from_config(Node config, const Model& model, const LoopHooksOptions& options) {
  return LoopHooks(std::make_shared<Loop>(std::move(config), model, options));
}

LoopHooks::~LoopHooks() {
  if (loop_->ran_on() && std::uncaught_exceptions() == 0) {
    log_warning("LoopHooks: after_train() was not called; hooks that act at the end did not");
  }
}

bool LoopHooks::resume() {
  return loop_->resume();
}
void LoopHooks::before_epoch() {
  loop_->before_epoch();
}
void LoopHooks::before_iter() {
  loop_->before_iter();
}
void LoopHooks::after_step() {
  loop_->after_step();
}
void LoopHooks::after_iter(const Scalars& outputs) {
  loop_->after_iter(outputs);
}
void LoopHooks::after_epoch() {
  loop_->after_epoch();
}
void LoopHooks::after_train() {
  loop_->after_train();
}

LoopEvaluation LoopHooks::evaluate(bool test, const std::function<Scalars()>* again) {
  loop_->begin_evaluation(test ? "test" : "validation", again);
  return LoopEvaluation(
      std::make_unique<LoopEvaluation::State>(loop_, test ? Hook::Stage::test : Hook::Stage::val));
}

Scalars LoopHooks::validate(const std::function<Scalars()>& evaluate) {
  LoopEvaluation pass = this->evaluate(/*test=*/false, &evaluate);
  return pass.finish(evaluate());
}

Scalars LoopHooks::test(const std::function<Scalars()>& evaluate) {
  LoopEvaluation pass = this->evaluate(/*test=*/true, &evaluate);
  return pass.finish(evaluate());
}

LoopEvaluation LoopHooks::validation() {
  return evaluate(/*test=*/false, nullptr);
}

LoopEvaluation LoopHooks::testing() {
  return evaluate(/*test=*/true, nullptr);
}

void LoopHooks::request_stop() {
  loop_->request_stop();
}
bool LoopHooks::stop_requested() const {
  return loop_->stop_requested();
}
void LoopHooks::stop_on_signals() {
  loop_->stop_on_signals();
}
int LoopHooks::stop_signal() const {
  return loop_->stop_signal();
}
int64_t LoopHooks::iterations_done() const {
  return loop_->iterations_;
}
int64_t LoopHooks::steps_done() const {
  return loop_->steps_;
}
const Progress& LoopHooks::progress() const {
  return loop_->progress();
}
int64_t LoopHooks::batch() const {
  return loop_->batch_;
}

bool LoopHooks::validated() const {
  const Value* done = loop_->run_info().find("validated");
  return done && done->at("epoch").as_int() == progress().epoch &&
         done->at("iter").as_int() == progress().iter;
}

std::shared_ptr<AveragedModel> LoopHooks::average(const std::string& name) const {
  return loop_->averages().find(name);
}

Runner& LoopHooks::runner() {
  return *loop_;
}

}  // namespace polyak
