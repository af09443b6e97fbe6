// SPDX-License-Identifier: Apache-2.0
// A plugin with one thing of every kind that a config of a classifier can name.
#include <ATen/ATen.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <memory>

#include "polyak/averaging/average.h"
#include "polyak/core/log.h"
#include "polyak/loader/plugin.h"
#include "polyak/runtime/hook.h"
#include "polyak/trainer/data_loader.h"
#include "polyak/trainer/dataset.h"
#include "polyak/trainer/metrics.h"
#include "polyak/trainer/network.h"
#include "polyak/trainer/optimizer.h"
#include "polyak/trainer/param_scheduler.h"
#include "polyak/trainer/transforms.h"

namespace {

struct NoOptions : polyak::Options {
  void visit(polyak::OptionVisitor&) override {}
};

// ---- data: two classes, told apart by the brightness of two pixels

struct TwoPixelsOptions : polyak::DatasetOptions {
  int64_t size = 64;
  void visit(polyak::OptionVisitor& visitor) override {
    visitor.key("size", &size, "Number of samples.", polyak::at_least(2));
    DatasetOptions::visit(visitor);
  }
};

class TwoPixels : public polyak::Dataset {
 public:
  TwoPixels(const TwoPixelsOptions& options, const Context& context)
      : Dataset(options, context), size_(options.size) {}
  int64_t num_classes() const override { return 2; }

 protected:
  int64_t total() const override { return size_; }
  polyak::LabelledImages read(const at::Tensor& indices) const override {
    const at::Tensor labels = indices.remainder(2);
    const at::Tensor pixels = at::stack({labels * 200, 200 - labels * 200}, 1);
    return {pixels.to(at::kByte).view({-1, 1, 1, 2}), labels};
  }

 private:
  int64_t size_;
};

/// Every sample once, the last one first.
class Backwards : public polyak::Sampler {
 public:
  at::Tensor order(int64_t size, int64_t) const override {
    return at::arange(size, at::kLong).flip(0);
  }
};

/// Dark becomes bright.
class Negative : public polyak::Transform {
 public:
  at::Tensor apply(const at::Tensor& images, at::Generator) const override {
    return 1 - images.to(at::kFloat) / 255;
  }
};

// ---- network

class PixelSums : public torch::nn::Cloneable<PixelSums>, public polyak::Backbone {
 public:
  PixelSums() { PixelSums::reset(); }
  void reset() override { scale_ = register_parameter("plugin_scale", at::ones({2})); }
  at::Tensor forward(const at::Tensor& images) override { return images.flatten(1) * scale_; }
  int64_t features() const override { return 2; }

 private:
  at::Tensor scale_;
};

class SquaredError : public polyak::Loss {
 public:
  at::Tensor compute(const at::Tensor& logits, const at::Tensor& labels) const override {
    return (logits - at::one_hot(labels, logits.size(1))).pow(2).mean();
  }
};

struct PixelHeadOptions : polyak::Options {
  polyak::Node loss;
  void visit(polyak::OptionVisitor& visitor) override {
    visitor.required("loss", &loss, "The loss.");
  }
};

class PixelHead : public torch::nn::Cloneable<PixelHead>, public polyak::Head {
 public:
  PixelHead(const PixelHeadOptions& options, const Context& context)
      : features_(context.features),
        classes_(context.num_classes),
        loss_(context.catalog->of<polyak::Loss>().build(options.loss, {})) {
    PixelHead::reset();
  }
  void reset() override {
    linear_ = register_module("linear", torch::nn::Linear(features_, classes_));
  }
  at::Tensor forward(const at::Tensor& features) override { return linear_(features); }
  at::Tensor loss(const at::Tensor& logits, const at::Tensor& labels) const override {
    return loss_->compute(logits, labels);
  }

 private:
  int64_t features_, classes_;
  std::shared_ptr<polyak::Loss> loss_;
  torch::nn::Linear linear_{nullptr};
};

struct PixelModelOptions : polyak::Options {
  polyak::Node backbone, head;
  void visit(polyak::OptionVisitor& visitor) override {
    visitor.required("backbone", &backbone, "The backbone.");
    visitor.required("head", &head, "The head.");
  }
};

class PixelModel : public torch::nn::Cloneable<PixelModel>, public polyak::Algorithm {
 public:
  PixelModel(const PixelModelOptions& options, const Context& context)
      : backbone_(context.catalog->of<polyak::Backbone>().build(options.backbone, {context.image})),
        head_(context.catalog->of<polyak::Head>().build(
            options.head, {context.catalog, backbone_->features(), context.num_classes})) {
    register_module("backbone", polyak::as_module(backbone_));
    register_module("head", polyak::as_module(head_));
  }
  void reset() override {
    backbone_ = std::dynamic_pointer_cast<polyak::Backbone>(
        register_module("backbone", polyak::as_module(backbone_)->clone()));
    head_ = std::dynamic_pointer_cast<polyak::Head>(
        register_module("head", polyak::as_module(head_)->clone()));
  }
  Losses loss(const polyak::Batch& batch) override {
    return {{"loss_plugin", head_->loss(predict(batch.images()), batch.labels)}};
  }
  at::Tensor predict(const at::Tensor& images) override {
    return head_->forward(backbone_->forward(images));
  }

 private:
  std::shared_ptr<polyak::Backbone> backbone_;
  std::shared_ptr<polyak::Head> head_;
};

// ---- training

struct PlainDescentOptions : polyak::Options {
  double lr = 0;
  void visit(polyak::OptionVisitor& visitor) override {
    visitor.required("lr", &lr, "Learning rate.", polyak::above(0));
  }
};

class PlainDescent : public polyak::Optimizer {
 public:
  PlainDescent(const Context& context, const PlainDescentOptions& options)
      : Optimizer(context, options.lr), lr_(options.lr) {}
  void step() override {
    torch::NoGradGuard no_grad;
    for (const at::Tensor& parameter : parameters()) {
      if (parameter.grad().defined()) parameter.sub_(parameter.grad() * lr_);
    }
  }
  double lr() const override { return lr_; }
  void set_lr(double lr) override { lr_ = lr; }

 protected:
  polyak::Value group(size_t) const override {
    polyak::Value group = polyak::Value::dict();
    group.set("lr", lr_);
    return group;
  }
  void load_group(size_t, const polyak::Value& group) override { lr_ = group.at("lr").as_real(); }
  polyak::Value state_of(const at::Tensor&) const override { return polyak::Value::dict(); }
  void load_state_of(const at::Tensor&, const polyak::Value&) override {}
  void clear_state() override {}

 private:
  double lr_;
};

class HalvingLr : public polyak::ParamScheduler {
 public:
  HalvingLr(const polyak::ParamSchedulerOptions& options, const Context& context)
      : ParamScheduler(options, context) {}

 protected:
  double next(double lr, int64_t last_step) const override { return last_step > 0 ? lr / 2 : lr; }
};

/// The share of wrong labels.
class ErrorRate : public polyak::Metric {
 public:
  void reset() override { wrong_ = samples_ = 0; }
  void add(const at::Tensor& logits, const at::Tensor& labels) override {
    wrong_ += logits.argmax(1).ne(labels).sum().item<int64_t>();
    samples_ += labels.size(0);
  }
  polyak::Scalars compute() const override {
    return {{"plugin_error", static_cast<double>(wrong_) / static_cast<double>(samples_)}};
  }

 private:
  int64_t wrong_ = 0, samples_ = 0;
};

struct CountingHook : polyak::Hook {
  std::string name() const override { return "CountingHook"; }
  void after_train_iter(polyak::Runner&, int64_t, const polyak::Scalars& outputs) override {
    if (outputs.count("loss_plugin") != 0) ++iters;
  }
  void after_train(polyak::Runner&) override {
    polyak::log_info("CountingHook saw {} iterations", iters);
  }
  int64_t iters = 0;
};

struct ThirdOptions : polyak::AverageOptions<ThirdOptions> {
  static constexpr const char* kName = "ThirdOfTheWay";
  static constexpr const char* kDoc = "A third of the way.";
  double weight(const polyak::Clock&) const { return 1.0 / 3; }
};

/// Registers a class that needs neither options nor a context.
template <class Product, class T>
void add(polyak::Registry<T>& registry, const char* name) {
  registry.template add<NoOptions>(
      name, "Of a plugin.",
      [](const NoOptions&, const typename T::Context&) { return std::make_shared<Product>(); });
}

template <class Product, class O, class T>
void add_with_context(polyak::Registry<T>& registry, const char* name) {
  registry.template add<O>(name, "Of a plugin.",
                           [](const O& options, const typename T::Context& context) {
                             return std::make_shared<Product>(options, context);
                           });
}

}  // namespace

POLYAK_PLUGIN(catalog) {
  add_with_context<TwoPixels, TwoPixelsOptions>(catalog.of<polyak::Dataset>(), "TwoPixels");
  add<Backwards>(catalog.of<polyak::Sampler>(), "Backwards");
  add<Negative>(catalog.of<polyak::Transform>(), "Negative");
  add<PixelSums>(catalog.of<polyak::Backbone>(), "PixelSums");
  add<SquaredError>(catalog.of<polyak::Loss>(), "SquaredError");
  add_with_context<PixelHead, PixelHeadOptions>(catalog.of<polyak::Head>(), "PixelHead");
  add_with_context<PixelModel, PixelModelOptions>(catalog.of<polyak::Algorithm>(), "PixelModel");
  catalog.of<polyak::Optimizer>().add<PlainDescentOptions>(
      "PlainDescent", "Of a plugin.",
      [](const PlainDescentOptions& options, const polyak::Optimizer::Context& context) {
        return std::make_shared<PlainDescent>(context, options);
      });
  catalog.of<polyak::ParamScheduler>().add<polyak::ParamSchedulerOptions>(
      "HalvingLR", "Of a plugin.",
      [](const polyak::ParamSchedulerOptions& options,
         const polyak::ParamScheduler::Context& context) {
        auto schedule = std::make_shared<HalvingLr>(options, context);
        schedule->start();
        return schedule;
      });
  add<ErrorRate>(catalog.of<polyak::Metric>(), "ErrorRate");
  add<CountingHook>(catalog.of<polyak::Hook>(), "CountingHook");
  polyak::register_average<polyak::Average<ThirdOptions>>(catalog);
}
