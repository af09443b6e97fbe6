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

/// The keys that every dataset takes.
struct POLYAK_API DatasetOptions : Options {
  std::optional<int64_t> limit;
  std::optional<int64_t> labelled;
  Node pipeline;
  void visit(OptionVisitor& visitor) override;
};

/// What a batch does about samples that cannot be read, where the dataset does not refuse them.
enum class Unreadable {
  leave_out,  // the batch is smaller, or empty
  replace,    // by the next sample of the set that can be read; after the last comes the first
};

/// Labelled images by number.
class POLYAK_API Dataset {
 public:
  static constexpr const char* kKind = "dataset";  // for messages and `polyak list`
  /// What a maker receives beside the options.
  struct Context {
    const Catalog* catalog = nullptr;  // for the transforms
  };
  virtual ~Dataset();

  /// Number of samples: the first `limit` of those there are.
  int64_t size() const;
  /// Number of classes; every label is below it.
  virtual int64_t num_classes() const = 0;
  /// Whether `labelled` leaves samples without a label.
  bool lacks_labels() const { return num_labelled() < size(); }
  /// How many samples keep their label.
  int64_t num_labelled() const;
  /// The samples of `indices` (int64 [N]) after the transforms of `pipeline`, on the CPU; the label
  /// -1 says that there is none. What is random is a function of `random` and of which samples can
  /// be read.
  /// @throws DataError, also where a sample is to be replaced and none of the set can be read
  Batch batch(const at::Tensor& indices, const at::Generator& random,
              Unreadable unreadable = Unreadable::leave_out) const;
  /// Size of one image after the transforms, of the first view where there are several.
  ImageShape image_shape() const;
  /// Views of each image that the transforms make.
  int64_t num_views() const;

  /// The names of the classes, by label; empty where the set knows none.
  virtual std::vector<std::string> classes() const { return {}; }
  /// Numbers the labels by the names of another set, the one that a model learns from. Does nothing
  /// to a set without names. A set that cannot number anew is refused unless its names are the
  /// same.
  /// @throws DataError naming classes of this set that are not among them
  virtual void number_classes_by(const std::vector<std::string>& classes);

 protected:
  /// @throws ConfigError for a pipeline that cannot be made
  Dataset(const DatasetOptions& options, const Context& context);
  /// Number of samples before `limit`.
  virtual int64_t total() const = 0;
  /// uint8 or float [N, C, H, W] and int64 [N]; new tensors, not views of the set.
  virtual LabelledImages read(const at::Tensor& indices) const = 0;

 private:
  Batch any_sample() const;
  void replace_unreadable(LabelledImages& samples, at::Tensor& indices) const;

  std::optional<int64_t> limit_;
  std::optional<int64_t> labelled_;
  Pipeline pipeline_;
};

/// A set that is held in memory.
class POLYAK_API InMemoryDataset : public Dataset {
 public:
  /// @param num_classes above every label
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

/// Keys of sets that lie in files: which folder and which part.
struct POLYAK_API ImageFilesOptions : DatasetOptions {
  std::string data_root;             // the folder of the files
  std::optional<std::string> split;  // train or test
  bool test_mode = false;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
  /// `split`, or what test_mode says when there is none.
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

/// The four files of MNIST's form in data_root: 28 x 28 grey, 10 classes.
POLYAK_API std::shared_ptr<Dataset> make_mnist(const ImageFilesOptions& options,
                                               const Dataset::Context& context);
/// data_batch_1.bin to data_batch_5.bin and test_batch.bin in data_root: 32 x 32 colour, 10
/// classes.
POLYAK_API std::shared_ptr<Dataset> make_cifar10(const ImageFilesOptions& options,
                                                 const Dataset::Context& context);
/// Seeded images: a random pattern for each class, with noise over it; a network can learn them.
POLYAK_API std::shared_ptr<Dataset> make_random_images(const RandomImagesOptions& options,
                                                       const Dataset::Context& context);

}  // namespace polyak
