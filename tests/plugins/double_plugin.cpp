// SPDX-License-Identifier: Apache-2.0
// A plugin for tests that compare training in one process with training in several: a network in
// float64, whose results differ by rounding only.
#include <ATen/ATen.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/linear.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include "polyak/loader/plugin.h"
#include "polyak/trainer/dataset.h"
#include "polyak/trainer/network.h"
#include "polyak/trainer/sync_batch_norm.h"

namespace {

constexpr int64_t kSide = 4;
constexpr int64_t kClasses = 3;

struct BlobsOptions : polyak::DatasetOptions {
  int64_t size = 64;
  std::optional<std::string> size_from;
  void visit(polyak::OptionVisitor& visitor) override {
    visitor.key("size", &size, "Number of samples.", polyak::at_least(1));
    visitor.key("size_from", &size_from, "An environment variable that has it instead.");
    DatasetOptions::visit(visitor);
  }
};

/// Images whose pixels and labels follow from their index.
class Blobs : public polyak::Dataset {
 public:
  Blobs(const BlobsOptions& options, const Context& context)
      : Dataset(options, context), size_(options.size) {
    if (options.size_from) size_ = std::atoll(std::getenv(options.size_from->c_str()));
    if (size_ == 0) polyak::fail<polyak::DataError>("there are no blobs");
  }
  int64_t num_classes() const override { return kClasses; }

 protected:
  int64_t total() const override { return size_; }
  polyak::LabelledImages read(const at::Tensor& indices) const override {
    const at::Tensor labels = (indices * 7).remainder(11).remainder(kClasses);
    const at::Tensor pixels =
        (indices.unsqueeze(1) * 31 + at::arange(kSide * kSide) * (labels.unsqueeze(1) + 3) * 17)
            .remainder(256);
    return {pixels.to(at::kByte).view({-1, 1, kSide, kSide}), labels};
  }

 private:
  int64_t size_;
};

struct DoubleNetOptions : polyak::Options {
  int64_t width = 16;
  bool batch_norm = false;
  bool sync_batch_norm = false;
  bool unused = false;
  void visit(polyak::OptionVisitor& visitor) override {
    visitor.key("width", &width, "Hidden units.", polyak::at_least(1));
    visitor.key("batch_norm", &batch_norm, "Normalise them, by LibTorch's layer.");
    visitor.key("sync_batch_norm", &sync_batch_norm, "Normalise them, by Polyak's layer.");
    visitor.key("unused", &unused, "Have a layer that no loss depends on.");
  }
};

class DoubleNet : public torch::nn::Cloneable<DoubleNet>, public polyak::Algorithm {
 public:
  explicit DoubleNet(const DoubleNetOptions& options) : options_(options) { DoubleNet::reset(); }
  void reset() override {
    first_ = register_module("first", torch::nn::Linear(kSide * kSide, options_.width));
    if (options_.batch_norm)
      norm_ = register_module("norm", torch::nn::BatchNorm1d(options_.width));
    if (options_.sync_batch_norm)
      synced_ = register_module("norm", polyak::SyncBatchNorm1d(options_.width));
    if (options_.unused) register_module("unused", torch::nn::Linear(2, 2));
    last_ = register_module("last", torch::nn::Linear(options_.width, kClasses));
    to(torch::kDouble);
  }
  Losses loss(const polyak::Batch& batch) override {
    return {{"loss_double",
             torch::nn::functional::cross_entropy(predict(batch.images()), batch.labels)}};
  }
  at::Tensor predict(const at::Tensor& images) override {
    at::Tensor hidden = first_(images.flatten(1).to(at::kDouble) / 255);
    if (norm_) hidden = norm_(hidden);
    if (synced_) hidden = synced_(hidden);
    return last_(hidden.tanh());
  }

 private:
  DoubleNetOptions options_;
  torch::nn::Linear first_{nullptr}, last_{nullptr};
  torch::nn::BatchNorm1d norm_{nullptr};
  polyak::SyncBatchNorm1d synced_{nullptr};
};

}  // namespace

POLYAK_PLUGIN(catalog) {
  catalog.of<polyak::Dataset>().add<BlobsOptions>(
      "Blobs", "Of a plugin.",
      [](const BlobsOptions& options, const polyak::Dataset::Context& context) {
        return std::make_shared<Blobs>(options, context);
      });
  catalog.of<polyak::Algorithm>().add<DoubleNetOptions>(
      "DoubleNet", "Of a plugin.",
      [](const DoubleNetOptions& options, const polyak::Algorithm::Context&) {
        return std::make_shared<DoubleNet>(options);
      });
}
