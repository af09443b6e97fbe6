// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/environment.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fmt/ranges.h>
#include <torch/version.h>

#include <string>
#include <vector>

#include "polyak/core/log.h"

namespace polyak {
namespace {

constexpr const char* kSamples = "training samples";
constexpr const char* kProcesses = "processes";

std::string text_of(const Value& value) {
  return value.kind() == Value::Kind::string    ? value.as_string()
         : value.kind() == Value::Kind::integer ? fmt::format("{}", value.as_int())
                                                : value.kind_name();
}

/// Which of its code LibTorch uses on this CPU, such as "AVX2".
std::string cpu_capability() {
  const std::string start = "CPU capability usage: ";
  const std::string config = at::show_config();
  const size_t at = config.find(start);
  if (at == std::string::npos) return "unknown";
  const size_t begin = at + start.size();
  return config.substr(begin, config.find_first_of(" \n", begin) - begin);
}

}  // namespace

Value environment_of(c10::Device device, int64_t samples, int64_t processes) {
  return Value::dict({{"LibTorch", TORCH_VERSION},
                      {"CPU instructions", cpu_capability()},
                      {"threads", static_cast<int64_t>(at::get_num_threads())},
                      {"device", device.str()},
                      {kProcesses, processes},
                      {kSamples, samples}});
}

void log_environment_differences(const Value& checkpoint, const Value& now) {
  const Value* meta = checkpoint.find("meta");
  const Value* before = meta && meta->is_dict() ? meta->find("environment") : nullptr;
  if (!before || !before->is_dict()) return;
  std::vector<std::string> digits;
  for (const auto& [key, value] : now.entries()) {
    const Value* old = before->find(key);
    if (!old || text_of(*old) == text_of(value)) continue;
    const std::string name = key.as_string();
    if (name == kSamples) {
      log_warning(
          "resume: the training data has {} samples (the checkpoint's had {}), so batches differ "
          "from those of a run that was not interrupted",
          text_of(value), text_of(*old));
    } else if (name == kProcesses) {
      log_warning(
          "resume: this run has {} processes (the checkpoint's had {}): batches, and random "
          "numbers "
          "of layers such as dropout, differ from those of a run that was not interrupted; the "
          "weights and averages continue exactly",
          text_of(value), text_of(*old));
    } else {
      digits.push_back(fmt::format("{} {} (was {})", name, text_of(value), text_of(*old)));
    }
  }
  if (digits.empty()) return;
  log_info(
      "resume: {}: results may differ in the last digits from those of a run that was not "
      "interrupted",
      fmt::join(digits, ", "));
}

}  // namespace polyak
