// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <typeinfo>
#include <vector>

#include "polyak/core/error.h"
#include "polyak/core/export.h"
#include "polyak/runtime/progress.h"

namespace polyak {

class Catalog;
class ProcessGroup;

// Limits of a config, so that a value is refused by its key and not by the allocator.
constexpr int64_t kLargestSide = 8192;      // height or width of an image
constexpr int64_t kMostClasses = 16777216;  // 2^24
constexpr int64_t kMostChannels = 65536;    // of a map
constexpr int64_t kWidestLayer = 1048576;   // 2^20, fully connected
constexpr int64_t kMostLayers = 1000;
constexpr int64_t kMostParameters = 1 << 30;  // of a backbone, a neck or a head: 4 GiB

/// @param parameters the number of parameters of a part of a network, before they are created
/// @throws SizeError naming the keys if there are more than kMostParameters
POLYAK_API void check_parameters(double parameters, const char* keys);

/// Size of one input image of a network, after all transforms.
struct ImageShape {
  int64_t channels = 1;  // planes
  int64_t height = 0;    // pixels
  int64_t width = 0;     // pixels
};

/// A batch of samples.
struct Batch {
  /// Each float [N, C, H, W]: one view, or several views of the same images if the pipeline has a
  /// MultiView.
  std::vector<at::Tensor> views;
  at::Tensor labels;  // int64 [N]; -1: none

  /// The first view.
  const at::Tensor& images() const { return views.front(); }
};

// Backbone, Head and Algorithm are interfaces that do not derive from torch::nn::Module. An
// implementation also derives from `torch::nn::Cloneable<Implementation>`, so that an averaged copy
// of the network can be made, and Cloneable derives from Module. (A second path to Module would be
// shared in LibTorch 1.13, but be a second module in 2.11.)

/// Turns images into features.
class POLYAK_API Backbone {
 public:
  static constexpr const char* kKind = "backbone";  // for messages and `polyak list`
  /// What a maker receives in addition to the options.
  struct Context {
    ImageShape image;  // of the data
  };
  virtual ~Backbone();
  /// @param images float [N, C, H, W]
  /// @return float [N, features()]
  virtual at::Tensor forward(const at::Tensor& images) = 0;
  /// Features of each image.
  virtual int64_t features() const = 0;
};

/// Computes the loss of logits against class labels.
class POLYAK_API Loss {
 public:
  static constexpr const char* kKind = "loss";  // for messages and `polyak list`
  /// What a maker receives in addition to the options.
  struct Context {};
  virtual ~Loss();
  /// @param logits float [N, classes]
  /// @param labels int64 [N]
  /// @return a scalar tensor: the mean over the batch
  virtual at::Tensor compute(const at::Tensor& logits, const at::Tensor& labels) const = 0;
};

/// Turns features into logits and knows the loss that trains them.
class POLYAK_API Head {
 public:
  static constexpr const char* kKind = "head";  // for messages and `polyak list`
  /// What a maker receives in addition to the options.
  struct Context {
    const Catalog* catalog = nullptr;  // for the loss
    int64_t features = 0;              // number of features from the backbone
    int64_t num_classes = 0;           // classes of the data
  };
  virtual ~Head();
  /// @param features float [N, F]
  /// @return float [N, classes]
  virtual at::Tensor forward(const at::Tensor& features) = 0;
  /// @param logits the result of forward()
  /// @param labels int64 [N]
  /// @return a scalar tensor
  virtual at::Tensor loss(const at::Tensor& logits, const at::Tensor& labels) const = 0;
};

/// The model to train, with its losses.
class POLYAK_API Algorithm {
 public:
  static constexpr const char* kKind = "model";  // for messages and `polyak list`
  /// What a maker receives in addition to the options.
  struct Context {
    const Catalog* catalog = nullptr;  // for the parts
    ImageShape image;                  // of the data
    int64_t num_classes = 0;           // classes of the data
    c10::Device device{c10::kCPU};     // where it will be trained; the caller moves it there
    /// The progress of the run that trains the algorithm. The runner keeps it alive during
    /// training; its lengths are known from the start. Null outside a run.
    const Progress* progress = nullptr;
    /// The processes that train it together; null: one. A loss that uses it must override
    /// needs_equal_batches().
    std::shared_ptr<ProcessGroup> processes = nullptr;
  };
  /// Scalar tensors by name.
  using Losses = std::map<std::string, at::Tensor>;

  virtual ~Algorithm();
  /// How many views of each image loss() needs from the training data's pipeline.
  virtual int64_t num_views() const { return 1; }
  /// Whether loss() accepts samples without a label (-1).
  virtual bool learns_without_labels() const { return false; }
  /// Scalar tensors by name. The sum of those with "loss" in their name is minimised; the others
  /// (such as a batch's accuracy) are only logged.
  /// @param batch on the model's device, with num_views() views
  virtual Losses loss(const Batch& batch) = 0;
  /// @return logits, float [N, classes]
  virtual at::Tensor predict(const at::Tensor& images) = 0;
  /// Called in training after a checkpoint's weights are loaded, before the first iteration.
  /// `resuming`: the run is resumed (Context::progress has the position); otherwise a new run
  /// starts from these weights.
  /// @throws CheckpointError if the algorithm's own counts do not match that position
  virtual void after_load(bool /*resuming*/) {}
  /// For several processes: whether each must call loss() in every iteration, with equally many
  /// samples, because it communicates or counts. Otherwise, a process without samples leaves it
  /// out.
  virtual bool needs_equal_batches() const { return false; }
};

/// An implementation of one of the interfaces above as a module.
/// @throws Error naming the class if it does not derive from torch::nn::Module
template <class Part>
std::shared_ptr<torch::nn::Module> as_module(const std::shared_ptr<Part>& part) {
  auto module = std::dynamic_pointer_cast<torch::nn::Module>(part);
  if (!module) {
    fail<Error>("{} '{}' must derive from torch::nn::Cloneable", Part::kKind, typeid(*part).name());
  }
  return module;
}

}  // namespace polyak
