// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/offline_average.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/grad_mode.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "polyak/averaging/average_state.h"
#include "polyak/checkpoint/format.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/core/log.h"
#include "polyak/core/text.h"
#include "polyak/runtime/file_weights.h"
#include "polyak/runtime/publish.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/weighted_sum.h"
#include "polyak/version.h"

namespace polyak {
namespace fs = std::filesystem;
namespace {

// What files call the step that they were written at, the finest unit first.
constexpr const char* kStepNames[] = {"iter", "iteration", "global_step", "step", "epoch"};

std::optional<int64_t> parse_count(const std::string& text) {
  int64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc() || end != text.data() + text.size() || count < 0) return std::nullopt;
  return count;
}

/// A count as files hold it: an integer, or a tensor of one.
std::optional<int64_t> count_of(const Value* value) {
  if (!value) return std::nullopt;
  if (value->kind() == Value::Kind::integer && value->as_int() >= 0) return value->as_int();
  if (value->kind() == Value::Kind::string) return parse_count(value->as_string());
  if (value->is_tensor() && value->as_tensor().numel() == 1 &&
      at::isIntegralType(value->as_tensor().scalar_type(), /*includeBool=*/false)) {
    const auto count = value->as_tensor().item<int64_t>();
    if (count >= 0) return count;
  }
  return std::nullopt;
}

using Steps = std::map<std::string, int64_t>;  // by the name of their key

Steps steps_of(const std::string& path, const Value& file) {
  Steps steps;
  const Value* meta = file.find("meta");
  for (const char* name : kStepNames) {
    if (const auto count = count_of(meta && meta->is_dict() ? meta->find(name) : nullptr)) {
      steps.emplace(fmt::format("meta.{}", name), *count);
    }
    if (const auto count = count_of(file.find(name))) steps.emplace(name, *count);
  }
  if (checkpoint_format(path) == CheckpointFormat::safetensors) {
    const SafetensorsMetadata metadata = read_safetensors_metadata(path);
    for (const char* name : kStepNames) {
      const auto text = metadata.find(name);
      const auto count = text == metadata.end() ? std::nullopt : parse_count(text->second);
      if (count) steps.emplace(fmt::format("meta.{}", name), *count);
    }
  }
  return steps;
}

/// The last number in a file's name.
std::optional<int64_t> number_in_name(const std::string& path) {
  const std::string stem = fs::path(path).stem().string();
  size_t end = stem.size();
  while (end > 0 && !std::isdigit(static_cast<unsigned char>(stem[end - 1]))) --end;
  size_t begin = end;
  while (begin > 0 && std::isdigit(static_cast<unsigned char>(stem[begin - 1]))) --begin;
  return begin == end ? std::nullopt : parse_count(stem.substr(begin, end - begin));
}

Value read_whole_file(const std::string& path) {
  Value file = read_checkpoint_file(path);
  if (file.is_opaque()) {
    fail<CheckpointError>(
        "{}: holds a whole Python object, {}, which only Python can read; save its state_dict()",
        path, file.type_name());
  }
  if (!file.is_dict()) {
    fail<CheckpointError>("{}: holds a {}, expected a dict", path, file.kind_name());
  }
  return file;
}

double decay_of(const std::string& shape, double x) {
  return shape == "linear" ? 1 - x : 1 - std::sqrt(x);
}

/// Keys of averages that have no meaning for files.
void check_rule(const Node& rule) {
  for (const char* key : {"include", "exclude", "keep", "buffers", "share_frozen"}) {
    const Node* found = rule.find(key);
    if (found) found->fail("does not apply to files, whose tensors are all averaged; remove it");
  }
  if (const Node* found = rule.find("write_back")) {
    found->fail("does not apply to files, as nothing is trained; remove it");
  }
  if (const Node* found = rule.find("base_batch_size")) {
    found->fail("does not apply to files, which have no batches; remove it");
  }
}

nlohmann::ordered_json to_json(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::boolean:
      return value.as_bool();
    case Value::Kind::integer:
      return value.as_int();
    case Value::Kind::real:
      return value.as_real();
    case Value::Kind::string:
      return value.as_string();
    case Value::Kind::list: {
      auto list = nlohmann::ordered_json::array();
      for (const Value& item : value.items()) list.push_back(to_json(item));
      return list;
    }
    case Value::Kind::dict: {
      auto object = nlohmann::ordered_json::object();
      for (const auto& [key, item] : value.entries()) object[key.as_string()] = to_json(item);
      return object;
    }
    case Value::Kind::tensor: {  // numbers
      const at::Tensor numbers = value.as_tensor().to(at::kDouble).contiguous();
      const double* const first = numbers.data_ptr<double>();
      return std::vector<double>(first, first + numbers.numel());
    }
    default:
      return nullptr;
  }
}

}  // namespace

OfflineAverage::OfflineAverage(std::vector<OfflineFile> files, OfflineOptions options,
                               const Registry<AveragedModel>& averages)
    : given_(std::move(files)), options_(std::move(options)) {
  check_options();
  if (!options_.rule.is_null()) {
    check_rule(options_.rule);
    make_average_ = averages.prepare(options_.rule);
  }
  for (const OfflineFile& file : given_) sources_.push_back({file.path, {}, 0});
  set_weights();  // which refuses a rule's options
}

void OfflineAverage::check_options() const {
  if (given_.empty()) fail<ConfigError>("there are no files to average");
  const auto weighted =
      static_cast<size_t>(std::count_if(given_.begin(), given_.end(), [](const OfflineFile& file) {
        return file.weight.has_value();
      }));
  if (weighted != 0 && weighted != given_.size()) {
    const auto without = std::find_if(given_.begin(), given_.end(),
                                      [](const OfflineFile& file) { return !file.weight; });
    fail<ConfigError>("{} has no weight, but other files do; give each file one, or none",
                      without->path);
  }
  const int ways =
      (weighted ? 1 : 0) + (options_.shape.empty() ? 0 : 1) + (options_.rule.is_null() ? 0 : 1);
  if (ways > 1) {
    fail<ConfigError>(
        "weights of files (FILE:WEIGHT), a shape and a type are three ways to say how much each "
        "file counts; use one of them");
  }
  if (!options_.shape.empty() && options_.shape != "linear" && options_.shape != "minus_sqrt") {
    fail<ConfigError>("the shape is '{}', but must be linear or minus_sqrt", options_.shape);
  }
  if (!options_.key.empty() && !options_.weights.empty()) {
    fail<ConfigError>("--weights and --key both choose the weights; give one of them");
  }
  double sum = 0;
  for (const OfflineFile& file : given_) {
    if (file.weight && !std::isfinite(*file.weight)) {
      fail<ConfigError>("{}: its weight is {}, but must be a number", file.path, *file.weight);
    }
    sum += file.weight.value_or(0);
  }
  if (options_.normalize && !weighted) {
    fail<ConfigError>(
        "--normalize divides weights by their sum, but no file has one; write FILE:WEIGHT, or "
        "remove it");
  }
  if (weighted && options_.normalize && std::abs(sum) < 1e-9) {
    fail<ConfigError>("the weights of the files add up to {}, so they cannot be normalized", sum);
  }
  for (size_t i = 0; i < given_.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      std::error_code error;
      if (given_[i].path == given_[j].path ||
          fs::equivalent(given_[i].path, given_[j].path, error)) {
        fail<ConfigError>("{} is given twice; to count it more, write FILE:WEIGHT", given_[i].path);
      }
    }
  }
}

std::shared_ptr<AveragedModel> OfflineAverage::start_average(ModelRef model) const {
  AveragedModel::Context context;
  context.model = std::move(model);
  context.max_iters = static_cast<int64_t>(sources_.size());
  context.lengths.run = static_cast<int64_t>(sources_.size());
  return make_average_(context);
}

/// Of the files in their order.
void OfflineAverage::set_weights() {
  const auto count = static_cast<double>(sources_.size());
  if (make_average_) {
    const at::Tensor probe = at::zeros({1});
    const ModelRef model(std::vector<NamedTensor>{{"probe", probe, false}});
    const std::shared_ptr<AveragedModel> average = start_average(model);
    const auto value = [&] { return average->named_averages()["probe"].item<double>(); };
    for (size_t i = 0; i < sources_.size(); ++i) {
      // Another value each time: an update that only counts leaves the average as it is.
      const double before = value();
      probe.fill_(before + 1);
      average->update_parameters(model);
      const bool counts = value() != before;
      sources_[i].weight = counts ? average->weight(static_cast<int64_t>(i)) : 0;
    }
    if (!average->has_started()) {
      options_.rule.fail(fmt::format(
          "the average does not start within {} file(s); lower its begin or update_after_step",
          sources_.size()));
    }
    return;
  }
  double sum = 0;
  for (const OfflineFile& file : given_) sum += file.weight.value_or(0);
  for (size_t i = 0; i < sources_.size(); ++i) {
    OfflineSource& source = sources_[i];
    if (!options_.shape.empty()) {
      source.weight = decay_of(options_.shape, static_cast<double>(i) / count) -
                      decay_of(options_.shape, static_cast<double>(i + 1) / count);
      continue;
    }
    const auto given = std::find_if(given_.begin(), given_.end(), [&](const OfflineFile& file) {
      return file.path == source.path;
    });
    source.weight = given->weight ? *given->weight / (options_.normalize ? sum : 1) : 1 / count;
  }
}

/// The weights of one file, chosen as the options say.
Value OfflineAverage::weights_of(const std::string& path) const {
  return weights_in(read_whole_file(path), path);
}

Value OfflineAverage::weights_in(Value file, const std::string& path) const {
  Value chosen;
  name_file_in_errors(path, [&] {
    if (!options_.key.empty()) {
      chosen = checkpoint_with_weights(std::move(file), options_.key);
    } else if (!options_.weights.empty()) {
      chosen = checkpoint_with_kind(std::move(file), options_.weights);
    } else {
      const std::vector<std::string> kinds = weight_kinds(file);
      if (kinds.size() > 1) {
        fail<ConfigError>("{}: holds {} weights; choose with --weights {}", path,
                          fmt::join(kinds, ", "), fmt::join(kinds, " or --weights "));
      }
      const std::string place = find_weights(file);
      chosen = checkpoint_with_weights(std::move(file), place);
    }
  });
  return chosen.at("state_dict");
}

void OfflineAverage::survey() {
  std::optional<StateLayout> first;
  std::vector<Steps> steps;
  for (const OfflineFile& file : given_) {
    Value whole = read_whole_file(file.path);
    steps.push_back(steps_of(file.path, whole));
    const Value* meta = whole.find("meta");
    const Value* classes = meta && meta->is_dict() ? meta->find("dataset_meta") : nullptr;
    if (classes) dataset_meta_[file.path] = *classes;
    const Value state_dict = weights_in(std::move(whole), file.path);
    name_file_in_errors(file.path, [&] {
      const StateLayout layout(state_dict);
      if (!layout.others().empty()) {
        log_warning("{}: {} no tensor and left out: {}", file.path,
                    layout.others().size() == 1 ? "an entry is" : "entries are",
                    list_names(layout.others()));
      }
      if (!first) {
        first = layout;
        return;
      }
      const std::string difference = first->difference(layout, given_.front().path, file.path);
      if (difference.empty()) return;
      fail<CheckpointError>("{} and {} are not of the same model; {}", given_.front().path,
                            file.path, difference);
    });
  }

  sources_.clear();
  for (const OfflineFile& file : given_) sources_.push_back({file.path, {}, 0});
  order_ = "as given";
  const auto order_by = [&](const std::string& by,
                            const std::function<std::optional<int64_t>(size_t)>& step_of) {
    for (size_t i = 0; i < sources_.size(); ++i) {
      if (!step_of(i)) return false;
    }
    for (size_t i = 0; i < sources_.size(); ++i) sources_[i].step = step_of(i);
    std::stable_sort(
        sources_.begin(), sources_.end(),
        [](const OfflineSource& a, const OfflineSource& b) { return *a.step < *b.step; });
    order_ = "by " + by;
    return true;
  };
  bool known = !options_.by_step;
  for (const char* prefix : {"meta.", ""}) {
    for (const char* name : kStepNames) {
      const std::string key = fmt::format("{}{}", prefix, name);
      known = known || order_by(key, [&](size_t i) -> std::optional<int64_t> {
                const auto found = steps[i].find(key);
                return found == steps[i].end() ? std::nullopt : std::optional(found->second);
              });
    }
  }
  known = known || order_by("the numbers in their names",
                            [&](size_t i) { return number_in_name(given_[i].path); });
  if (!known && is_ordered() && given_.size() > 1) {
    fail<ConfigError>(
        "the order of the files is not known: not all have a step in their meta, or a number in "
        "their names; give them from the oldest to the newest with --order given");
  }
  if (is_ordered() && options_.by_step) {
    for (size_t i = 1; i < sources_.size(); ++i) {
      if (sources_[i].step && sources_[i].step == sources_[i - 1].step) {
        log_warning("{} and {} are both at {}; they are averaged in the order given",
                    sources_[i - 1].path, sources_[i].path, *sources_[i].step);
      }
    }
  }
  set_weights();
  double sum = 0;
  for (const OfflineSource& source : sources_) sum += source.weight;
  if (!make_average_ && std::abs(sum - 1) > 1e-6) {
    log_warning(
        "the weights of the files add up to {:.6g}, not to 1; --normalize divides them by their "
        "sum",
        sum);
  }
}

std::string OfflineAverage::method() const {
  if (greedy_) return "the greedy soup";
  if (!options_.rule.is_null()) return options_.rule.at("type").as_string();
  if (!options_.shape.empty()) return fmt::format("the {} merge", options_.shape);
  return given_.front().weight ? "the weighted sum" : "the mean";
}

Value OfflineAverage::sum_of(const std::vector<OfflineSource>& sources) const {
  WeightedSum sum;
  for (const OfflineSource& source : sources) {
    const Value state_dict = weights_of(source.path);
    name_file_in_errors(source.path, [&] { sum.add(state_dict, source.weight); });
  }
  return sum.result(options_.dtype);
}

Value OfflineAverage::run() const {
  return make_average_ ? run_rule() : sum_of(sources_);
}

/// The average gets each file as a model of its own, and then one without memory in its place, so
/// that it does not keep the file.
Value OfflineAverage::run_rule() const {
  const torch::NoGradGuard no_grad;
  std::shared_ptr<AveragedModel> average;
  std::vector<std::pair<std::string, at::ScalarType>> dtypes;  // of the last file
  for (const OfflineSource& source : sources_) {
    const Value state_dict = weights_of(source.path);
    name_file_in_errors(source.path, [&] {
      std::vector<NamedTensor> tensors;
      std::vector<NamedTensor> without_memory;
      dtypes.clear();
      for (const auto& [key, value] : state_dict.entries()) {
        if (key.kind() != Value::Kind::string || !value.is_tensor()) continue;
        at::Tensor tensor = value.as_tensor().detach();
        const at::ScalarType dtype = tensor.scalar_type();
        dtypes.emplace_back(key.as_string(), dtype);
        if (at::isFloatingType(dtype) && dtype != at::kDouble) tensor = tensor.to(at::kFloat);
        if ((at::isFloatingType(dtype) || at::isComplexType(dtype)) &&
            !tensor.isfinite().all().item<bool>()) {
          fail<CheckpointError>("'{}' holds a NaN or an infinity; leave this file out",
                                shortened(key.as_string()));
        }
        tensors.push_back({key.as_string(), tensor, false});
        without_memory.push_back(
            {key.as_string(), at::zeros({}, tensor.options()).expand(tensor.sizes()), false});
      }
      const ModelRef model(std::move(tensors));
      if (!average) {
        average = start_average(model);
      }
      average->update_parameters(model);
      average->rebind(ModelRef(std::move(without_memory)));
    });
  }
  std::map<std::string, at::Tensor> values;
  for (const NamedTensor& item : average->state_dict().values) values[item.name] = item.tensor;
  std::vector<Value::Entry> entries;
  for (const auto& [name, dtype] : dtypes) {
    const bool is_cast = !options_.dtype.empty() && at::isFloatingType(dtype);
    entries.emplace_back(name, narrowed(values.at(name).cpu(),
                                        is_cast ? floating_dtype(options_.dtype) : dtype, name));
  }
  return Value::dict(std::move(entries), /*ordered=*/true);
}

Value OfflineAverage::run_greedy(const Measure& measure, bool larger_is_better,
                                 const Report& report) {
  struct Candidate {
    OfflineSource source;
    double alone;
  };
  std::vector<Candidate> candidates;
  for (const OfflineSource& source : sources_) {
    candidates.push_back({source, measure(weights_of(source.path))});
  }
  // A metric that is NaN is the worst.
  const auto is_worse = [&](double a, double b) {
    if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && !std::isnan(b);
    return larger_is_better ? a < b : a > b;
  };
  std::stable_sort(
      candidates.begin(), candidates.end(),
      [&](const Candidate& a, const Candidate& b) { return is_worse(b.alone, a.alone); });

  std::vector<OfflineSource> soup;
  std::optional<WeightedSum> sum(std::in_place);
  double best = 0;
  for (const Candidate& candidate : candidates) {
    const std::string& path = candidate.source.path;
    const Value state_dict = weights_of(path);
    name_file_in_errors(path, [&] { sum->add(state_dict, 1); });
    if (soup.empty()) {
      soup.push_back(candidate.source);
      best = candidate.alone;
      report(path, candidate.alone, std::nullopt, true);
      continue;
    }
    const double together = measure(sum->result("", 1 / static_cast<double>(soup.size() + 1)));
    const bool stays = !is_worse(together, best);
    if (stays) {
      soup.push_back(candidate.source);
      best = together;
    } else {
      sum->add(state_dict, -1);
    }
    report(path, candidate.alone, together, stays);
  }
  sum.reset();  // the memory of one average
  std::stable_sort(soup.begin(), soup.end(), [](const OfflineSource& a, const OfflineSource& b) {
    return a.step && b.step && *a.step < *b.step;
  });
  for (OfflineSource& source : soup) source.weight = 1 / static_cast<double>(soup.size());
  sources_ = std::move(soup);
  greedy_ = true;
  return sum_of(sources_);
}

Value OfflineAverage::meta() const {
  Value meta = Value::dict();
  meta.set("polyak_version", POLYAK_VERSION);
  const auto classes = dataset_meta_.find(sources_.back().path);
  if (classes != dataset_meta_.end()) meta.set("dataset_meta", classes->second);
  meta.set("averaged", record());
  return meta;
}

Value OfflineAverage::record() const {
  Value record = Value::dict();
  record.set("by", method());
  if (!options_.rule.is_null()) record.set("options", options_.rule.without({"type"}).dump());
  if (!options_.weights.empty()) record.set("weights", options_.weights);
  if (!options_.key.empty()) record.set("key", options_.key);
  Value files = Value::list();
  Value steps = Value::list();
  std::vector<double> weights;
  for (const OfflineSource& source : sources_) {
    files.items().emplace_back(source.path);
    if (source.step) steps.items().emplace_back(*source.step);
    weights.push_back(source.weight);
  }
  record.set("files", std::move(files));
  if (!steps.items().empty()) record.set("steps", std::move(steps));
  record.set("weights_of_files", at::tensor(weights, at::kDouble));
  return record;
}

void write_offline_average(const std::string& path, const std::string& format,
                           const Value& state_dict, const Value& meta) {
  const bool as_safetensors = format.empty()
                                  ? checkpoint_format(path) == CheckpointFormat::safetensors
                                  : format == "safetensors";
  if (as_safetensors) {
    const std::string averaged =
        to_json(meta.at("averaged"))
            .dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
    write_safetensors(path, state_dict,
                      {{"averaged", averaged}, {"polyak_version", POLYAK_VERSION}});
    return;
  }
  Value checkpoint = Value::dict();
  checkpoint.set("meta", meta);
  checkpoint.set("state_dict", state_dict);
  write_pth(path, checkpoint);
}

}  // namespace polyak
