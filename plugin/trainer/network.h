#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "polyak/core/export.h"

namespace polyak {

class Catalog;

/// Size of one image as a network meets it, after all transforms.
struct ImageShape {
  int64_t channels = 1;
  int64_t height = 0;
  int64_t width = 0;
};

/// Base of what a network is composed of. Implementations derive from it and from
/// `torch::nn::Cloneable<Implementation>`, so that an averaged copy of the network can be made.
class POLYAK_API NetworkPart : public virtual torch::nn::Module {
 public:
  NetworkPart() = default;
  NetworkPart(const NetworkPart&) = default;
  // Cloneable assigns a whole clone to a child. The module, a virtual base, is assigned through
  // Cloneable; assigning it here too would assign it a second time, from an object that was moved
  // away.
  NetworkPart& operator=(const NetworkPart&) { return *this; }
  ~NetworkPart() override;
};

/// Turns images into features.
class POLYAK_API Backbone : public NetworkPart {
 public:
  static constexpr const char* kKind = "backbone";
  struct Context {
    ImageShape image;
  };
  ~Backbone() override;
  /// @param images float [N, C, H, W]
  /// @return float [N, features()]
  virtual at::Tensor forward(const at::Tensor& images) = 0;
  virtual int64_t features() const = 0;
};

/// Measures how far logits are from class labels.
class POLYAK_API Loss {
 public:
  static constexpr const char* kKind = "loss";
  struct Context {};
  virtual ~Loss();
  /// @param logits float [N, classes]
  /// @param labels int64 [N]
  /// @return a scalar tensor: the mean over the batch
  virtual at::Tensor compute(const at::Tensor& logits, const at::Tensor& labels) const = 0;
};

/// Turns features into logits and knows the loss that trains them.
class POLYAK_API Head : public NetworkPart {
 public:
  static constexpr const char* kKind = "head";
  struct Context {
    const Catalog* catalog = nullptr;
    int64_t features = 0;     // what the backbone gives
    int64_t num_classes = 0;  // classes of the data
  };
  ~Head() override;
  /// @param features float [N, F]
  /// @return float [N, classes]
  virtual at::Tensor forward(const at::Tensor& features) = 0;
  virtual at::Tensor loss(const at::Tensor& logits, const at::Tensor& labels) const = 0;
};

/// What is trained: the whole model with its losses.
class POLYAK_API Algorithm : public NetworkPart {
 public:
  static constexpr const char* kKind = "model";
  struct Context {
    const Catalog* catalog = nullptr;
    ImageShape image;
    int64_t num_classes = 0;  // classes of the data
  };
  using Losses = std::map<std::string, at::Tensor>;

  ~Algorithm() override;
  /// Scalar tensors by name. The sum of those with "loss" in their name is minimised; the others (a
  /// batch's accuracy, say) are only logged.
  /// @param images float [N, C, H, W]
  /// @param labels int64 [N]
  virtual Losses loss(const at::Tensor& images, const at::Tensor& labels) = 0;
  /// @return logits, float [N, classes]
  virtual at::Tensor predict(const at::Tensor& images) = 0;
};

}  // namespace polyak
