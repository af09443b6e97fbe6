// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "polyak/averaging/averaged_model.h"
#include "polyak/registry/registry.h"
#include "polyak/rules/length.h"
#include "polyak/runtime/hook.h"

namespace polyak {

class KnownModel;

struct POLYAK_API PostHocEMAHookOptions : Options {
  /// The widths of the averages that are kept, at least two.
  PostHocEMAHookOptions& sigma_rels(std::vector<double> value) {
    return sigma_rels_ = std::move(value), *this;
  }
  const std::vector<double>& sigma_rels() const { return sigma_rels_; }
  /// How often snapshots are written; its updates are optimizer steps.
  PostHocEMAHookOptions& every(Length value) { return every_ = value, *this; }
  const Length& every() const { return every_; }
  /// Of floating-point tensors in snapshots: float32, float16 or bfloat16.
  PostHocEMAHookOptions& dtype(std::string value) { return dtype_ = std::move(value), *this; }
  const std::string& dtype() const { return dtype_; }
  /// The folder of the snapshots; null: post_hoc in the work_dir.
  PostHocEMAHookOptions& out_dir(std::optional<std::string> value) {
    return out_dir_ = std::move(value), *this;
  }
  const std::optional<std::string>& out_dir() const { return out_dir_; }
  /// "stop" or "continue".
  PostHocEMAHookOptions& on_save_error(std::string value) {
    return on_save_error_ = std::move(value), *this;
  }
  const std::string& on_save_error() const { return on_save_error_; }
  /// A key of the averages themselves: `.average("update_buffers", false)`.
  PostHocEMAHookOptions& average(const std::string& key, Node value) {
    return average_.set(key, std::move(value)), *this;
  }
  const Node& average() const { return average_; }

  void visit(OptionVisitor& visitor) override;
  void validate() const override;
  /// The config of the average of one width.
  Node average_node(double sigma_rel) const;
  /// The optimizer steps from one snapshot to the next in a run of this length, at least 1.
  /// @throws ConfigError if the length of what `every` is relative to is unknown
  int64_t steps_between(const Progress& progress) const;

 private:
  std::vector<double> sigma_rels_{0.05, 0.10};
  Length every_{1, Length::Unit::percent};
  std::string dtype_ = "float32";
  std::optional<std::string> out_dir_;
  std::string on_save_error_ = "stop";
  Node average_ = Node::mapping();
};

/// Keeps power-function averages of several widths (PowerFunctionEMA) and writes snapshots of them,
/// from which `polyak average --post-hoc` makes the average of any other width after training
/// (Karras et al. 2024, EDM2, arXiv:2312.02696).
///
/// The averages are updated once for every optimizer step, in one pass with those of EMAHooks
/// before or after this hook. They are not evaluated. Checkpoints hold them as `post_hoc_<width>`,
/// so that a resumed run writes the same snapshots again. A snapshot is
/// `<step>_<width>.safetensors`, which is complete or absent, also after a crash.
class POLYAK_API PostHocEMAHook : public Hook {
 public:
  /// Checks everything, including the averages' own keys; `averages` must outlive the hook.
  /// @throws ConfigError
  PostHocEMAHook(PostHocEMAHookOptions options, const Registry<AveragedModel>& averages);

  std::string name() const override;
  bool changes_checkpoints() const override { return true; }
  bool posts_averages() const override { return !kept_.empty(); }

  void check_run(Runner& runner) override;
  std::vector<std::string> describe_run(Runner& runner) override;
  void before_run(Runner& runner) override;
  void before_train(Runner& runner) override;
  void before_train_epoch(Runner& runner) override;
  void after_train_iter(Runner& runner, int64_t batch, const Scalars& outputs) override;
  void after_train(Runner& runner) override;
  void before_save_checkpoint(Runner& runner, Value& checkpoint) override;
  void after_load_checkpoint(Runner& runner, Value& checkpoint) override;

 private:
  struct Kept {
    double sigma_rel;
    std::string name;  // in checkpoints
    Node node;         // the average's config
    Registry<AveragedModel>::Maker make;
    std::shared_ptr<AveragedModel> average;
  };
  std::string folder(const Runner& runner) const;
  void write_snapshots(Runner& runner);
  std::shared_ptr<AveragedModel> build_average(const Kept& kept, Runner& runner) const;
  std::vector<std::string> copied_tensors() const;

  PostHocEMAHookOptions options_;
  std::vector<Kept> kept_;
  std::shared_ptr<const KnownModel> model_;
  int64_t steps_between_ = 1;
  int64_t steps_seen_ = 0;
  int64_t written_at_ = 0;  // the step of the newest snapshots
  bool at_once_ = false;    // no update waits for the next hook
};

}  // namespace polyak
