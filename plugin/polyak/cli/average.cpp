// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "polyak/checkpoint/format.h"
#include "polyak/cli/command_text.h"
#include "polyak/cli/commands.h"
#include "polyak/cli/console_log.h"
#include "polyak/cli/file_summary.h"
#include "polyak/cli/registered.h"
#include "polyak/cli/run_arguments.h"
#include "polyak/cli/streams.h"
#include "polyak/config/load.h"
#include "polyak/config/nearest.h"
#include "polyak/core/error.h"
#include "polyak/rules/power_function_ema.h"
#include "polyak/runtime/metric_direction.h"
#include "polyak/runtime/offline_average.h"
#include "polyak/runtime/post_hoc_average.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/run_folder.h"
#include "polyak/runtime/state_dict.h"
#include "polyak/trainer/train_runner.h"

namespace polyak::cli {
namespace fs = std::filesystem;
namespace {

struct AverageArguments {
  std::vector<std::string> files;  // or a work_dir
  std::string out;
  std::string format;
  std::string dtype;
  // of files
  std::string type;
  std::vector<std::string> settings;  // key=value of the type
  std::string shape;
  std::string weights;
  std::string key;
  std::string order;
  bool normalize = false;
  bool greedy = false;
  // of a run's snapshots
  std::string post_hoc;
  std::string sweep;
  std::optional<int64_t> step;
  // what is measured
  RunArguments run;
  std::string metric;
  std::string best;

  bool of_snapshots() const { return !post_hoc.empty() || !sweep.empty(); }
};

std::optional<double> parse_number(const std::string& text) {
  if (text.empty()) return std::nullopt;
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  return *end == '\0' ? std::optional(number) : std::nullopt;
}

/// FILE or FILE:WEIGHT; a file whose own name looks like that is a FILE.
OfflineFile parse_file(const std::string& text) {
  std::error_code error;
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || fs::exists(text, error)) return {text, std::nullopt};
  const std::optional<double> weight = parse_number(text.substr(colon + 1));
  if (!weight) return {text, std::nullopt};
  return {text.substr(0, colon), weight};
}

// ---- the metric of averages

/// The model of a config, measured on the validation data with weights of files.
class MeasuredModel {
 public:
  explicit MeasuredModel(const AverageArguments& arguments)
      : metric_(arguments.metric),
        runner_(config_of(arguments.run), registered(), TrainRunner::Purpose::test) {
    const std::vector<std::string> names = runner_.metric_names();
    if (!std::count(names.begin(), names.end(), metric_)) {
      const std::string near = nearest_name(metric_, names);
      fail<ConfigError>("--metric: the config measures no '{}'; {}it measures {}", metric_,
                        near.empty() ? "" : fmt::format("did you mean '{}'? ", near),
                        fmt::join(names, ", "));
    }
    const std::optional<bool> known = polyak::larger_is_better(metric_);
    if (arguments.best.empty() && !known) {
      fail<ConfigError>(
          "--metric: it is not known whether larger values of '{}' are better; add --best greater "
          "or --best less",
          metric_);
    }
    larger_is_better_ = arguments.best.empty() ? *known : arguments.best == "greater";
  }

  bool larger_is_better() const { return larger_is_better_; }
  double measure(const Value& state_dict) {
    const ModelRef model = runner_.model();
    Value checkpoint = Value::dict({{"state_dict", state_dict}});
    fit_checkpoint(checkpoint, model, /*resuming=*/false);
    check_state_dict(model, checkpoint.at("state_dict"), /*whole=*/true);
    load_state_dict(model, checkpoint.at("state_dict"));
    return runner_.measure().at(metric_);
  }

 private:
  /// A test of the validation data, by a runner that has no hooks and writes nothing.
  static Node config_of(const RunArguments& arguments) {
    Node config = read_config(arguments);
    const Node* data = config.find("val_dataloader");
    if (!data || data->is_null()) {
      config.fail(
          "has no val_dataloader, on whose data --metric is measured; add it and val_evaluator");
    }
    Node loader = *data;
    config.set("test_dataloader", std::move(loader));
    Node evaluator = config.at("val_evaluator");
    config.set("test_evaluator", std::move(evaluator));
    config.set("load_from", Node());
    config.set("launcher", "none");  // how the run was started
    config.set("custom_hooks", Node());
    Node hooks = Node::mapping();
    for (const char* name : {"runtime_info", "timer", "logger", "param_scheduler", "checkpoint"}) {
      hooks.set(name, Node());
    }
    config.set("default_hooks", std::move(hooks));
    config.set("work_dir", fs::temp_directory_path().string());
    return config;
  }

  std::string metric_;
  TrainRunner runner_;
  bool larger_is_better_ = true;
};

// ---- what was asked for

void refuse_with(bool given, const char* option, const char* with) {
  if (given) fail<ConfigError>("{} does not go with {}; remove one of them", option, with);
}

/// Before the work, which may take hours.
void check_out(const std::string& out, const std::string& format) {
  const std::optional<CheckpointFormat> named = checkpoint_format(out);
  if (format.empty() && !named) {
    fail<ConfigError>("{}: its extension does not say the format; add --format pth or safetensors",
                      out);
  }
  if (named && !format.empty() &&
      (*named == CheckpointFormat::safetensors) != (format == "safetensors")) {
    fail<ConfigError>("{}: its extension is not that of --format {}; rename it, or remove --format",
                      out, format);
  }
  std::error_code error;
  if (fs::is_directory(out, error)) fail<ConfigError>("{}: is a folder; name a file in it", out);
  const fs::path folder = fs::path(out).parent_path();
  if (!folder.empty() && !fs::is_directory(folder, error)) {
    fail<ConfigError>("{}: create the folder '{}' first", out, folder.string());
  }
  const std::string reason = unwritable_reason(folder.empty() ? "." : folder.string());
  if (!reason.empty()) fail<ConfigError>("{}: cannot be written: {}", out, reason);
}

void check_arguments(const AverageArguments& arguments) {
  const bool measures = arguments.greedy || !arguments.sweep.empty();
  const char* const mode = !arguments.post_hoc.empty() ? "--post-hoc" : "--sweep";
  if (arguments.of_snapshots()) {
    refuse_with(!arguments.post_hoc.empty() && !arguments.sweep.empty(), "--sweep", "--post-hoc");
    refuse_with(!arguments.type.empty(), "--type", mode);
    refuse_with(!arguments.settings.empty(), "--set", mode);
    refuse_with(!arguments.shape.empty(), "--shape", mode);
    refuse_with(!arguments.weights.empty(), "--weights", mode);
    refuse_with(!arguments.key.empty(), "--key", mode);
    refuse_with(!arguments.order.empty(), "--order", mode);
    refuse_with(arguments.normalize, "--normalize", mode);
    refuse_with(arguments.greedy, "--greedy", mode);
    if (arguments.files.size() != 1) {
      fail<ConfigError>("{} takes one folder, the work_dir of a run with a PostHocEMAHook; got {}",
                        mode, arguments.files.size());
    }
  } else {
    refuse_with(arguments.step.has_value(), "--step", "files; it is for --post-hoc and --sweep");
  }
  if (!arguments.settings.empty() && arguments.type.empty()) {
    fail<ConfigError>("--set sets keys of the average that --type names; add --type");
  }
  if (arguments.greedy) {
    refuse_with(!arguments.type.empty(), "--type", "--greedy");
    refuse_with(!arguments.shape.empty(), "--shape", "--greedy");
  }
  if (measures && (arguments.run.config.empty() || arguments.metric.empty())) {
    fail<ConfigError>("{} needs --config, whose model and validation data measure, and --metric",
                      arguments.greedy ? "--greedy" : "--sweep");
  }
  if (!measures) {
    for (const auto& [given, option] :
         {std::pair(!arguments.run.config.empty(), "--config"),
          std::pair(!arguments.metric.empty(), "--metric"),
          std::pair(!arguments.best.empty(), "--best"),
          std::pair(!arguments.run.overrides.empty(), "--cfg-options")}) {
      if (given) fail<ConfigError>("{} is only for --greedy and --sweep", option);
    }
  }
  if (arguments.out.empty()) {
    if (!arguments.sweep.empty()) return;
    fail<ConfigError>("-o is missing: the file to write, such as -o averaged.safetensors");
  }
  check_out(arguments.out, arguments.format);
}

void print_written(const std::string& path, const Value& state_dict, const std::string& what) {
  std::error_code error;
  const auto size = static_cast<int64_t>(fs::file_size(path, error));
  print("{}: {} tensors, {}, {}\n", path, state_dict.entries().size(), size_text(size), what);
}

// ---- averages of files

Node rule_of(const AverageArguments& arguments) {
  if (arguments.type.empty()) return {};
  Node rule = Node::mapping();
  for (const std::string& setting : arguments.settings) apply_override(rule, setting, "--set");
  if (rule.find("type")) fail<ConfigError>("--set type: the type is what --type says; remove it");
  Node type(arguments.type);
  type.set_place({"--type", 0, 0, nullptr});
  rule.set("type", std::move(type));
  return rule;
}

void print_files(const OfflineAverage& average) {
  const std::vector<OfflineSource>& files = average.files();
  size_t width = 4;
  for (const OfflineSource& source : files) {
    if (source.step) width = std::max(width, fmt::formatted_size("{}", *source.step));
  }
  print("{} files, {}:\n  {:>{}}  {:>12}  file\n", files.size(),
        average.order() == "as given" ? "in the order given" : "ordered " + average.order(), "step",
        width, "weight");
  for (const OfflineSource& source : files) {
    print("  {:>{}}  {:>12.6g}  {}\n", source.step ? fmt::format("{}", *source.step) : "-", width,
          source.weight, source.path);
  }
}

int average_files(const AverageArguments& arguments) {
  std::vector<OfflineFile> files;
  for (const std::string& text : arguments.files) {
    files.push_back(parse_file(text));
    std::error_code error;
    if (files.back().path == arguments.out ||
        fs::equivalent(files.back().path, arguments.out, error)) {
      fail<ConfigError>("{}: would be replaced by the average; write to another file",
                        arguments.out);
    }
    if (arguments.greedy && files.back().weight) {
      fail<ConfigError>("{}: weights of files do not go with --greedy, which chooses them", text);
    }
  }
  OfflineOptions options;
  options.weights = arguments.weights;
  options.key = arguments.key;
  options.by_step = arguments.order != "given";
  options.normalize = arguments.normalize;
  options.shape = arguments.shape;
  options.rule = rule_of(arguments);
  options.dtype = arguments.dtype;
  OfflineAverage average(std::move(files), std::move(options), registered().of<AveragedModel>());
  std::unique_ptr<MeasuredModel> model;
  if (arguments.greedy) model = std::make_unique<MeasuredModel>(arguments);
  average.survey();
  Value state_dict;
  if (arguments.greedy) {
    print("{} files, {} of each alone and together with those before it:\n", average.files().size(),
          arguments.metric);
    state_dict = average.run_greedy(
        [&](const Value& weights) { return model->measure(weights); }, model->larger_is_better(),
        [](const std::string& path, double alone, std::optional<double> together, bool stays) {
          print("  {:>10.4f}  {:>10}  {:<8}  {}\n", alone,
                together ? fmt::format("{:.4f}", *together) : "-", stays ? "added" : "left out",
                path);
        });
  } else {
    print_files(average);
    state_dict = average.run();
  }
  write_offline_average(arguments.out, arguments.format, state_dict, average.meta());
  print_written(arguments.out, state_dict,
                fmt::format("{} of {} files", average.method(), average.files().size()));
  return 0;
}

// ---- averages of snapshots

double parse_post_hoc(const std::string& text) {
  const size_t equals = text.find('=');
  const std::string name = text.substr(0, equals);
  const auto number =
      equals == std::string::npos ? std::nullopt : parse_number(text.substr(equals + 1));
  if (number && name == "sigma_rel" && *number > 0 && *number <= kMaxSigmaRel) {
    return power_function_gamma(*number);
  }
  if (number && name == "gamma" && *number >= 0 && *number <= 1e6) return *number;
  fail<ConfigError>(
      "--post-hoc: must be sigma_rel=S with S above 0 and at most {:.4g}, or gamma=G with G of at "
      "least 0, got '{}'",
      kMaxSigmaRel, text);
}

/// A:B:N, the widths of a sweep.
std::vector<double> parse_sweep(const std::string& text) {
  const size_t first = text.find(':');
  const size_t second = first == std::string::npos ? first : text.find(':', first + 1);
  if (second != std::string::npos) {
    const auto low = parse_number(text.substr(0, first));
    const auto high = parse_number(text.substr(first + 1, second - first - 1));
    const auto count = parse_number(text.substr(second + 1));
    if (low && high && count && *low > 0 && *low < *high && *high <= kMaxSigmaRel && *count >= 2 &&
        *count <= 1000 && *count == std::floor(*count)) {
      std::vector<double> widths;
      for (int i = 0; i < static_cast<int>(*count); ++i) {
        widths.push_back(*low + (*high - *low) * i / (*count - 1));
      }
      return widths;
    }
  }
  fail<ConfigError>(
      "--sweep: must be A:B:N, N widths sigma_rel from A to B, with 0 < A < B <= {:.4g} and N from "
      "2 to 1000, such as 0.02:0.25:10; got '{}'",
      kMaxSigmaRel, text);
}

PostHocAverage open_snapshots(const AverageArguments& arguments) {
  PostHocAverage average(arguments.files.front(), arguments.step);
  const fs::path folder = fs::path(average.snapshots().front().path).parent_path();
  const fs::path out = fs::absolute(arguments.out).parent_path();
  std::error_code error;
  if (!arguments.out.empty() && fs::equivalent(folder, out, error)) {
    fail<ConfigError>(
        "{}: is in the folder of the snapshots, where it would be taken for one of them; write to "
        "another folder",
        arguments.out);
  }
  print("{} snapshots in {}, of the steps {} to {}\n", average.snapshots().size(), average.dtype(),
        average.snapshots().front().step, average.snapshots().back().step);
  return average;
}

int combine_snapshots(const AverageArguments& arguments) {
  const double gamma = parse_post_hoc(arguments.post_hoc);
  const PostHocAverage average = open_snapshots(arguments);
  const Synthesis synthesis = average.solve(gamma);
  average.check(synthesis, gamma);
  print(
      "sigma_rel {:.4g} (gamma {:.4g}) at step {}: residual {:.2g}, sum of |coefficients| {:.3g}, "
      "rounding errors of about {:.1e} of the weights\n",
      power_function_sigma_rel(gamma), gamma, average.step(), synthesis.residual,
      synthesis.sum_of_magnitudes, average.rounding(synthesis));
  const Value state_dict = average.run(synthesis, arguments.dtype);
  write_offline_average(arguments.out, arguments.format, state_dict,
                        average.meta(synthesis, gamma));
  print_written(arguments.out, state_dict,
                fmt::format("sigma_rel {:.4g}", power_function_sigma_rel(gamma)));
  return 0;
}

int sweep_snapshots(const AverageArguments& arguments) {
  const std::vector<double> widths = parse_sweep(arguments.sweep);
  MeasuredModel model(arguments);
  const PostHocAverage average = open_snapshots(arguments);
  const std::string title = arguments.metric;
  const size_t column = std::max<size_t>(title.size(), 10);
  print("\n| sigma_rel | residual | sum of abs. | rounding | {:>{}} |\n", title, column);
  print("|-----------|----------|-------------|----------|{:-<{}}|\n", "", column + 2);
  std::optional<double> best;
  double best_width = 0;
  for (const double width : widths) {
    const Synthesis synthesis = average.solve(power_function_gamma(width));
    std::optional<double> metric;
    if (synthesis.residual <= kPostHocBound) metric = model.measure(average.run(synthesis));
    print("| {:>9.4f} | {:>8.1e} | {:>11.2f} | {:>8.1e} | {:>{}} |\n", width, synthesis.residual,
          synthesis.sum_of_magnitudes, average.rounding(synthesis),
          metric ? fmt::format("{:.4f}", *metric) : "-", column);
    if (!metric || std::isnan(*metric)) continue;
    if (!best || (model.larger_is_better() ? *metric > *best : *metric < *best)) {
      best = metric;
      best_width = width;
    }
  }
  if (!best) {
    const double gamma = power_function_gamma(widths.front());
    average.check(average.solve(gamma), gamma);  // says what the snapshots can give
    fail<Error>("{} is not a number for any of these widths", arguments.metric);
  }
  print("\nThe best: sigma_rel {:.4g} with {} {:.4f}\n", best_width, arguments.metric, *best);
  if (arguments.out.empty()) return 0;
  const double gamma = power_function_gamma(best_width);
  const Synthesis synthesis = average.solve(gamma);
  const Value state_dict = average.run(synthesis, arguments.dtype);
  write_offline_average(arguments.out, arguments.format, state_dict,
                        average.meta(synthesis, gamma));
  print_written(arguments.out, state_dict, fmt::format("sigma_rel {:.4g}", best_width));
  return 0;
}

int average(const AverageArguments& arguments) {
  const ConsoleLog log;
  check_arguments(arguments);
  if (!arguments.sweep.empty()) return sweep_snapshots(arguments);
  if (!arguments.post_hoc.empty()) return combine_snapshots(arguments);
  return average_files(arguments);
}

}  // namespace

void add_average(CLI::App& app, int& status) {
  CLI::App* command = app.add_subcommand(
      "average", "Average the weights of files, or of a run's snapshots, after training");
  auto arguments = std::make_shared<AverageArguments>();
  const auto dtypes = CLI::IsMember({"float64", "float32", "float16", "bfloat16"});
  command
      ->add_option("files", arguments->files,
                   "Files of weights, FILE or FILE:WEIGHT; with --post-hoc or --sweep a work_dir")
      ->type_name(kFile)
      ->required();
  command->add_option("-o,--out", arguments->out, "The file to write")->type_name(kFile);
  command
      ->add_option("--format", arguments->format,
                   "pth or safetensors; default: by the extension of OUT")
      ->check(CLI::IsMember({"pth", "safetensors"}));
  command
      ->add_option("--dtype", arguments->dtype,
                   "float64, float32, float16 or bfloat16 of floating-point tensors")
      ->check(dtypes);
  command
      ->add_option("--type", arguments->type,
                   "A registered average, updated with one file after the other; default: the "
                   "mean")
      ->type_name(kAverage);
  command->add_option("--set", arguments->settings, "Keys of that average: key=value")
      ->expected(1, -1);
  command
      ->add_option("--shape", arguments->shape,
                   "linear or minus_sqrt: the decay of the learning rate that the average stands "
                   "for")
      ->check(CLI::IsMember({"linear", "minus_sqrt"}));
  command->add_option("--weights", arguments->weights,
                      "raw, averaged, or the name of an average, in files that hold several");
  command->add_option("--key", arguments->key,
                      "Where the weights are in the files, such as ema; default: found");
  command
      ->add_option("--order", arguments->order,
                   "step: by the files' steps or the numbers in their names (the default); given")
      ->check(CLI::IsMember({"step", "given"}));
  command->add_flag("--normalize", arguments->normalize, "Divide weights of files by their sum");
  command->add_flag("--greedy", arguments->greedy,
                    "Only take files with which the metric does not become worse");
  command->add_option("--post-hoc", arguments->post_hoc,
                      "sigma_rel=S or gamma=G: the average of that width from a run's snapshots");
  command->add_option("--sweep", arguments->sweep,
                      "A:B:N: measure averages of N widths sigma_rel from A to B");
  command
      ->add_option("--step", arguments->step,
                   "The step at which those averages end; default: the newest snapshot's")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--config", arguments->run.config,
                   "A config, whose model is measured on its validation data")
      ->type_name(kFile);
  command->add_option("--cfg-options", arguments->run.overrides, "Override config values")
      ->expected(1, -1);
  command->add_option("--metric", arguments->metric, "The metric that is measured");
  command
      ->add_option("--best", arguments->best,
                   "greater or less: which values of the metric are better; default: by its name")
      ->check(CLI::IsMember({"greater", "less"}));
  command->callback([arguments, &status] { status = average(*arguments); });
}

}  // namespace polyak::cli
