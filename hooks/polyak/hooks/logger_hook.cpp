// SPDX-License-Identifier: Apache-2.0
#include "polyak/hooks/logger_hook.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>

#include "polyak/checkpoint/file.h"
#include "polyak/core/log.h"
#include "polyak/runtime/runner.h"

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
void show(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

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
}

LoggerHook::LoggerHook(LoggerHookOptions options) : options_(std::move(options)) {
  check_options(options_, "LoggerHook");
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
  if (!scalars_name_.empty()) logger.set("scalars", scalars_name_);
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

/// This run's scalars.json starts with the lines of the resumed run up to its checkpoint, so that
/// the newest file covers the whole run. Lines of a validation that is not in the checkpoint are
/// kept back, and dropped if the validation is repeated.
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
  std::string kept;
  for (std::string line; std::getline(file, line);) {
    const auto values = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!values.is_object() || !values.contains("step")) continue;  // truncated
    const auto step = values["step"].get<int64_t>();
    if (values.contains("iter") ? values["iter"].get<int64_t>() > progress.iter : step > done) {
      continue;
    }
    if (!values.contains("iter") && step == done && step > known) {
      pending_.push_back(line);
      pending_step_ = step;
    } else {
      kept += line + "\n";
    }
  }
  earlier_.clear();
  scalars_name_ = scalars_name(runner);
  const std::filesystem::path own = folder / scalars_name_;
  std::filesystem::create_directories(own.parent_path());
  replace_text_file(own.string(), kept);
}

std::string LoggerHook::scalars_name(const Runner& runner) {
  return runner.timestamp() + "/vis_data/scalars.json";
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
    if (name != "lr" && name != "time" && name != "data_time") line += "  " + field(name, value);
  }
  clear_bar();
  if (is_main(runner.process_group().get())) log_info("{}", line);
  runner.averages().warn_of_nonfinite(progress.iter + 1);
  add_horizons(runner, values);
  if (progress.by_epoch) values["epoch"] = static_cast<double>(progress.epoch + 1);
  values["iter"] = static_cast<double>(progress.iter + 1);
  write_pending(runner);
  write_scalars(runner, values, progress.iter + 1);
}

void LoggerHook::after_train_epoch(Runner& /*runner*/) {
  clear_bar();
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

void LoggerHook::open_scalars(const Runner& runner) {
  if (scalars_tried_ || runner.work_dir().empty()) return;
  if (!is_main(runner.process_group().get())) return;
  scalars_tried_ = true;
  scalars_name_ = scalars_name(runner);
  const auto file = std::filesystem::path(runner.work_dir()) / scalars_name_;
  std::filesystem::create_directories(file.parent_path());
  scalars_.reset(std::fopen(file.c_str(), "a"));
  if (!scalars_) {
    log_warning("LoggerHook: {} cannot be written: {}; continuing without it", file.string(),
                std::generic_category().message(errno));
    return;
  }
  std::setvbuf(scalars_.get(), nullptr, _IONBF, 0);  // each line is written in one go
}

void LoggerHook::write_line(const std::string& line) {
  if (!scalars_) return;
  const std::string text = line + "\n";
  const off_t size = ::lseek(fileno(scalars_.get()), 0, SEEK_END);
  if (std::fwrite(text.data(), 1, text.size(), scalars_.get()) == text.size()) return;
  const std::string reason = std::generic_category().message(errno);
  // An incomplete line would be invalid JSON.
  const bool whole = ::ftruncate(fileno(scalars_.get()), size) == 0;
  scalars_.reset();
  log_warning("LoggerHook: scalars.json cannot be written: {}; continuing without it{}", reason,
              whole ? "" : "; its last line is incomplete");
}

void LoggerHook::write_pending(const Runner& runner) {
  if (!pending_.empty()) open_scalars(runner);
  for (const std::string& line : pending_) write_line(line);
  pending_.clear();
}

void LoggerHook::write_scalars(const Runner& runner, const Scalars& values, int64_t step) {
  nlohmann::ordered_json line;
  for (const auto& [name, value] : values) {
    const bool whole = name == "epoch" || name == "iter";
    whole ? line[name] = static_cast<int64_t>(value) : line[name] = value;
  }
  line["step"] = step;
  open_scalars(runner);
  write_line(line.dump());
}

void LoggerHook::draw_bar(const Runner& runner, int64_t batch) {
  static const bool is_terminal = isatty(fileno(stderr)) != 0;
  if (!options_.progress_bar() || !is_terminal) return;
  if (!is_main(runner.process_group().get())) return;
  const Progress& progress = runner.progress();
  if (progress.max_iters <= 0) return;  // the length is unknown
  const int64_t done = progress.by_epoch ? batch + 1 : progress.iter + 1;
  const int64_t all =
      std::max<int64_t>(progress.by_epoch ? progress.epoch_length : progress.max_iters, 1);
  constexpr int64_t kCells = 30;
  const auto filled = static_cast<size_t>(kCells * done / all);
  const std::string unit =
      progress.by_epoch ? fmt::format("epoch {}/{} ", progress.epoch + 1, progress.max_epochs)
                        : std::string();
  const std::string left = eta(runner);
  show(fmt::format("\r\x1b[K{}[{}{}] {}/{}{}{}", unit, std::string(filled, '#'),
                   std::string(kCells - filled, '.'), done, all, left.empty() ? "" : "  eta ",
                   left));
  bar_drawn_ = true;
}

void LoggerHook::clear_bar() {
  if (bar_drawn_) show("\r\x1b[K");
  bar_drawn_ = false;
}

}  // namespace polyak
