// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "polyak/config/options.h"
#include "polyak/core/export.h"
#include "polyak/trainer/image_files.h"
#include "polyak/trainer/network.h"
#include "polyak/trainer/transforms.h"

namespace polyak {

/// The keys of every dataset.
struct POLYAK_API DatasetOptions : Options {
  std::optional<int64_t> limit;
  std::optional<int64_t> labelled;
  Node pipeline;
  void visit(OptionVisitor& visitor) override;
};

/// What to do about samples that cannot be read, if the dataset does not throw.
enum class Unreadable {
  leave_out,  // the batch is smaller, or empty
  replace,    // by the next readable sample; the first follows the last
};

/// Labelled images by index.
class POLYAK_API Dataset {
 public:
  static constexpr const char* kKind = "dataset";  // for messages and `polyak list`
  /// What a maker receives in addition to the options.
  struct Context {
    const Catalog* catalog = nullptr;  // for the transforms
  };
  virtual ~Dataset();

  /// Number of samples, at most `limit`.
  int64_t size() const;
  /// Number of classes; every label is smaller.
  virtual int64_t num_classes() const = 0;
  /// Whether some samples have no label, because of `labelled`.
  bool lacks_labels() const { return num_labelled() < size(); }
  /// How many samples have a label.
  int64_t num_labelled() const;
  /// The samples of `indices` (int64 [N]) after the transforms of `pipeline`, on the CPU; a missing
  /// label is -1. Randomness only depends on `random` and on which samples can be read.
  /// @throws DataError, also if a sample has to be replaced and none can be read
  Batch batch(const at::Tensor& indices, const at::Generator& random,
              Unreadable unreadable = Unreadable::leave_out) const;
  /// Size of one image after the transforms; of the first view if there are several.
  ImageShape image_shape() const;
  /// Views of each image that the transforms make.
  int64_t num_views() const;

  /// The names of the classes, by label; empty if the dataset has none.
  virtual std::vector<std::string> classes() const { return {}; }
  /// Renumbers the labels by the class names of another dataset, the one that a model is trained
  /// on. Does nothing if this dataset has no names. A dataset that cannot renumber throws unless
  /// its names are the same.
  /// @throws DataError naming the classes of this dataset that are not among them
  virtual void number_classes_by(const std::vector<std::string>& classes);

 protected:
  /// @throws ConfigError if the pipeline is invalid
  Dataset(const DatasetOptions& options, const Context& context);
  /// Number of samples before `limit`.
  virtual int64_t total() const = 0;
  /// uint8 or float [N, C, H, W] and int64 [N]; new tensors, not views of the dataset.
  virtual LabelledImages read(const at::Tensor& indices) const = 0;

 private:
  Batch any_sample() const;
  void replace_unreadable(LabelledImages& samples, at::Tensor& indices) const;

  std::optional<int64_t> limit_;
  std::optional<int64_t> labelled_;
  Pipeline pipeline_;
};

/// A dataset in memory.
class POLYAK_API InMemoryDataset : public Dataset {
 public:
  /// @param num_classes larger than every label
  InMemoryDataset(LabelledImages samples, int64_t num_classes, const DatasetOptions& options,
                  const Context& context);
  int64_t num_classes() const override { return num_classes_; }

 protected:
  int64_t total() const override { return samples_.labels.size(0); }
  LabelledImages read(const at::Tensor& indices) const override;

 private:
  LabelledImages samples_;
  int64_t num_classes_;
};

/// Keys of datasets in files: the folder and the split.
struct POLYAK_API ImageFilesOptions : DatasetOptions {
  std::string data_root;             // the folder of the files
  std::optional<std::string> split;  // train or test
  bool test_mode = false;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
  /// `split`; if not set, determined by test_mode.
  bool is_test() const { return split ? *split == "test" : test_mode; }
};

struct POLYAK_API FashionMnistOptions : ImageFilesOptions {
  FashionMnistOptions() { data_root = "/usr/share/datasets/fashion-mnist"; }
};

struct POLYAK_API RandomImagesOptions : DatasetOptions {
  int64_t size = 256;
  int64_t channels = 1;
  int64_t image_size = 8;
  int64_t num_classes = 10;
  int64_t seed = 0;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

/// The four files in MNIST's format in data_root: 28 x 28 grey, 10 classes.
POLYAK_API std::shared_ptr<Dataset> make_mnist(const ImageFilesOptions& options,
                                               const Dataset::Context& context);
/// data_batch_1.bin to data_batch_5.bin and test_batch.bin in data_root: 32 x 32 colour, 10
/// classes.
POLYAK_API std::shared_ptr<Dataset> make_cifar10(const ImageFilesOptions& options,
                                                 const Dataset::Context& context);
/// Seeded images: a random pattern for each class, with added noise. A network can learn them.
POLYAK_API std::shared_ptr<Dataset> make_random_images(const RandomImagesOptions& options,
                                                       const Dataset::Context& context);

}  // namespace polyak
