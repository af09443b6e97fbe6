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

// What a config may ask for at most, so that it is refused by its key instead of by the allocator.
constexpr int64_t kLargestSide = 8192;      // height or width of an image
constexpr int64_t kMostClasses = 16777216;  // 2^24
constexpr int64_t kMostChannels = 65536;    // of a map
constexpr int64_t kWidestLayer = 1048576;   // 2^20, fully connected
constexpr int64_t kMostLayers = 1000;
constexpr int64_t kMostParameters = 1 << 30;  // of a backbone, a neck or a head: 4 GiB

/// @param parameters of a part of a network, before any is made
/// @throws SizeError naming the keys when there are more than kMostParameters
POLYAK_API void check_parameters(double parameters, const char* keys);

/// Size of one image as a network meets it, after all transforms.
struct ImageShape {
  int64_t channels = 1;  // planes
  int64_t height = 0;    // pixels
  int64_t width = 0;     // pixels
};

/// Samples that a loop reads at once.
struct Batch {
  /// Each float [N, C, H, W]: one, or several views of the same images where the pipeline has a
  /// MultiView.
  std::vector<at::Tensor> views;
  at::Tensor labels;  // int64 [N]; -1: none

  /// The first view.
  const at::Tensor& images() const { return views.front(); }
};

// Backbone, Head and Algorithm are interfaces beside torch::nn::Module, not below it: an
// implementation derives from `torch::nn::Cloneable<Implementation>`, so that an averaged copy of
// the network can be made, and Cloneable brings the module. (A second path to it would be shared in
// LibTorch 1.13, but be a second module in 2.11.)

/// Turns images into features.
class POLYAK_API Backbone {
 public:
  static constexpr const char* kKind = "backbone";  // for messages and `polyak list`
  /// What a maker receives beside the options.
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

/// Measures how far logits are from class labels.
class POLYAK_API Loss {
 public:
  static constexpr const char* kKind = "loss";  // for messages and `polyak list`
  /// What a maker receives beside the options.
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
  /// What a maker receives beside the options.
  struct Context {
    const Catalog* catalog = nullptr;  // for the loss
    int64_t features = 0;              // what the backbone gives
    int64_t num_classes = 0;           // classes of the data
  };
  virtual ~Head();
  /// @param features float [N, F]
  /// @return float [N, classes]
  virtual at::Tensor forward(const at::Tensor& features) = 0;
  /// @param logits what forward() gave
  /// @param labels int64 [N]
  /// @return a scalar tensor
  virtual at::Tensor loss(const at::Tensor& logits, const at::Tensor& labels) const = 0;
};

/// What is trained: the whole model with its losses.
class POLYAK_API Algorithm {
 public:
  static constexpr const char* kKind = "model";  // for messages and `polyak list`
  /// What a maker receives beside the options.
  struct Context {
    const Catalog* catalog = nullptr;  // for the parts
    ImageShape image;                  // of the data
    int64_t num_classes = 0;           // classes of the data
    c10::Device device{c10::kCPU};     // where it will train; whoever builds it moves it there
    /// How far the run is that trains the algorithm, kept by the runner for as long as the
    /// algorithm is trained; its lengths are known from the start. Null where nothing runs.
    const Progress* progress = nullptr;
  };
  /// Scalar tensors by name.
  using Losses = std::map<std::string, at::Tensor>;

  virtual ~Algorithm();
  /// How many views of each image loss() learns from: what the training data's pipeline must give.
  virtual int64_t num_views() const { return 1; }
  /// Whether loss() takes samples without a label (-1).
  virtual bool learns_without_labels() const { return false; }
  /// Scalar tensors by name. The sum of those with "loss" in their name is minimised; the others (a
  /// batch's accuracy, say) are only logged.
  /// @param batch on the model's device, with num_views() views
  virtual Losses loss(const Batch& batch) = 0;
  /// @return logits, float [N, classes]
  virtual at::Tensor predict(const at::Tensor& images) = 0;
  /// Called in training once a checkpoint's weights are in the model, before the first iteration:
  /// `resuming` when the run goes on from there (Context::progress tells where), otherwise a new
  /// run starts from them.
  /// @throws CheckpointError when what the algorithm itself counts does not belong to that place
  virtual void after_load(bool /*resuming*/) {}
};

/// The module that an implementation of one of the interfaces above is.
/// @throws Error naming the class when it derives from no torch::nn::Module
template <class Part>
std::shared_ptr<torch::nn::Module> as_module(const std::shared_ptr<Part>& part) {
  auto module = std::dynamic_pointer_cast<torch::nn::Module>(part);
  if (!module) {
    fail<Error>("{} '{}' must derive from torch::nn::Cloneable", Part::kKind, typeid(*part).name());
  }
  return module;
}

}  // namespace polyak
