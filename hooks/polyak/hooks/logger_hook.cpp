// SPDX-License-Identifier: Apache-2.0
#include "polyak/hooks/logger_hook.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "polyak/core/log.h"
#include "polyak/runtime/runner.h"
#include "polyak/vis_backends/local_vis_backend.h"
#include "polyak/vis_backends/progress_bar.h"

namespace polyak {
namespace {

bool is_averaged(const std::string& name) {
  for (const char* part : {"loss", "time", "grad_norm"}) {
    if (name.find(part) != std::string::npos) return true;
  }
  return false;
}

std::string field(const std::string& name, double value) {
  return name == "lr" || name.rfind("ema_momentum", 0) == 0
             ? fmt::format("{}: {:.4e}", name, value)
             : fmt::format("{}: {:.4f}", name, value);
}

int width(int64_t number) {
  return static_cast<int>(std::to_string(number).size());
}

/// Writes to the terminal, ignoring errors.
std::string scalar_of(const char* what, const NamedAverage& item) {
  return item.name.empty() ? what : fmt::format("{}_{}", what, item.name);
}

/// The optimizer steps that an average follows by its weight: 1 / weight updates.
void add_horizons(Runner& runner, Scalars& values) {
  for (const NamedAverage& item : runner.averages().all()) {
    const auto weight = values.find(scalar_of("ema_momentum", item));
    if (weight == values.end() || !(weight->second > 0)) continue;
    const Node options = item.average->rule_options();
    const Node* const interval = options.is_mapping() ? options.find("interval") : nullptr;
    const double steps = interval && interval->is_int() ? interval->as_double() : 1;
    values[scalar_of("ema_horizon", item)] = steps / weight->second;
  }
}

/// The squared norm of a tensor, added on the device of the sum, so that a GPU is waited for once.
void add_square(at::Tensor& sum, const at::Tensor& part) {
  const at::Tensor norm = part.norm().to(at::kDouble);
  const at::Tensor square = norm * norm;
  sum = sum.defined() ? sum + square.to(sum.device()) : square;
}

/// ||average - weights|| / ||weights|| over all parameters; nothing where the weights are all 0.
std::optional<double> relative_distance(const AveragedModel& average,
                                        const std::vector<NamedTensor>& weights) {
  constexpr int64_t kPart = 1 << 22;  // elements that are copied at a time
  const at::NoGradGuard no_grad;
  const auto averages = average.named_averages();
  at::Tensor difference, size;
  for (const NamedTensor& item : weights) {
    if (item.buffer || !(item.tensor.is_floating_point() || item.tensor.is_complex())) continue;
    const at::Tensor* const averaged = averages.find(item.name);
    if (!averaged || averaged->sizes() != item.tensor.sizes()) continue;
    const at::Tensor ours = averaged->detach().reshape(-1);
    const at::Tensor theirs = item.tensor.detach().reshape(-1);
    for (int64_t begin = 0; begin < ours.numel(); begin += kPart) {
      const int64_t count = std::min(kPart, ours.numel() - begin);
      const at::Tensor part = ours.narrow(0, begin, count);
      const at::Tensor weight = theirs.narrow(0, begin, count).to(part.options());
      add_square(difference, part - weight);
      add_square(size, weight);
    }
  }
  const double all = size.defined() ? size.item<double>() : 0;
  if (all == 0) return std::nullopt;
  return std::sqrt(difference.item<double>() / all);
}

/// Calls `use` for each; one that throws is left out from here on.
void keep_if(std::vector<std::shared_ptr<VisBackend>>& backends,
             const std::function<void(VisBackend&)>& use) {
  const auto fails = [&](const std::shared_ptr<VisBackend>& backend) {
    try {
      use(*backend);
    } catch (const std::exception& error) {
      log_warning("LoggerHook: {}; continuing without it", first_line(error));
      return true;
    }
    return false;
  };
  backends.erase(std::remove_if(backends.begin(), backends.end(), fails), backends.end());
}

/// "/12", or "" if the number is unknown.
std::string of(int64_t all) {
  return all > 0 ? fmt::format("/{}", all) : "";
}

}  // namespace

void LoggerHookOptions::visit(OptionVisitor& visitor) {
  visitor.key("interval", &interval_, "Log every so many iterations.", steps_from(1));
  visitor.key("window_size", &window_size_,
              "Number of iterations over which losses and times are averaged.", count_from(1));
  visitor.key("ignore_last", &ignore_last_,
              "Do not log the end of an epoch if it is shorter than the interval.");
  visitor.key("log_metric_by_epoch", &log_metric_by_epoch_,
              "Count validations in scalars.json by epochs instead of iterations.");
  visitor.key("progress_bar", &progress_bar_,
              "Show a progress bar if standard error is a terminal.");
  visitor.key(
      "ema_distance", &ema_distance_,
      "Log the distance of each average from the weights, relative to them; reads both once "
      "for each line.");
  visitor.component("vis_backends", &vis_backends_, VisBackend::kKind,
                    "Where the numbers go beside the log, a list; null: LocalVisBackend.",
                    Blocks::Form::list);
}

LoggerHook::LoggerHook(LoggerHookOptions options, std::vector<std::shared_ptr<VisBackend>> backends)
    : options_(std::move(options)),
      bar_(std::make_unique<ProgressBar>()),
      backends_(std::move(backends)) {
  check_options(options_, "LoggerHook");
  if (options_.vis_backends().is_null() && backends_.empty()) {
    backends_.push_back(std::make_shared<LocalVisBackend>());
  }
}

LoggerHook::~LoggerHook() = default;

void LoggerHook::before_train(Runner& runner) {
  last_.reset();
  seconds_ = 0;
  timed_ = 0;
  if (!runner.resuming()) windows_.clear();
  if (runner.resuming() && !earlier_.empty()) take_over_scalars(runner);
}

void LoggerHook::before_train_epoch(Runner& runner) {
  if (!last_ && !runner.began_unseen()) last_ = Clock::now();
}

void LoggerHook::before_train_iter(Runner& runner, int64_t /*batch*/) {
  if (!last_ && !runner.began_unseen()) last_ = Clock::now();
  if (const auto rate = runner.learning_rate()) runner.log("lr", *rate);
}

void LoggerHook::before_save_checkpoint(Runner& /*runner*/, Value& checkpoint) {
  if (!checkpoint.contains("polyak")) checkpoint.set("polyak", Value::dict()).set("format", 1);
  Value windows = Value::dict();
  for (const auto& [name, window] : windows_) {
    if (name.find("time") != std::string::npos) continue;  // not comparable between processes
    const std::vector<double> values(window.begin(), window.end());
    windows.set(name, at::tensor(values, at::kDouble));
  }
  Value logger = Value::dict();
  logger.set("windows", std::move(windows));
  if (!lines_name_.empty()) logger.set("scalars", lines_name_);
  checkpoint.at("polyak").set("logger", std::move(logger));
}

void LoggerHook::after_load_checkpoint(Runner& runner, Value& checkpoint) {
  const Value* ours = checkpoint.find("polyak");
  const Value* logger = ours ? ours->find("logger") : nullptr;
  if (!logger || !runner.resuming()) return;
  for (const auto& [name, values] : logger->at("windows").entries()) {
    const at::Tensor numbers = values.as_tensor().to(at::kDouble).contiguous();
    const double* first = numbers.data_ptr<double>();
    windows_[name.as_string()].assign(first, first + numbers.numel());
  }
  if (const Value* name = logger->find("scalars")) earlier_ = name->as_string();
}

/// The numbers of this run start with those of the resumed run up to its checkpoint, so that they
/// cover the whole run. Those of a validation that is not in the checkpoint are kept back, and
/// dropped if the validation is repeated.
void LoggerHook::take_over_scalars(Runner& runner) {
  if (!is_main(runner.process_group().get())) return;
  const Progress& progress = runner.progress();
  const bool epochs = options_.log_metric_by_epoch() && progress.by_epoch;
  const int64_t done = epochs ? progress.epoch : progress.iter;
  const Value* validated = runner.run_info().find("validated");
  const int64_t known = validated ? validated->at(epochs ? "epoch" : "iter").as_int() : -1;
  const std::filesystem::path folder = runner.work_dir();
  std::ifstream file(folder / earlier_);
  if (!file) {
    log_info("LoggerHook: {} does not exist, so scalars.json starts at iteration {}",
             (folder / earlier_).string(), progress.iter + 1);
    return;
  }
  earlier_.clear();
  std::vector<Line> kept;  // all of them are read before the first is written
  for (std::string text; std::getline(file, text);) {
    const auto line = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!line.is_object() || !line.contains("step")) continue;  // truncated
    const auto step = line["step"].get<int64_t>();
    if (line.contains("iter") ? line["iter"].get<int64_t>() > progress.iter : step > done) continue;
    Scalars values;
    for (const auto& [name, value] : line.items()) {
      if (name == "step") continue;
      if (value.is_number()) values[name] = value.get<double>();
      if (value.is_null()) values[name] = std::nan("");  // JSON has no other word for it
    }
    if (!line.contains("iter") && step == done && step > known) {
      pending_.push_back({std::move(values), step});
      pending_step_ = step;
    } else {
      kept.push_back({std::move(values), step});
    }
  }
  for (const Line& line : kept) write_scalars(runner, line.values, line.step);
}

void LoggerHook::remember(const Scalars& values) {
  for (const auto& [name, value] : values) {
    auto& window = windows_[name];
    window.push_back(value);
    if (window.size() > static_cast<size_t>(options_.window_size())) window.pop_front();
  }
}

double LoggerHook::smoothed(const std::string& name) const {
  const auto& window = windows_.at(name);
  if (!is_averaged(name)) return window.back();
  double sum = 0;
  for (double value : window) sum += value;
  return sum / static_cast<double>(window.size());
}

/// The remaining time of the run; empty if unknown.
std::string LoggerHook::eta(const Runner& runner) const {
  const Progress& progress = runner.progress();
  const int64_t iters = progress.max_iters - progress.iter - 1;
  if (timed_ == 0 || progress.max_iters <= 0 || iters < 0) return "";
  const auto left =
      static_cast<int64_t>(seconds_ / static_cast<double>(timed_) * static_cast<double>(iters));
  const int64_t days = left / 86400;
  const std::string clock =
      fmt::format("{}:{:02}:{:02}", left % 86400 / 3600, left % 3600 / 60, left % 60);
  return days == 0 ? clock : fmt::format("{} day{}, {}", days, days == 1 ? "" : "s", clock);
}

void LoggerHook::add_distances(Runner& runner, Scalars& values) const {
  if (!options_.ema_distance()) return;
  for (const NamedAverage& item : runner.averages().all()) {
    if (!item.average->has_started() || item.average->is_swapped()) continue;
    const auto distance = relative_distance(*item.average, runner.model().tensors());
    if (distance) values[scalar_of("ema_distance", item)] = *distance;
  }
}

void LoggerHook::after_train_iter(Runner& runner, int64_t batch, const Scalars& /*outputs*/) {
  remember(runner.logged());
  const Progress& progress = runner.progress();
  const Clock::time_point now = Clock::now();
  if (last_) {
    seconds_ += std::chrono::duration<double>(now - *last_).count();
    ++timed_;
  }
  last_ = now;

  const bool last = progress.by_epoch ? end_of_epoch(runner, batch) : is_last_train_iter(runner);
  const bool short_epoch = progress.epoch_length <= options_.interval();
  const bool due = progress.by_epoch ? every_n_inner_iters(batch, options_.interval())
                                     : every_n_train_iters(runner, options_.interval());
  if (!due && !(last && (!options_.ignore_last() || short_epoch))) {
    draw_bar(runner, batch);
    return;
  }

  std::string line;
  if (progress.by_epoch) {
    const std::string epoch = fmt::format("[{}]", progress.epoch + 1);
    line = fmt::format("Epoch(train) {:>{}}[{:>{}}{}]  ", epoch, width(progress.max_epochs) + 2,
                       batch + 1, width(progress.epoch_length), of(progress.epoch_length));
  } else {
    line = fmt::format("Iter(train) [{:>{}}{}]  ", progress.iter + 1, width(progress.max_iters),
                       of(progress.max_iters));
  }
  Scalars values;
  for (const auto& [name, window] : windows_) values[name] = smoothed(name);
  add_distances(runner, values);
  if (values.count("lr")) line += field("lr", values["lr"]) + "  ";
  if (const std::string left = eta(runner); !left.empty()) line += fmt::format("eta: {}", left);
  for (const char* name : {"time", "data_time"}) {
    if (values.count(name)) line += "  " + field(name, values[name]);
  }
  for (const auto& [name, value] : values) {
    if (name == "lr" || name == "time" || name == "data_time" || name == "ema_time_ms") continue;
    line += "  " + field(name, value);
  }
  bar_->clear();
  if (is_main(runner.process_group().get())) log_info("{}", line);
  runner.averages().warn_of_nonfinite(progress.iter + 1);
  add_horizons(runner, values);
  if (progress.by_epoch) values["epoch"] = static_cast<double>(progress.epoch + 1);
  values["iter"] = static_cast<double>(progress.iter + 1);
  write_pending(runner);
  write_scalars(runner, values, progress.iter + 1);
}

void LoggerHook::after_train_epoch(Runner& /*runner*/) {
  bar_->clear();
}

void LoggerHook::after_train(Runner& runner) {
  write_pending(runner);
}

void LoggerHook::begin_evaluation() {
  windows_.clear();
  evaluation_ = Clock::now();
}
void LoggerHook::end_evaluation() {
  if (last_) *last_ += Clock::now() - evaluation_;
}

void LoggerHook::before_val_epoch(Runner& /*runner*/) {
  begin_evaluation();
}
void LoggerHook::before_test_epoch(Runner& /*runner*/) {
  begin_evaluation();
}
void LoggerHook::after_val_iter(Runner& runner, int64_t /*batch*/) {
  remember(runner.logged());
}
void LoggerHook::after_test_iter(Runner& runner, int64_t /*batch*/) {
  remember(runner.logged());
}

void LoggerHook::after_val_epoch(Runner& runner, Scalars& metrics) {
  log_evaluation(runner, "val", metrics);
  end_evaluation();
}
void LoggerHook::after_test_epoch(Runner& runner, Scalars& metrics) {
  log_evaluation(runner, "test", metrics);
  end_evaluation();
}

void LoggerHook::log_evaluation(Runner& runner, const char* stage, const Scalars& metrics) {
  Scalars values = metrics;
  std::string times;
  for (const char* name : {"data_time", "time"}) {
    if (!windows_.count(name)) continue;
    values[name] = smoothed(name);
    times += "  " + field(name, values[name]);
  }
  windows_.clear();
  if (metrics.empty()) return;
  last_metric_ = fmt::format("{} {:.4g}", metrics.begin()->first, metrics.begin()->second);
  const Progress& progress = runner.progress();
  std::string line = progress.by_epoch ? fmt::format("Epoch({}) [{}]  ", stage, progress.epoch)
                                       : fmt::format("Iter({}) [{}]  ", stage, progress.iter);
  for (const auto& [name, value] : metrics) line += "  " + field(name, value);
  if (is_main(runner.process_group().get())) log_info("{}{}", line, times);
  const int64_t step =
      options_.log_metric_by_epoch() && progress.by_epoch ? progress.epoch : progress.iter;
  if (step == pending_step_) pending_.clear();  // the same validation was repeated
  write_pending(runner);
  write_scalars(runner, values, step);
}

void LoggerHook::open_backends(const Runner& runner) {
  if (is_open_ || runner.work_dir().empty()) return;
  is_open_ = true;
  const std::string name = runner.timestamp() + "/vis_data";
  const auto folder = std::filesystem::path(runner.work_dir()) / name;
  std::filesystem::create_directories(folder);
  for (const auto& backend : backends_) {
    if (!backend->file().empty()) lines_name_ = name + "/" + backend->file();
  }
  keep_if(backends_, [&](VisBackend& backend) { backend.open(folder.string()); });
}

void LoggerHook::write_pending(const Runner& runner) {
  for (const Line& line : std::exchange(pending_, {}))
    write_scalars(runner, line.values, line.step);
}

void LoggerHook::write_scalars(const Runner& runner, const Scalars& values, int64_t step) {
  if (!is_main(runner.process_group().get())) return;
  open_backends(runner);
  if (!is_open_) return;
  keep_if(backends_, [&](VisBackend& backend) { backend.add_scalars(values, step); });
}

void LoggerHook::draw_bar(const Runner& runner, int64_t batch) {
  if (!options_.progress_bar() || !ProgressBar::is_possible() || !bar_->is_due()) return;
  if (!is_main(runner.process_group().get())) return;
  const Progress& progress = runner.progress();
  if (progress.max_iters <= 0) return;  // the length is unknown
  Progressing now;
  if (progress.by_epoch) {
    now.title = fmt::format("epoch {}/{}", progress.epoch + 1, progress.max_epochs);
  }
  now.done = progress.by_epoch ? batch + 1 : progress.iter + 1;
  now.all = progress.by_epoch ? progress.epoch_length : progress.max_iters;
  if (const std::string left = eta(runner); !left.empty()) now.fields.push_back("eta " + left);
  const double time = windows_.count("time") ? smoothed("time") : 0;
  if (time > 0 && progress.batch_size > 0) {
    const double rate = static_cast<double>(progress.batch_size) / time;
    now.fields.push_back(fmt::format("{:.{}f} samples/s", rate, rate < 10 ? 1 : 0));
  }
  if (windows_.count("loss")) now.fields.push_back(fmt::format("loss {:.4g}", smoothed("loss")));
  if (!last_metric_.empty()) now.fields.push_back(last_metric_);
  bar_->draw(now);
}

}  // namespace polyak
