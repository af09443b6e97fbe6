// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/register_trainer.h"

#include "polyak/registry/registry.h"
#include "polyak/trainer/backbones.h"
#include "polyak/trainer/data_loader.h"
#include "polyak/trainer/dataset.h"
#include "polyak/trainer/image_classifier.h"
#include "polyak/trainer/image_folder.h"
#include "polyak/trainer/knn_metric.h"
#include "polyak/trainer/mean_teacher.h"
#include "polyak/trainer/metrics.h"
#include "polyak/trainer/neck.h"
#include "polyak/trainer/optimizer.h"
#include "polyak/trainer/pair_heads.h"
#include "polyak/trainer/param_scheduler.h"
#include "polyak/trainer/self_supervised.h"
#include "polyak/trainer/torch_script.h"
#include "polyak/trainer/train_config.h"
#include "polyak/trainer/transforms.h"
#include "polyak/trainer/view_transforms.h"
#include "polyak/trainer/vision_transformer.h"

namespace polyak {
namespace {

template <class Product, class O, class T>
void add_backbone(Registry<T>& registry, const char* name, const char* doc) {
  registry.template add<O>(name, doc, [](const O& options, const Backbone::Context& context) {
    return std::make_shared<Product>(options, context.image);
  });
}

void add_resnet(Registry<Backbone>& registry, const char* name, const char* doc,
                ResNet::Stem stem) {
  registry.add<ResNetOptions>(
      name, doc, [stem](const ResNetOptions& options, const Backbone::Context& context) {
        return std::make_shared<ResNet>(options, stem, context.image);
      });
}

template <class Product, class O, class T>
void add_with_context(Registry<T>& registry, const char* name, const char* doc) {
  registry.template add<O>(name, doc, [](const O& options, const typename T::Context& context) {
    return std::make_shared<Product>(options, context);
  });
}

template <class Product, class O, class T>
void add_plain(Registry<T>& registry, const char* name, const char* doc) {
  registry.template add<O>(name, doc, [](const O& options, const typename T::Context&) {
    return std::make_shared<Product>(options);
  });
}

void register_networks(Catalog& catalog) {
  auto& backbones = catalog.of<Backbone>();
  add_backbone<SmallCnn, SmallCnnOptions>(
      backbones, "SmallCNN",
      "Stages of a 3x3 convolution with stride 2, batch normalisation and ReLU.");
  add_resnet(backbones, "ResNet", "ResNet, for images of about 224 pixels.",
             ResNet::Stem::imagenet);
  add_resnet(backbones, "ResNet_CIFAR", "ResNet with a 3x3 stem, for images of about 32 pixels.",
             ResNet::Stem::cifar);
  add_backbone<VisionTransformer, VisionTransformerOptions>(
      backbones, "VisionTransformer", "Vision transformer with a learned position embedding.");
  add_backbone<VisionTransformer, MoCoV3VitOptions>(
      backbones, "MoCoV3ViT", "Vision transformer with a fixed position embedding.");
  add_backbone<Mlp, MlpOptions>(backbones, "MLP", "Fully connected layers with ReLU and dropout.");

  auto& losses = catalog.of<Loss>();
  add_plain<CrossEntropyLoss, CrossEntropyLossOptions>(losses, "CrossEntropyLoss",
                                                       "Cross entropy of softmax.");
  add_plain<CrossEntropyLoss, LabelSmoothLossOptions>(losses, "LabelSmoothLoss",
                                                      "Cross entropy with smoothed labels.");
  add_with_context<LinearClsHead, LinearClsHeadOptions>(
      catalog.of<Head>(), "LinearClsHead", "One linear layer from features to logits.");
  add_with_context<ImageClassifier, ImageClassifierOptions>(
      catalog.of<Algorithm>(), "ImageClassifier", "A backbone and a head that classify images.");
  add_with_context<TorchScript, TorchScriptOptions>(
      catalog.of<Algorithm>(), "TorchScript",
      "A classifier that Python exported by torch.jit.script.");
}

void register_self_supervised(Catalog& catalog) {
  add_with_context<NonLinearNeck, NonLinearNeckOptions>(
      catalog.of<Neck>(), "NonLinearNeck",
      "Fully connected layers with batch normalisation: projectors and predictors.");
  add_with_context<ClsBatchNormNeck, ClsBatchNormNeckOptions>(
      catalog.of<Neck>(), "ClsBatchNormNeck", "Normalises features, for linear probes.");
  add_plain<CosineSimilarityLoss, CosineSimilarityLossOptions>(
      catalog.of<Loss>(), "CosineSimilarityLoss",
      "Negative cosine similarity of predictions and targets.");
  auto& heads = catalog.of<PairHead>();
  add_with_context<LatentPredictHead, LatentPredictHeadOptions>(
      heads, "LatentPredictHead", "Predicts the other branch's projection: BYOL, SimSiam.");
  add_with_context<MoCoV3Head, MoCoV3HeadOptions>(
      heads, "MoCoV3Head", "Finds the other view of each image in the batch (InfoNCE).");

  auto& algorithms = catalog.of<Algorithm>();
  algorithms.add<ByolOptions>("BYOL", "Predicts the projection of a target network (CosineEMA).",
                              make_byol);
  algorithms.add<MoCoV3Options>("MoCoV3", "Contrasts with a momentum encoder (CosineEMA).",
                                make_moco_v3);
  add_with_context<SimSiam, SimSiamOptions>(algorithms, "SimSiam",
                                            "BYOL without a target network.");
  add_with_context<MeanTeacher, MeanTeacherOptions>(
      algorithms, "MeanTeacher",
      "Semi-supervised classification with a CosineEMA of the classifier as teacher.");
}

void register_data(Catalog& catalog) {
  auto& datasets = catalog.of<Dataset>();
  datasets.add<FashionMnistOptions>(
      "FashionMNIST", "Zalando's articles of clothing: idx files, plain or .gz.", make_mnist);
  datasets.add<ImageFilesOptions>("MNIST", "Handwritten digits: idx files, plain or .gz.",
                                  make_mnist);
  datasets.add<ImageFilesOptions>("CIFAR10", "CIFAR-10 in its binary format.", make_cifar10);
  add_with_context<ImageFolder, ImageFolderOptions>(
      datasets, "ImageNet", "JPEG and PNG files in one folder for each class.");
  datasets.add<RandomImagesOptions>("RandomImages", "Seeded images for tests: patterns with noise.",
                                    make_random_images);

  auto& transforms = catalog.of<Transform>();
  add_plain<Normalize, NormalizeOptions>(transforms, "Normalize",
                                         "Subtract mean and divide by std, in units of 0 to 255.");
  add_plain<RandomFlip, RandomFlipOptions>(transforms, "RandomFlip", "Mirror with a probability.");
  add_plain<RandomCrop, RandomCropOptions>(transforms, "RandomCrop", "Pad, then cut out a square.");
  add_plain<Resize, ResizeOptions>(transforms, "Resize", "Scale to a square.");
  add_plain<RandomResizedCrop, RandomResizedCropOptions>(
      transforms, "RandomResizedCrop", "Cut out a random rectangle and scale it to a square.");
  add_plain<ColorJitter, ColorJitterOptions>(
      transforms, "ColorJitter", "Change brightness, contrast, saturation and hue at random.");
  add_plain<RandomGrayscale, RandomGrayscaleOptions>(transforms, "RandomGrayscale",
                                                     "Convert to grey, with a probability.");
  add_plain<GaussianBlur, GaussianBlurOptions>(transforms, "GaussianBlur",
                                               "Blur by a random width, with a probability.");
  add_plain<Solarize, SolarizeOptions>(transforms, "Solarize",
                                       "Invert bright pixels, with a probability.");
  add_with_context<MultiView, MultiViewOptions>(
      transforms, "MultiView", "Several views of each image, for self-supervised learning.");

  add_with_context<DefaultSampler, DefaultSamplerOptions>(catalog.of<Sampler>(), "DefaultSampler",
                                                          "Each sample once in an epoch.");
  add_with_context<Accuracy, AccuracyOptions>(catalog.of<Metric>(), "Accuracy",
                                              "Percentage of labels among the k largest logits.");
  add_with_context<KnnAccuracy, KnnAccuracyOptions>(
      catalog.of<Metric>(), "KnnAccuracy",
      "Percentage of labels predicted by a vote of the nearest neighbours in feature space.");
}

void register_optimization(Catalog& catalog) {
  auto& optimizers = catalog.of<Optimizer>();
  optimizers.add<SgdOptions>("SGD", "Stochastic gradient descent with momentum.", make_sgd);
  optimizers.add<LarsOptions>(
      "LARS", "SGD with a learning rate for each parameter, scaled by its norm.", make_lars);
  optimizers.add<AdamOptions>("Adam", "Adam (Kingma and Ba 2015).", make_adam);
  optimizers.add<AdamWOptions>("AdamW", "Adam with decoupled weight decay.", make_adamw);

  auto& schedulers = catalog.of<ParamScheduler>();
  schedulers.add<StepLrOptions>("StepLR", "Multiplies the rate every step_size units.",
                                make_step_lr);
  schedulers.add<MultiStepLrOptions>("MultiStepLR", "Multiplies the rate at milestones.",
                                     make_multi_step_lr);
  schedulers.add<CosineAnnealingLrOptions>("CosineAnnealingLR", "Half a cosine down to eta_min.",
                                           make_cosine_annealing_lr);
  schedulers.add<LinearLrOptions>("LinearLR", "Changes the rate linearly: warm-up.",
                                  make_linear_lr);
  schedulers.add<ConstantLrOptions>("ConstantLR", "Lowers the rate by a factor, until end.",
                                    make_constant_lr);
  schedulers.add<ExponentialLrOptions>("ExponentialLR", "Multiplies the rate in each unit.",
                                       make_exponential_lr);
  schedulers.add<PolyLrOptions>("PolyLR", "A power of the part that is left, down to eta_min.",
                                make_poly_lr);
  schedulers.add<OneCycleLrOptions>("OneCycleLR", "Up to eta_max and down again.",
                                    make_one_cycle_lr);
  schedulers.add<CosineRestartLrOptions>(
      "CosineRestartLR", "Half a cosine down to the smallest rate, again and again.",
      make_cosine_restart_lr);
  schedulers.add<StepLrOptions>("StepMomentum", "Multiplies the momentum every step_size units.",
                                make_step_momentum);
  schedulers.add<MultiStepLrOptions>("MultiStepMomentum", "Multiplies the momentum at milestones.",
                                     make_multi_step_momentum);
  schedulers.add<CosineAnnealingLrOptions>("CosineAnnealingMomentum",
                                           "The momentum along half a cosine down to eta_min.",
                                           make_cosine_annealing_momentum);
  schedulers.add<LinearLrOptions>("LinearMomentum", "Changes the momentum linearly: warm-up.",
                                  make_linear_momentum);
  schedulers.add<ConstantLrOptions>(
      "ConstantMomentum", "Lowers the momentum by a factor, until end.", make_constant_momentum);
  schedulers.add<ExponentialLrOptions>(
      "ExponentialMomentum", "Multiplies the momentum in each unit.", make_exponential_momentum);
  schedulers.add<PolyLrOptions>(
      "PolyMomentum", "The momentum along a power of the part that is left, down to eta_min.",
      make_poly_momentum);
  schedulers.add<CosineRestartLrOptions>("CosineRestartMomentum",
                                         "The momentum along half a cosine, again and again.",
                                         make_cosine_restart_momentum);
  schedulers.add<SwaLrOptions>(
      "SWALR", "Goes to a constant rate and stays there, for a StochasticWeightAverage.",
      make_swa_lr);
}

}  // namespace

void register_trainer(Catalog& catalog) {
  register_networks(catalog);
  register_self_supervised(catalog);
  register_data(catalog);
  register_optimization(catalog);
}

std::unique_ptr<Options> make_train_config() {
  return std::make_unique<TrainConfig>();
}

}  // namespace polyak
