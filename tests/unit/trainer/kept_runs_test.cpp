// SPDX-License-Identifier: Apache-2.0
// Runs that earlier versions began, from tests/kept: they go on and end as they did there.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <string>

#include "polyak/averaging/register.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/config/load.h"
#include "polyak/core/log.h"
#include "polyak/loader/loader.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/register_trainer.h"
#include "polyak/trainer/train_runner.h"
#include "support/own_folder.h"

namespace polyak::test {
namespace {

/// What the log and the files of a run say of its time and place; and what rounding took away.
bool differs_by_nature(const std::string& key) {
  return key == "logger" || key == "kept_checkpoints" || key == "checkpoint_hooks" ||
         key == "validated" || key == "compensation" || key.rfind("best_", 0) == 0;
}

/// That what an earlier version saved is there. Other CPUs and versions of LibTorch round
/// otherwise, so floating-point numbers may differ by a little; the largest difference is recorded.
void compare(const Value& kept, const Value& now, const std::string& path, double& largest) {
  if (kept.is_tensor() || kept.kind() == Value::Kind::real) {
    const at::Tensor a = kept.is_tensor() ? kept.as_tensor() : at::scalar_tensor(kept.as_real());
    const at::Tensor b = now.is_tensor() ? now.as_tensor() : at::scalar_tensor(now.as_real());
    ASSERT_EQ(a.sizes(), b.sizes()) << path;
    if (a.numel() == 0) return;
    const double difference = (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
    largest = std::max(largest, difference);
    EXPECT_TRUE(at::allclose(b.to(at::kDouble), a.to(at::kDouble), 1e-4, 1e-4))
        << path << " differs by " << difference;
  } else if (kept.is_dict()) {
    ASSERT_TRUE(now.is_dict()) << path;
    for (const auto& [key, value] : kept.entries()) {
      const std::string name =
          key.kind() == Value::Kind::string ? key.as_string() : std::to_string(key.as_int());
      if (differs_by_nature(name)) continue;
      ASSERT_TRUE(now.contains(key)) << path << "." << name;
      compare(value, now.at(key), path + "." + name, largest);
    }
  } else if (kept.kind() == Value::Kind::list || kept.kind() == Value::Kind::tuple) {
    ASSERT_EQ(kept.items().size(), now.items().size()) << path;
    for (size_t i = 0; i < kept.items().size(); ++i) {
      compare(kept.items()[i], now.items()[i], fmt::format("{}[{}]", path, i), largest);
    }
  } else {
    EXPECT_STREQ(kept.kind_name(), now.kind_name()) << path;
  }
}

class KeptRuns : public ::testing::TestWithParam<const char*> {};

TEST_P(KeptRuns, GoOnAndEndAsTheyDidThen) {
  namespace fs = std::filesystem;
  const fs::path folder = POLYAK_KEPT_DIR;
  const std::string name = GetParam(), work_dir = own_folder() + "/" + name;
  Catalog catalog;
  register_averages(catalog);
  register_trainer(catalog);
  load_plugin(find_plugin("polyak_hooks", ""), catalog);
  std::string warnings;
  const LogSink before = set_log_sink([&](LogLevel level, std::string_view line) {
    if (level == LogLevel::warning) warnings += fmt::format("{}\n", line);
  });
  Node config = load_config((folder / (name + ".yaml")).string());
  config.set("work_dir", work_dir);
  config.set("resume", true);
  config.set("load_from", (folder / "0.1" / (name + ".pth")).string());
  TrainRunner(config, catalog).train();
  set_log_sink(before);

  const bool by_epoch = fs::exists(work_dir + "/epoch_4.pth");
  const Value now = read_pth(work_dir + (by_epoch ? "/epoch_4.pth" : "/iter_20.pth"));
  const Value kept = read_pth((folder / "0.1" / (name + "_end.pth")).string());
  double largest = 0;
  for (const auto& [key, value] : kept.entries()) {
    if (key.as_string() == "meta") continue;
    ASSERT_TRUE(now.contains(key)) << key.as_string();
    compare(value, now.at(key), key.as_string(), largest);
  }
  RecordProperty("largest_difference", fmt::format("{}", largest));
  EXPECT_EQ(warnings, "");
}

INSTANTIATE_TEST_SUITE_P(OfEachKind, KeptRuns,
                         ::testing::Values("classifier_sgd", "byol_adamw", "mocov3_lars",
                                           "iterations_adam", "mean_teacher_sgd"),
                         [](const auto& run) { return std::string(run.param); });

}  // namespace
}  // namespace polyak::test
