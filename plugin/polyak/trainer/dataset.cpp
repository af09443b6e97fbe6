// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/dataset.h"

#include <ATen/Functions.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "polyak/trainer/random_stream.h"

namespace polyak {
namespace {

constexpr double kMostGigabytesOfImages = 2;  // random images, which only tests use

}  // namespace

void DatasetOptions::visit(OptionVisitor& visitor) {
  visitor.key("limit", &limit, "Use only the first samples; null: all.", count_from(1));
  visitor.key("labelled", &labelled,
              "Only the first samples keep their labels, for semi-supervised learning; metrics "
              "ignore the others; null: all.",
              count_from(0));
  visitor.component("pipeline", &pipeline, "transform", "The transforms, a list.",
                    Blocks::Form::list);
}

Dataset::Dataset(const DatasetOptions& options, const Context& context)
    : limit_(options.limit),
      labelled_(options.labelled),
      pipeline_(options.pipeline, *context.catalog) {}

Dataset::~Dataset() = default;

int64_t Dataset::size() const {
  return std::min(limit_.value_or(total()), total());
}

int64_t Dataset::num_labelled() const {
  return std::min(labelled_.value_or(size()), size());
}

Batch Dataset::batch(const at::Tensor& indices, const at::Generator& random,
                     Unreadable unreadable) const {
  at::Tensor taken = indices;
  LabelledImages samples = read(taken);
  if (samples.found.defined() && !samples.found.all().item<bool>()) {
    if (unreadable == Unreadable::replace) {
      replace_unreadable(samples, taken);
    } else {
      const at::Tensor found = samples.found.nonzero().flatten();
      taken = taken.index_select(0, found);
      samples.images = samples.images.index_select(0, found);
      samples.labels = samples.labels.index_select(0, found);
    }
  }
  if (labelled_) samples.labels.masked_fill_(taken >= *labelled_, -1);
  if (taken.numel() == 0) return {{}, std::move(samples.labels)};
  return {pipeline_.apply(samples.images, random), std::move(samples.labels)};
}

void Dataset::replace_unreadable(LabelledImages& samples, at::Tensor& indices) const {
  indices = indices.clone();
  at::Tensor missing = samples.found.logical_not().nonzero().flatten();
  for (int64_t tried = 1; missing.numel() > 0; ++tried) {
    if (tried == size()) fail<DataError>("none of the {} images of a dataset can be read", size());
    const at::Tensor next = (indices.index_select(0, missing) + 1).remainder(size());
    indices.index_copy_(0, missing, next);
    const LabelledImages others = read(next);
    samples.images.index_copy_(0, missing, others.images);
    samples.labels.index_copy_(0, missing, others.labels);
    if (!others.found.defined()) return;
    missing = missing.index_select(0, others.found.logical_not().nonzero().flatten());
  }
}

Batch Dataset::any_sample() const {
  return batch(at::zeros({1}, at::kLong), make_random_stream({0}), Unreadable::replace);
}

int64_t Dataset::num_views() const {
  return static_cast<int64_t>(any_sample().views.size());
}

ImageShape Dataset::image_shape() const {
  const at::Tensor images = any_sample().images();
  return {images.size(1), images.size(2), images.size(3)};
}

void Dataset::number_classes_by(const std::vector<std::string>& classes) {
  const std::vector<std::string> own = this->classes();
  if (own.empty() || own == classes) return;
  fail<DataError>("a dataset numbers its classes ({}) differently from the training data ({})",
                  fmt::join(own, ", "), fmt::join(classes, ", "));
}

InMemoryDataset::InMemoryDataset(LabelledImages samples, int64_t num_classes,
                                 const DatasetOptions& options, const Context& context)
    : Dataset(options, context), samples_(std::move(samples)), num_classes_(num_classes) {}

LabelledImages InMemoryDataset::read(const at::Tensor& indices) const {
  return {samples_.images.index_select(0, indices), samples_.labels.index_select(0, indices)};
}

void ImageFilesOptions::visit(OptionVisitor& visitor) {
  visitor.key("data_root", &data_root, "The folder that holds the files.");
  visitor.key("split", &split, "train or test; null: determined by test_mode.");
  visitor.key("test_mode", &test_mode, "Whether to read the test files if `split` is not set.");
  DatasetOptions::visit(visitor);
}

void ImageFilesOptions::validate() const {
  if (data_root.empty()) fail_option("data_root", "must name the folder that holds the files");
  if (split && *split != "train" && *split != "test") {
    fail_option("split", "must be train or test, got '{}'", *split);
  }
}

void RandomImagesOptions::visit(OptionVisitor& visitor) {
  visitor.key("size", &size, "Number of samples.", count_from(1));
  visitor.key("channels", &channels, "Channels of an image.", closed_interval(1, 4096));
  visitor.key("image_size", &image_size, "Height and width of an image.",
              closed_interval(1, kLargestSide));
  visitor.key("num_classes", &num_classes, "Number of classes.", closed_interval(1, kMostClasses));
  visitor.key("seed", &seed, "Seed of the images; the class patterns are the same for all seeds.",
              at_least(0));
  DatasetOptions::visit(visitor);
}

void RandomImagesOptions::validate() const {
  const double image = static_cast<double>(channels * image_size * image_size);
  const struct {
    const char* key;
    int64_t count;
    const char* what;
  } held[] = {{"size", size, "images"}, {"num_classes", num_classes, "patterns"}};
  for (const auto& [key, count, what] : held) {
    const double gigabytes = 1e-9 * static_cast<double>(count) * image;
    if (gigabytes <= kMostGigabytesOfImages) continue;
    fail_option(key,
                "{} {} of {} x {} x {} would take {:.3g} GB; RandomImages holds at most {:.3g} GB",
                count, what, channels, image_size, image_size, gigabytes, kMostGigabytesOfImages);
  }
}

std::shared_ptr<Dataset> make_mnist(const ImageFilesOptions& options,
                                    const Dataset::Context& context) {
  check_options(options, "dataset");
  const std::string part = options.is_test() ? "t10k" : "train";
  return std::make_shared<InMemoryDataset>(
      read_idx_pair(options.data_root, part + "-images-idx3-ubyte", part + "-labels-idx1-ubyte",
                    10),
      10, options, context);
}

std::shared_ptr<Dataset> make_cifar10(const ImageFilesOptions& options,
                                      const Dataset::Context& context) {
  check_options(options, "CIFAR10");
  const std::filesystem::path root(options.data_root);
  std::vector<std::string> paths;
  if (options.is_test()) {
    paths.push_back((root / "test_batch.bin").string());
  } else {
    for (int i = 1; i <= 5; ++i)
      paths.push_back((root / fmt::format("data_batch_{}.bin", i)).string());
  }
  return std::make_shared<InMemoryDataset>(read_cifar10(paths), 10, options, context);
}

std::shared_ptr<Dataset> make_random_images(const RandomImagesOptions& options,
                                            const Dataset::Context& context) {
  check_options(options, "RandomImages");
  const auto side = options.image_size;
  at::Generator pattern_stream = make_random_stream({0});
  at::Generator stream = make_random_stream({1, static_cast<uint64_t>(options.seed)});
  const at::Tensor patterns = at::randint(128, {options.num_classes, options.channels, side, side},
                                          pattern_stream, at::kByte);
  at::Tensor labels = at::randint(options.num_classes, {options.size}, stream, at::kLong);
  at::Tensor images =
      at::randint(128, {options.size, options.channels, side, side}, stream, at::kByte);
  images += patterns.index_select(0, labels);
  return std::make_shared<InMemoryDataset>(LabelledImages{images, labels}, options.num_classes,
                                           options, context);
}

}  // namespace polyak
