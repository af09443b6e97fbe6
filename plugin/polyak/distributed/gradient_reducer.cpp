// SPDX-License-Identifier: Apache-2.0
#include "polyak/distributed/gradient_reducer.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <map>

#include "polyak/core/error.h"
#ifdef POLYAK_C10D_REDUCER
#include <torch/csrc/distributed/c10d/logger.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>
#endif

#include "polyak/distributed/c10d_group.h"

namespace polyak {

GradientReducer::~GradientReducer() = default;

namespace {

constexpr const char* kWhat = "averaging gradients over the processes";
constexpr int64_t kBucketBytes = int64_t{25} << 20;
constexpr int64_t kFirstBucketBytes = int64_t{1} << 20;

/// Zero, with a zero gradient for each parameter, whatever its numbers are.
at::Tensor loss_of_nothing(const std::vector<at::Tensor>& parameters) {
  at::Tensor loss;
  for (const at::Tensor& parameter : parameters) {
    const at::Tensor none = parameter.flatten().slice(0, 0, 0).sum();
    loss = loss.defined() ? loss + none : none;
  }
  return loss;
}

/// One reduction for each bucket, after the backward pass. It works with every ProcessGroup.
class BucketReducer final : public GradientReducer {
 public:
  BucketReducer(std::shared_ptr<ProcessGroup> processes, std::vector<at::Tensor> parameters)
      : processes_(std::move(processes)), parameters_(std::move(parameters)) {}

  void forward() override {}

  void backward(const at::Tensor& loss, bool reduce) override {
    (loss.defined() ? loss : loss_of_nothing(parameters_)).backward();
    if (!reduce) return;
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> bucket;
    int64_t bytes = 0;
    for (const at::Tensor& parameter : parameters_) {
      if (!parameter.grad().defined()) parameter.mutable_grad() = at::zeros_like(parameter);
      const at::Tensor gradient = parameter.grad();
      if (!bucket.empty() && bucket[0].options().dtype() != gradient.options().dtype()) {
        reduce_bucket(bucket);
        bytes = 0;
      }
      bucket.push_back(gradient);
      bytes += static_cast<int64_t>(gradient.nbytes());
      if (bytes < kBucketBytes) continue;
      reduce_bucket(bucket);
      bytes = 0;
    }
    if (!bucket.empty()) reduce_bucket(bucket);
  }

 private:
  void reduce_bucket(std::vector<at::Tensor>& gradients) {
    std::vector<at::Tensor> flat;
    for (const at::Tensor& gradient : gradients) flat.push_back(gradient.reshape({-1}));
    const at::Tensor all = at::cat(flat).div_(static_cast<double>(processes_->size()));
    processes_->all_reduce(all, kWhat);
    int64_t begin = 0;
    for (const at::Tensor& gradient : gradients) {
      const int64_t end = begin + gradient.numel();
      gradient.copy_(all.slice(0, begin, end).view(gradient.sizes()));
      begin = end;
    }
    gradients.clear();
  }

  std::shared_ptr<ProcessGroup> processes_;
  std::vector<at::Tensor> parameters_;
};

#ifdef POLYAK_C10D_REDUCER

using Buckets = std::vector<std::vector<size_t>>;

/// c10d::Reducer's constructor differs between versions of LibTorch.
template <class Reducer, class Group>
std::shared_ptr<Reducer> make_reducer(const std::vector<at::Tensor>& parameters,
                                      const Buckets& buckets, const std::vector<size_t>& limits,
                                      const Group& group, bool find_unused,
                                      const std::unordered_map<size_t, std::string>& names) {
  const std::vector<bool> sparse(parameters.size(), false);
  const std::vector<int64_t> caps;
  if constexpr (std::is_constructible_v<Reducer, std::vector<at::Tensor>, Buckets,
                                        std::vector<size_t>, Group, std::vector<bool>, int64_t,
                                        bool, bool, std::unordered_map<size_t, std::string>,
                                        int64_t>) {  // 1.13
    return std::make_shared<Reducer>(parameters, buckets, limits, group, sparse, kBucketBytes,
                                     find_unused, false, names, kFirstBucketBytes);
  } else if constexpr (std::is_constructible_v<
                           Reducer, std::vector<at::Tensor>, Buckets, Group, std::vector<bool>,
                           int64_t, bool, bool, std::unordered_map<size_t, std::string>, int64_t,
                           bool, bool, std::vector<int64_t>>) {  // 2.13 and later
    return std::make_shared<Reducer>(parameters, buckets, group, sparse, kBucketBytes, find_unused,
                                     false, names, kFirstBucketBytes, false, false, caps);
  } else if constexpr (std::is_constructible_v<Reducer, std::vector<at::Tensor>, Buckets, Group,
                                               std::vector<bool>, int64_t, bool, bool,
                                               std::unordered_map<size_t, std::string>, int64_t,
                                               bool, bool>) {
    return std::make_shared<Reducer>(parameters, buckets, group, sparse, kBucketBytes, find_unused,
                                     false, names, kFirstBucketBytes, false, false);
  } else {
    return std::make_shared<Reducer>(parameters, buckets, group, sparse, kBucketBytes, find_unused,
                                     false, names, kFirstBucketBytes);
  }
}

/// The engine of PyTorch's DistributedDataParallel.
class OverlappingReducer final : public GradientReducer {
 public:
  OverlappingReducer(std::shared_ptr<ProcessGroup> processes, C10dGroup& group,
                     const std::vector<NamedTensor>& parameters, const Options& options)
      : processes_(std::move(processes)), group_(group), options_(options) {
    std::unordered_map<size_t, std::string> names;
    // A backward pass reaches the last layers first.
    for (auto item = parameters.rbegin(); item != parameters.rend(); ++item) {
      names.emplace(parameters_.size(), item->name);
      parameters_.push_back(item->tensor);
    }
    auto [buckets, limits] = c10d::compute_bucket_assignment_by_size(
        parameters_, {static_cast<size_t>(kFirstBucketBytes), static_cast<size_t>(kBucketBytes)});
    reducer_ = make_reducer<c10d::Reducer>(parameters_, buckets, limits, group.c10d(),
                                           options.find_unused_parameters, names);
    // With find_unused_parameters, it reports to a logger without asking whether there is one.
    logger_ = std::make_shared<c10d::Logger>(reducer_);
    reducer_->set_logger(logger_);
  }

  void forward() override {
    group_.guard(kWhat, [&] {
      reducer_->prepare_for_forward();
      // It would sort them anew after the first iteration, and so round the sums of a resumed run
      // otherwise. So let it do that at once.
      if (reducer_->should_rebuild_buckets()) reducer_->push_rebuilt_params_for_all_indices();
      reducer_->rebuild_buckets();  // also checks that the last reduction has ended
    });
  }

  void backward(const at::Tensor& loss, bool reduce) override {
    const at::Tensor total = loss.defined() ? loss : loss_of_nothing(parameters_);
    group_.guard(kWhat, [&] {
      if (reduce) {
        std::vector<at::Tensor> outputs;
        if (options_.find_unused_parameters) outputs.push_back(total);
        reducer_->prepare_for_backward(outputs);
      }
      total.backward();
      // It checks that every parameter got its gradient: before a step is made without.
      if (reduce) reducer_->rebuild_buckets();
    });
  }

 private:
  std::shared_ptr<ProcessGroup> processes_;
  C10dGroup& group_;
  Options options_;
  std::vector<at::Tensor> parameters_;
  std::shared_ptr<c10d::Reducer> reducer_;
  std::shared_ptr<c10d::Logger> logger_;
};

#endif

}  // namespace

std::unique_ptr<GradientReducer> make_gradient_reducer(
    std::shared_ptr<ProcessGroup> processes, const std::vector<NamedTensor>& parameters,
    [[maybe_unused]] const GradientReducer::Options& options) {
  std::vector<NamedTensor> trained;
  for (const NamedTensor& item : parameters) {
    if (item.tensor.requires_grad()) trained.push_back(item);
  }
#ifdef POLYAK_C10D_REDUCER
  auto* const group = dynamic_cast<C10dGroup*>(processes.get());
  if (group && options.overlap) {
    return std::make_unique<OverlappingReducer>(std::move(processes), *group, trained, options);
  }
#endif
  std::vector<at::Tensor> tensors;
  for (const NamedTensor& item : trained) tensors.push_back(item.tensor);
  return std::make_unique<BucketReducer>(std::move(processes), std::move(tensors));
}

}  // namespace polyak
