// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/data_loader.h"

#include <ATen/Functions.h>

#include <algorithm>

#include "polyak/registry/registry.h"
#include "polyak/trainer/random_stream.h"

namespace polyak {
namespace {

// Separates random streams with the same seed.
enum Stream : uint64_t { kOrder = 1, kTransforms = 2 };

constexpr double kMostGigabytesOfABatch = 16;

}  // namespace

Sampler::~Sampler() = default;

void DefaultSamplerOptions::visit(OptionVisitor& visitor) {
  visitor.key("shuffle", &shuffle, "Whether each epoch has a different order.");
  visitor.key("seed", &seed, "Seed of the order; null: the run's seed.", at_least(0));
  visitor.key("round_up", &round_up,
              "With several processes: read the first samples again so that all get equally many.");
}

DefaultSampler::DefaultSampler(const DefaultSamplerOptions& options, const Context& context)
    : shuffle_(options.shuffle),
      seed_(options.seed ? static_cast<uint64_t>(*options.seed) : context.seed),
      round_up_(options.round_up) {
  check_options(options, "DefaultSampler");
}

at::Tensor DefaultSampler::order(int64_t size, int64_t epoch) const {
  if (!shuffle_) return at::arange(size, at::kLong);
  return at::randperm(size, make_random_stream({seed_, kOrder, static_cast<uint64_t>(epoch)}),
                      at::kLong);
}

void DataLoaderOptions::visit(OptionVisitor& visitor) {
  visitor.key("batch_size", &batch_size, "Samples in a batch.", count_from(1));
  visitor.key("drop_last", &drop_last, "Drop the last batch if it is smaller than the others.");
  visitor.component("sampler", &sampler, "sampler",
                    "The order of samples; null: DefaultSampler, shuffled for training only.");
  visitor.required_component("dataset", &dataset, "dataset", "The dataset.");
}

DataLoader::DataLoader(const Node& node, const Catalog& catalog, bool training, uint64_t seed,
                       DataShare share)
    : training_(training), share_(share), seed_(seed) {
  DataLoaderOptions options;
  read_options(node, options, "a dataloader");
  batch_size_ = options.batch_size;
  drops_last_ = options.drop_last;
  if (options.sampler.is_null()) {
    DefaultSamplerOptions sampler;
    sampler.shuffle = training;
    sampler_ = std::make_shared<DefaultSampler>(sampler, Sampler::Context{seed});
  } else {
    sampler_ = catalog.of<Sampler>().build(options.sampler, {seed});
  }
  dataset_ = catalog.of<Dataset>().build(options.dataset, {&catalog});
  samples_ = sampler_->order(dataset_->size(), 0).size(0);
  // A sample that is validated twice would count twice.
  if (training && sampler_->round_up()) {
    samples_ = (samples_ + share.size - 1) / share.size * share.size;
  }
  const bool part = samples_ % whole_batch_size() != 0 && !options.drop_last;
  size_ = samples_ / whole_batch_size() + (part ? 1 : 0);
  if (samples_ == 0) node.fail("yields no batch: its sampler selects no samples");
  if (size_ == 0) {
    node.fail(
        fmt::format("yields no batch: drop_last is on and {} samples are fewer than batch_size {}",
                    samples_, whole_batch_size()));
  }
  check_memory(node);
}

/// Checks the size of a batch before one is read, from a single sample.
void DataLoader::check_memory(const Node& node) const {
  const int64_t images = std::min(batch_size_, samples_);
  ImageShape shape;
  try {
    shape = dataset_->image_shape();
  } catch (const std::exception& error) {
    if (!is_out_of_memory(error)) throw;
    node.fail(
        fmt::format("one of its images needs more memory than is available ({}); choose smaller "
                    "sizes in its pipeline",
                    first_line(error)));
  }
  const double gigabytes = 1e-9 * sizeof(float) * static_cast<double>(images) *
                           static_cast<double>(shape.channels * shape.height * shape.width);
  if (gigabytes <= kMostGigabytesOfABatch) return;
  const Node* size = node.find("batch_size");
  (size ? *size : node)
      .fail(fmt::format("makes batches of {} images of {} x {} x {}, {:.3g} GB; the limit for a "
                        "batch is {:.3g} GB",
                        images, shape.channels, shape.height, shape.width, gigabytes,
                        kMostGigabytesOfABatch));
}

int64_t DataLoader::all_samples_of(int64_t index) const {
  return std::min(samples_ - index * whole_batch_size(), whole_batch_size());
}

int64_t DataLoader::samples_of(int64_t index) const {
  return (all_samples_of(index) + share_.size - 1 - share_.rank) / share_.size;
}

Batch DataLoader::batch(int64_t epoch, int64_t index) {
  if (epoch != order_epoch_) {
    at::Tensor order = sampler_->order(dataset_->size(), epoch);
    int64_t all = order.size(0);
    if (all > 0 && training_ && sampler_->round_up()) {
      all = (all + share_.size - 1) / share_.size * share_.size;
      if (all > order.size(0)) order = order.repeat({all / order.size(0) + 1});
    }
    order_ = order.slice(0, share_.rank, all, share_.size);
    order_epoch_ = epoch;
  }
  const int64_t first = index * batch_size_;
  const at::Tensor indices = order_.slice(0, first, first + samples_of(index)).contiguous();
  if (indices.size(0) == 0) {
    const ImageShape shape = dataset_->image_shape();
    const at::Tensor none = at::zeros({0, shape.channels, shape.height, shape.width});
    const auto views = static_cast<size_t>(dataset_->num_views());
    return {std::vector<at::Tensor>(views, none), at::zeros({0}, at::kLong)};
  }
  const auto epoch_key = static_cast<uint64_t>(epoch), index_key = static_cast<uint64_t>(index);
  at::Generator stream = share_.rank == 0
                             ? make_random_stream({seed_, kTransforms, epoch_key, index_key})
                             : make_random_stream({seed_, kTransforms, epoch_key, index_key,
                                                   static_cast<uint64_t>(share_.rank)});
  return dataset_->batch(indices, std::move(stream),
                         training_ ? Unreadable::replace : Unreadable::leave_out);
}

}  // namespace polyak
