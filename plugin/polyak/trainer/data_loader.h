// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "polyak/config/options.h"
#include "polyak/core/export.h"
#include "polyak/trainer/dataset.h"

namespace polyak {

/// The order in which an epoch reads a dataset.
class POLYAK_API Sampler {
 public:
  static constexpr const char* kKind = "sampler";  // for messages and `polyak list`
  /// What a maker receives in addition to the options.
  struct Context {
    uint64_t seed = 0;  // the seed of the run
  };
  virtual ~Sampler();
  /// @return int64 [N], indices below `size`; depends only on the arguments
  virtual at::Tensor order(int64_t size, int64_t epoch) const = 0;
  /// Whether several processes read the first samples again so that all get equally many.
  virtual bool round_up() const { return true; }
};

struct POLYAK_API DefaultSamplerOptions : Options {
  bool shuffle = true;
  std::optional<int64_t> seed;
  bool round_up = true;
  void visit(OptionVisitor& visitor) override;
};

/// Every sample once, in order or reshuffled in each epoch.
class POLYAK_API DefaultSampler : public Sampler {
 public:
  /// @param context its seed is used if the options have none
  DefaultSampler(const DefaultSamplerOptions& options, const Context& context);
  at::Tensor order(int64_t size, int64_t epoch) const override;
  bool round_up() const override { return round_up_; }

 private:
  bool shuffle_;
  uint64_t seed_;
  bool round_up_;
};

/// The keys of a dataloader block.
struct POLYAK_API DataLoaderOptions : Options {
  int64_t batch_size = 1;  // samples in each batch
  bool drop_last = false;  // drop the last batch if it is smaller
  Node sampler;            // null: shuffled in training, otherwise in order
  Node dataset;            // the data
  void visit(OptionVisitor& visitor) override;
};

/// A process's part of the data.
struct DataShare {
  int64_t rank = 0;  // from 0
  int64_t size = 1;  // processes
};

/// Splits a dataset into batches. Of several processes, each reads every size-th sample of the
/// order, so that their batches together are those of one process with a batch size of them all; a
/// batch may be empty for some. Any batch of any epoch can be requested at any time and is always
/// the same, so a resumed run continues without reading the earlier batches. If the dataset skips
/// unreadable samples, training uses the next sample instead, so that batches keep their size;
/// validation and test leave the sample out, so a batch may be smaller or empty.
class POLYAK_API DataLoader {
 public:
  /// @param node the keys of DataLoaderOptions
  /// @param training whether the samples are for training: without a `sampler`, they are then
  /// shuffled
  /// @param seed the seed of the order and of the transforms
  /// @throws ConfigError, and DataError if the dataset cannot be read or yields no batch
  DataLoader(const Node& node, const Catalog& catalog, bool training, uint64_t seed,
             DataShare share = {});

  /// Batches in an epoch, the same number in each process.
  int64_t size() const { return size_; }
  /// Samples of this process in the last batch of an epoch.
  int64_t last_batch_size() const { return samples_of(size_ - 1); }
  /// Samples of this process in each batch but the last.
  int64_t batch_size() const { return batch_size_; }
  /// Samples of all processes in each batch but the last.
  int64_t whole_batch_size() const { return batch_size_ * share_.size; }
  /// Whether all processes have equally many samples in each batch.
  bool has_equal_batches() const { return samples_ % share_.size == 0 || drops_last_; }
  /// Samples of a batch: of this process, and of all.
  int64_t samples_of(int64_t index) const;
  int64_t all_samples_of(int64_t index) const;
  /// The dataset.
  const Dataset& dataset() const { return *dataset_; }
  /// See Dataset.
  void number_classes_by(const std::vector<std::string>& classes) {
    dataset_->number_classes_by(classes);
  }
  /// Batch `index` (below size()) of an epoch, on the CPU. It may be empty: views of no images.
  Batch batch(int64_t epoch, int64_t index);

 private:
  void check_memory(const Node& node) const;

  bool training_;
  DataShare share_;
  bool drops_last_ = false;
  int64_t batch_size_ = 1;
  int64_t samples_ = 0;  // in an epoch, of all processes
  int64_t size_ = 0;
  uint64_t seed_;
  std::shared_ptr<Dataset> dataset_;
  std::shared_ptr<Sampler> sampler_;
  int64_t order_epoch_ = -1;  // the epoch that order_ belongs to
  at::Tensor order_;          // of this process
};

}  // namespace polyak
