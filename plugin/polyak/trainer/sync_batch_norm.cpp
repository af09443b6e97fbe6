// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/sync_batch_norm.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>
#include <torch/nn/functional/batchnorm.h>

#include <vector>

#include "polyak/core/error.h"

namespace polyak {
namespace {

constexpr const char* kForward = "putting BatchNorm's statistics together";
constexpr const char* kBackward = "putting BatchNorm's gradients together";

/// Keeps the processes alive as long as the graph of a forward pass.
struct HeldProcesses : torch::CustomClassHolder {
  explicit HeldProcesses(std::shared_ptr<ProcessGroup> held) : processes(std::move(held)) {}
  std::shared_ptr<ProcessGroup> processes;
};

std::vector<int64_t> dims_but_channels(const at::Tensor& tensor) {
  std::vector<int64_t> dims{0};
  for (int64_t dim = 2; dim < tensor.dim(); ++dim) dims.push_back(dim);
  return dims;
}

/// [C] as [1, C, 1, ...].
at::Tensor along_channels(const at::Tensor& values, const at::Tensor& like) {
  std::vector<int64_t> shape(static_cast<size_t>(like.dim()), 1);
  shape[1] = values.size(0);
  return values.view(shape);
}

/// The type in which statistics of an input are computed.
at::ScalarType type_of_statistics(const at::Tensor& input) {
  return input.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

struct Moments {
  at::Tensor mean, squares;  // double [C]; squares: sum of (value - mean)^2
  double count = 0;          // values of each channel
};

Moments moments_of(const at::Tensor& input) {
  const int64_t channels = input.size(1);
  Moments result;
  result.count =
      channels == 0 ? 0 : static_cast<double>(input.numel()) / static_cast<double>(channels);
  if (result.count == 0) {
    result.mean = at::zeros({channels}, input.options().dtype(at::kDouble));
    result.squares = at::zeros_like(result.mean);
    return result;
  }
  const auto [variance, mean] = at::var_mean(input.to(type_of_statistics(input)),
                                             dims_but_channels(input), /*unbiased=*/false);
  result.mean = mean.to(at::kDouble);
  result.squares = variance.to(at::kDouble) * result.count;
  return result;
}

/// Chan, Golub and LeVeque 1979: no difference of large sums. In the order of the ranks, so that
/// all processes have the same bits.
Moments moments_of_all(const Moments& mine, ProcessGroup& processes) {
  const int64_t channels = mine.mean.size(0);
  const at::Tensor packed =
      at::cat({mine.mean, mine.squares, at::full({1}, mine.count, mine.mean.options())});
  Moments all{at::zeros_like(mine.mean), at::zeros_like(mine.mean), 0};
  for (const at::Tensor& one : processes.all_gather(packed, kForward)) {
    const auto count = one[2 * channels].item<double>();
    if (count == 0) continue;
    const at::Tensor apart = one.slice(0, 0, channels) - all.mean;
    const double total = all.count + count;
    all.mean += apart * (count / total);
    all.squares +=
        one.slice(0, channels, 2 * channels) + apart.square() * (all.count * count / total);
    all.count = total;
  }
  return all;
}

/// (input - mean) / sqrt(variance + eps) by the statistics of all processes.
class SyncedNormalisation : public torch::autograd::Function<SyncedNormalisation> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input,
                            const at::Tensor& mean, const at::Tensor& inverse, double count,
                            const std::shared_ptr<ProcessGroup>& processes) {
    at::Tensor normal = (input - along_channels(mean, input)).mul_(along_channels(inverse, input));
    context->save_for_backward({normal, inverse});
    context->saved_data["count"] = count;
    context->saved_data["processes"] =
        c10::IValue::make_capsule(c10::make_intrusive<HeldProcesses>(processes));
    return normal;
  }

  /// Each value is part of the mean and the variance, and so of all outputs of its channel.
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &normal = saved[0], &inverse = saved[1], &gradient = gradients[0];
    const auto held = c10::static_intrusive_pointer_cast<HeldProcesses>(
        context->saved_data["processes"].toCapsule());
    const std::vector<int64_t> dims = dims_but_channels(normal);
    const at::Tensor sums =
        at::cat({gradient.sum(dims), (gradient * normal).sum(dims)}).to(at::kDouble);
    held->processes->all_reduce(sums, kBackward);
    const at::Tensor means =
        sums.div_(context->saved_data["count"].toDouble()).to(normal.scalar_type());
    const int64_t channels = normal.size(1);
    at::Tensor result = normal * along_channels(means.slice(0, channels), normal);
    result.add_(along_channels(means.slice(0, 0, channels), normal)).neg_().add_(gradient);
    result.mul_(along_channels(inverse, normal));
    return {result, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

SyncedLayer::~SyncedLayer() = default;

void check_dims(const at::Tensor& input, int64_t least, int64_t most) {
  if (input.dim() >= least && input.dim() <= most) return;
  fail<Error>("BatchNorm expects {} dimensions, got {}",
              least == most ? std::to_string(least) : fmt::format("{} or {}", least, most),
              input.dim());
}

at::Tensor batch_norm(const at::Tensor& input, const BatchNormState& state, bool training) {
  return torch::nn::functional::batch_norm(input, state.running_mean, state.running_var,
                                           torch::nn::functional::BatchNormFuncOptions()
                                               .weight(state.weight)
                                               .bias(state.bias)
                                               .training(training)
                                               .momentum(state.momentum)
                                               .eps(state.eps));
}

at::Tensor synced_batch_norm(const at::Tensor& input, const BatchNormState& state,
                             const std::shared_ptr<ProcessGroup>& processes) {
  at::Tensor mean, inverse;
  Moments all;
  {
    const at::NoGradGuard no_grad;
    all = moments_of_all(moments_of(input.detach()), *processes);
    if (all.count < 2) {
      fail<Error>("BatchNorm needs more than 1 value per channel in training, of all processes");
    }
    const at::Tensor variance = all.squares / all.count;
    if (state.running_mean.defined()) {
      const auto type = state.running_mean.scalar_type();
      state.running_mean.mul_(1 - state.momentum).add_(all.mean.to(type), state.momentum);
      state.running_var.mul_(1 - state.momentum)
          .add_((all.squares / (all.count - 1)).to(type), state.momentum);
    }
    mean = all.mean.to(type_of_statistics(input));
    inverse = (variance + state.eps).rsqrt().to(type_of_statistics(input));
  }
  at::Tensor out =
      SyncedNormalisation::apply(input.to(mean.scalar_type()), mean, inverse, all.count, processes);
  // A copy, where it is not: the caller may change it in place, and the backward pass needs it.
  out = state.weight.defined()
            ? out * along_channels(state.weight, input) + along_channels(state.bias, input)
            : out.clone();
  return out.to(input.scalar_type());
}

void sync_batch_norm(const torch::nn::Module& network,
                     const std::shared_ptr<ProcessGroup>& processes) {
  for (const auto& module : network.modules(/*include_self=*/false)) {
    if (auto* layer = dynamic_cast<SyncedLayer*>(module.get())) layer->sync_over(processes);
  }
}

std::string find_unsynced_batch_norm(const torch::nn::Module& network) {
  for (const auto& item : network.named_modules("", /*include_self=*/false)) {
    const torch::nn::Module* const module = item.value().get();
    if (dynamic_cast<const SyncedLayer*>(module)) continue;
    if (dynamic_cast<const torch::nn::BatchNorm1dImpl*>(module) ||
        dynamic_cast<const torch::nn::BatchNorm2dImpl*>(module) ||
        dynamic_cast<const torch::nn::BatchNorm3dImpl*>(module)) {
      return item.key();
    }
  }
  return "";
}

}  // namespace polyak
