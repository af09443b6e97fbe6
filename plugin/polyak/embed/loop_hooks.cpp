// SPDX-License-Identifier: Apache-2.0
#include "polyak/embed/loop_hooks.h"

#include <ATen/Functions.h>
#include <torch/optim/optimizer.h>

#include <atomic>
#include <exception>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

#include "polyak/averaging/averaged_model.h"
#include "polyak/averaging/register.h"
#include "polyak/averaging/replica_check.h"
#include "polyak/config/load.h"
#include "polyak/config/problems.h"
#include "polyak/core/log.h"
#include "polyak/embed/loop_config.h"
#include "polyak/embed/loop_optimizer.h"
#include "polyak/loader/loader.h"
#include "polyak/registry/read_all_options.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/run_folder.h"
#include "polyak/runtime/run_lock.h"
#include "polyak/runtime/run_loop.h"
#include "polyak/runtime/runner.h"
#include "polyak/runtime/state_dict.h"
#include "polyak/runtime/stop_signals.h"

namespace polyak {
namespace {

constexpr const char* kOwner = "a loop's config";

void check_place(const char* unit, int64_t done, int64_t end) {
  if (done <= end) return;
  fail<CheckpointError>("is at {} {}, but this run ends at {}; make the run longer", unit, done,
                        end);
}

}  // namespace

/// The loop as its hooks see it. The RunLoop knows which calls are allowed when, and counts; this
/// class checks for other mistakes in the user's loop, and knows where its files are.
class LoopHooks::Loop final : public Runner, private CheckpointSource, private TrainingForward {
 public:
  using Phase = RunLoop::Phase;

  Loop(Node config, const ModelRef& model, LoopHooksSettings options);

  ModelRef model() override { return model_; }
  const Progress& progress() const override { return loop_.progress(); }
  HookList& hooks() override { return hooks_; }
  bool resuming() const override { return loop_.resuming(); }
  std::string work_dir() const override { return work_dir_; }
  std::string timestamp() const override { return timestamp_; }
  std::optional<double> learning_rate() const override;
  bool reset_optimizer_state() override;
  bool began_unseen() const override { return loop_.began_unseen(); }
  void log(const std::string& name, double value) override { loop_.logged()[name] = value; }
  const Scalars& logged() const override { return loop_.logged(); }
  Scalars validate(const std::string& suffix) override;
  TrainingForward* training_forward() override {
    return options_.training_forward_ ? this : nullptr;
  }
  CheckpointSource* checkpoint_source() override { return this; }
  void request_stop() override { stop_.request(); }
  bool stop_requested() const override {
    return is_alone() ? stop_.requested() : agreed_stop_.load();
  }
  std::shared_ptr<ProcessGroup> process_group() const override { return options_.process_group_; }
  int stop_signal() const { return is_alone() ? stop_.signal() : agreed_signal_.load(); }

  bool resume();
  void before_epoch();
  void before_iter() { loop_.before_iter(); }
  void after_step();
  void after_iter(const Scalars& outputs);
  void after_epoch();
  void after_train();

  RunLoop& loop() { return loop_; }
  /// Of several processes: all get the metrics of the first, and know of a stop that any wants.
  void share_metrics(Scalars& metrics) const;
  void agree_on_stop();
  StopRequest& stop() { return stop_; }
  /// Checks the preconditions of a validation or a test.
  void prepare_evaluation(const char* call);
  bool is_training() const { return loop_.in_training() && !hooks_.empty(); }
  /// Finished iterations and optimizer steps, for other threads.
  int64_t iterations() const { return iterations_; }
  int64_t steps() const { return steps_; }

 private:
  void run_training_forward(int64_t num_samples) override {
    options_.training_forward_(num_samples);
  }
  Value make_checkpoint(bool with_optimizer, bool with_schedules) override;
  bool can_resume_from(const Value& checkpoint) const override {
    return checkpoint.contains("meta") &&
           (!options_.optimizer_ || checkpoint.contains("optimizer"));
  }

  void compare_processes(const std::string& file, const Value& checkpoint) const;
  bool is_alone() const { return size_of(options_.process_group_.get()) == 1; }
  void set_up_folders(const LoopConfig& keys);
  bool between_iterations() const {
    return loop_.phase() == Phase::between_epochs || loop_.phase() == Phase::in_epoch;
  }
  void check_epochs(const char* call) const;
  void check_steps(const char* call) const;
  void go_on_from(Value& checkpoint);
  void tell_threads();

  Catalog catalog_;  // before hooks_, which refer to it
  RunLocks locks_;
  StopRequest stop_;
  Node config_;
  ModelRef model_;
  LoopHooksSettings options_;
  HookList hooks_;
  std::string work_dir_;
  std::string timestamp_;
  RunLoop loop_{*this, "LoopHooks"};
  Progress begin_;        // where this process began
  bool stepped_ = false;  // in this iteration
  // What all of several processes know since the last optimizer step.
  std::atomic<bool> agreed_stop_{false};
  std::atomic<int> agreed_signal_{0};
  std::atomic<int64_t> iterations_{0};
  std::atomic<int64_t> steps_{0};
};

LoopHooks::Loop::Loop(Node config, const ModelRef& model, LoopHooksSettings options)
    : config_(std::move(config)), model_(model), options_(std::move(options)) {
  LoopConfig keys;
  read_options(config_, keys, kOwner);
  loop_.set_length(
      length_of_loop({options_.max_epochs_, options_.epoch_length_, options_.max_iters_,
                      options_.batch_size_, options_.accumulative_counts_},
                     keys, config_));
  begin_ = loop_.progress();
  const std::vector<Node> nodes = keys.hooks();
  register_averages(catalog_);
  if (!nodes.empty()) load_plugin(find_plugin("polyak_hooks", ""), catalog_);
  load_plugins(config_, catalog_);
  read_all_options(config_, keys, kOwner, catalog_);
  if (!nodes.empty()) set_up_folders(keys);
  for (const Node& node : nodes) hooks_.add(node, catalog_.of<Hook>(), {&catalog_});
  hooks_.check_run(*this);
  loop_.before_run();
}

void LoopHooks::Loop::set_up_folders(const LoopConfig& keys) {
  work_dir_ = keys.work_dir.value_or("");
  if (!is_main(options_.process_group_.get())) return;
  std::vector<std::string> folders = out_dirs(config_);
  std::error_code error;
  if (!work_dir_.empty()) {
    check_writable(config_, work_dir_);
    std::filesystem::create_directories(work_dir_, error);
    if (error) config_.at("work_dir").fail(fmt::format("cannot be created: {}", error.message()));
  }
  for (const std::string& folder : folders) std::filesystem::create_directories(folder, error);
  if (!work_dir_.empty()) folders.push_back(work_dir_);
  const Node* place = config_.find("work_dir");
  locks_.add(folders, place ? *place : config_);
  timestamp_ = new_timestamp(work_dir_);
}

bool LoopHooks::Loop::reset_optimizer_state() {
  if (options_.optimizer_) options_.optimizer_->state().clear();
  return options_.optimizer_ != nullptr;
}

std::optional<double> LoopHooks::Loop::learning_rate() const {
  return options_.optimizer_ ? learning_rate_of(*options_.optimizer_) : std::nullopt;
}

Scalars LoopHooks::Loop::validate(const std::string& suffix) {
  if (std::optional<Scalars> metrics = loop_.measure_again(suffix)) return *metrics;
  fail<Error>(
      "LoopHooks: validation() cannot measure twice, which evaluate_on_origin and named "
      "averages need; call validate(function) instead, or remove them from the config");
}

// ---- checkpoints

Value LoopHooks::Loop::make_checkpoint(bool with_optimizer, bool /*with_schedules*/) {
  CheckpointParts parts;
  parts.config = config_.dump();
  if (with_optimizer && options_.optimizer_) {
    parts.optimizer = save_optimizer(*options_.optimizer_, model_);
    parts.gradients = options_.accumulative_counts_ > 1 && loop_.place().between_steps;
  }
  return loop_.begin_checkpoint(std::move(parts));
}

bool LoopHooks::Loop::resume() {
  if (loop_.phase() != Phase::ready || resuming()) {
    fail<Error>("LoopHooks: resume: the run has begun; call it once, before the first iteration");
  }
  const std::vector<std::string> folders = out_dirs(config_);
  if (work_dir_.empty() && folders.empty()) return false;  // no file was ever written
  const std::string file = find_last_checkpoint(work_dir_, folders);
  if (file.empty()) {
    compare_processes(file, Value());
    log_info("resume: {} holds no checkpoint yet; training starts from scratch",
             work_dir_.empty() ? folders.front() : work_dir_);
    return false;
  }
  Value checkpoint = read_checkpoint(file);
  compare_processes(file, checkpoint);
  name_file_in_errors(file, [&] { go_on_from(checkpoint); });
  const Progress& now = progress();
  log_info("resuming from {}: epoch {}, iteration {}", file, now.epoch, now.iter);
  if (now.by_epoch ? now.epoch == now.max_epochs : now.max_iters > 0 && now.iter == now.max_iters) {
    log_info("resume: this run is finished; make it longer to continue training");
  }
  return true;
}

/// Hooks decide by metrics, and must decide alike.
void LoopHooks::Loop::share_metrics(Scalars& metrics) const {
  if (is_alone()) return;
  std::string names;
  for (const auto& [name, value] : metrics) names += name + "\n";
  const std::string difference =
      find_difference(*options_.process_group_, {{"list of metrics", digest_of(names)}});
  if (!difference.empty()) fail<ProcessGroupError>("LoopHooks: validate: {}", difference);
  if (metrics.empty()) return;
  const at::Tensor values = at::zeros({static_cast<int64_t>(metrics.size())}, at::kDouble);
  int64_t i = 0;
  for (const auto& [name, value] : metrics) values.data_ptr<double>()[i++] = value;
  options_.process_group_->broadcast(values, 0, "sharing metrics");
  i = 0;
  for (auto& [name, value] : metrics) value = values.data_ptr<double>()[i++];
}

/// Of several processes, each reads the file itself.
void LoopHooks::Loop::compare_processes(const std::string& file, const Value& checkpoint) const {
  if (is_alone()) return;
  const Value* meta = checkpoint.is_dict() ? checkpoint.find("meta") : nullptr;
  const Value* iter = meta ? meta->find("iter") : nullptr;
  const std::string place = iter ? fmt::format("{} at iteration {}", file, iter->as_int()) : file;
  const std::string difference = find_difference(
      *options_.process_group_,
      {{"config", digest_of(config_.dump())}, {"checkpoint to resume from", digest_of(place)}});
  if (difference.empty()) return;
  fail<ProcessGroupError>("LoopHooks: resume: {}; all of them must see the same files", difference);
}

void LoopHooks::Loop::go_on_from(Value& checkpoint) {
  if (!checkpoint.contains("meta")) {
    fail<CheckpointError>("holds no 'meta', so a run cannot resume from it");
  }
  const Value& meta = checkpoint.at("meta");
  if (progress().by_epoch && progress().max_epochs > 0) {
    check_place("epoch", meta.at("epoch").as_int(), progress().max_epochs);
  } else if (progress().max_iters > 0) {
    check_place("iteration", meta.at("iter").as_int(), progress().max_iters);
  }
  fit_checkpoint(checkpoint, model_, /*resuming=*/true);
  const StateDifference found = compare_state_dict(model_, checkpoint.at("state_dict"));
  if (!found.empty()) fail<CheckpointError>("does not fit the model; {}", found.text());
  RestoreParts parts;
  parts.repeat_epoch_end = false;  // the loop continues with the next epoch
  if (torch::optim::Optimizer* optimizer = options_.optimizer_) {
    parts.load = prepare_optimizer(*optimizer, model_, checkpoint);
  }
  loop_.restore(checkpoint, parts);
  begin_ = progress();
  tell_threads();
}

void LoopHooks::Loop::tell_threads() {
  iterations_ = progress().iter;
  steps_ = progress().optimizer_steps;
}

// ---- the calls of the loop

void LoopHooks::Loop::check_epochs(const char* call) const {
  if (progress().by_epoch) return;
  fail<Error>(
      "LoopHooks: {}: this loop counts iterations (max_iters without max_epochs); state max_epochs "
      "too, or remove the call",
      call);
}

/// A loop that never reports steps would train without updating any average.
void LoopHooks::Loop::check_steps(const char* call) const {
  const int64_t iters = progress().iter - begin_.iter;
  if (hooks_.empty() || progress().optimizer_steps > begin_.optimizer_steps) return;
  if (iters < options_.accumulative_counts_ || iters == 0) return;
  fail<Error>(
      "LoopHooks: {}: {} iterations passed without an optimizer step; call after_step() after "
      "optimizer.step(), before after_iter()",
      call, iters);
}

void LoopHooks::Loop::before_epoch() {
  check_epochs("before_epoch");
  loop_.before_epoch();
}

void LoopHooks::Loop::after_step() {
  loop_.after_step();
  stepped_ = true;
  tell_threads();
}

/// A loop that stops in one process alone would leave the others waiting.
void LoopHooks::Loop::agree_on_stop() {
  if (is_alone()) return;
  const at::Tensor mine = at::zeros({2}, at::kLong);
  mine[0] = stop_.requested() ? 1 : 0;
  mine[1] = stop_.signal();
  for (const at::Tensor& item :
       options_.process_group_->all_gather(mine, "agreeing on an optimizer step")) {
    if (item[0].item<int64_t>() != 0) agreed_stop_ = true;
    if (const int signal = item[1].item<int>(); signal != 0) agreed_signal_ = signal;
  }
}

void LoopHooks::Loop::after_iter(const Scalars& outputs) {
  if (std::exchange(stepped_, false)) agree_on_stop();
  struct Tell {  // a hook that throws ends the iteration too
    Loop& loop;
    ~Tell() { loop.tell_threads(); }
  } tell{*this};
  loop_.after_iter(outputs);
}

void LoopHooks::Loop::after_epoch() {
  check_epochs("after_epoch");
  if (loop_.phase() == Phase::in_epoch) {
    check_steps("after_epoch");
    const int64_t length = progress().epoch_length, batch = loop_.place().batch;
    if (length > 0 && batch != length && !stop_requested() && !hooks_.empty()) {
      log_warning(
          "LoopHooks: epoch {} had {} iterations, but epoch_length {} was stated; schedules over "
          "the run's length are off by the difference",
          progress().epoch + 1, batch, length);
    }
  }
  loop_.after_epoch();
}

void LoopHooks::Loop::after_train() {
  if (between_iterations()) check_steps("after_train");
  struct End {  // even if a hook throws
    Loop& loop;
    ~End() {
      if (loop.loop_.phase() != Phase::ended) return;  // the call was not allowed
      loop.stop_.ignore_signals();
      loop.locks_.release();
    }
  } end{*this};
  loop_.after_train();
  loop_.after_run();
}

void LoopHooks::Loop::prepare_evaluation(const char* call) {
  if (between_iterations()) check_steps(call);
  // A validation that the previous run did not do belongs to the resumed training.
  if (loop_.phase() == Phase::ready && resuming()) loop_.before_train();
}

// ---- LoopEvaluation

struct LoopEvaluation::State {
  State(std::shared_ptr<LoopHooks::Loop> owner, Hook::Stage stage,
        const std::function<Scalars()>* again)
      : loop(std::move(owner)), pass(loop->loop(), stage, again) {}

  std::shared_ptr<LoopHooks::Loop> loop;
  EvaluationPass pass;
};

LoopEvaluation::LoopEvaluation(std::unique_ptr<State> state) : state_(std::move(state)) {}
LoopEvaluation::LoopEvaluation(LoopEvaluation&&) noexcept = default;
LoopEvaluation::~LoopEvaluation() = default;

void LoopEvaluation::before_iter(int64_t batch) {
  if (!state_) fail<Error>("LoopEvaluation: before_iter: finish() ended this pass");
  state_->pass.scope().before_iter(batch);
}

void LoopEvaluation::after_iter(int64_t batch) {
  if (!state_) fail<Error>("LoopEvaluation: after_iter: finish() ended this pass");
  state_->pass.scope().after_iter(batch);
}

Scalars LoopEvaluation::finish(Scalars metrics) {
  if (!state_) fail<Error>("LoopEvaluation: finish: was already called");
  const std::unique_ptr<State> state = std::move(state_);  // ends here, even if a hook throws
  state->loop->share_metrics(metrics);
  Scalars all = state->pass.finish(std::move(metrics));
  state->loop->agree_on_stop();  // which a hook may have requested
  return all;
}

// ---- LoopHooks

LoopHooks::LoopHooks(std::shared_ptr<Loop> loop) : loop_(std::move(loop)) {}

/// Programs let such errors end them, or print what(): so it also shows the lines of the config.
std::shared_ptr<LoopHooks::Loop> LoopHooks::make_loop(const std::function<Node()>& load,
                                                      const ModelRef& model,
                                                      const LoopHooksSettings& options) {
  try {
    return std::make_shared<Loop>(load(), model, options);
  } catch (const ProblemsError& error) {
    std::string text = explained(error);
    text.pop_back();  // the last newline
    throw ProblemsError(error.problems(), text);
  }
}

LoopHooks::LoopHooks(const std::string& file, const ModelRef& model,
                     const LoopHooksSettings& options)
    : LoopHooks(make_loop([&] { return load_config(file); }, model, options)) {}

LoopHooks LoopHooks::from_config(Node config, const ModelRef& model,
                                 const LoopHooksSettings& options) {
  return LoopHooks(make_loop([&] { return std::move(config); }, model, options));
}

LoopHooks::~LoopHooks() {
  if (loop_->is_training() && std::uncaught_exceptions() == 0) {
    log_warning("LoopHooks: after_train() was not called; end-of-training hooks did not run");
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
  loop_->prepare_evaluation(test ? "test" : "validation");
  return LoopEvaluation(std::make_unique<LoopEvaluation::State>(
      loop_, test ? Hook::Stage::test : Hook::Stage::val, again));
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
  loop_->stop().heed_signals();
}
int LoopHooks::stop_signal() const {
  return loop_->stop_signal();
}
int64_t LoopHooks::iterations_done() const {
  return loop_->iterations();
}
int64_t LoopHooks::steps_done() const {
  return loop_->steps();
}
const Progress& LoopHooks::progress() const {
  return loop_->progress();
}
int64_t LoopHooks::batch() const {
  return loop_->loop().place().batch;
}

bool LoopHooks::validated() const {
  return is_validated(*loop_);
}

std::shared_ptr<AveragedModel> LoopHooks::average(const std::string& name) const {
  return loop_->averages().find(name);
}

Runner& LoopHooks::runner() {
  return *loop_;
}

}  // namespace polyak
