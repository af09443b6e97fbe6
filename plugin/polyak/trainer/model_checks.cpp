// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/model_checks.h"

#include <ATen/ATen.h>
#include <torch/utils.h>

#include "polyak/core/log.h"
#include "polyak/runtime/state_dict.h"
#include "polyak/trainer/process.h"
#include "polyak/trainer/sync_batch_norm.h"
#include "polyak/trainer/torch_script.h"

namespace polyak {

void check_forward(const std::shared_ptr<Algorithm>& model, const ImageShape& shape,
                   c10::Device device, const Node& node) {
  const auto module = as_module(model);
  const torch::NoGradGuard no_grad;
  const bool training = module->is_training();
  module->eval();
  try {
    model->predict(at::zeros({1, shape.channels, shape.height, shape.width}, device));
  } catch (const std::exception& error) {
    if (is_out_of_memory(error)) {
      node.fail(
          fmt::format("the model needs more memory than is available for one image of {} x {} x {} "
                      "(channels, height, width): {}; choose smaller sizes",
                      shape.channels, shape.height, shape.width, first_line(error)));
    }
    node.fail(fmt::format(
        "the model does not accept images of {} x {} x {} (channels, height, width): {}",
        shape.channels, shape.height, shape.width, first_line(error)));
  }
  module->train(training);
}

std::optional<std::string> training_failure(const torch::nn::Module& model, const ImageShape& shape,
                                            c10::Device device, int64_t samples) {
  const torch::NoGradGuard no_grad;
  const RandomStateGuard cpu_state(c10::kCPU);
  const RandomStateGuard device_state(device);
  std::shared_ptr<torch::nn::Module> module;
  try {
    module = model.clone();
    module->train();
  } catch (const std::exception&) {
    return std::nullopt;  // there is nothing to try
  }
  const auto copy = std::dynamic_pointer_cast<Algorithm>(module);
  if (!copy) return std::nullopt;
  Batch batch{{}, at::zeros({samples}, at::TensorOptions(device).dtype(at::kLong))};
  for (int64_t view = 0; view < copy->num_views(); ++view) {
    batch.views.push_back(at::zeros({samples, shape.channels, shape.height, shape.width}, device));
  }
  try {
    copy->loss(batch);
  } catch (const std::exception& error) {
    return first_line(error);
  }
  return std::nullopt;
}

namespace {

/// BatchNorm cannot train on a batch of one value: report that now, not after an epoch.
bool check_last_batch(const torch::nn::Module& model, const DataLoader& data, c10::Device device,
                      int64_t max_iters, const Node& node, bool sync_bn) {
  const int64_t last = sync_bn ? data.all_samples_of(data.size() - 1) : data.last_batch_size();
  if (last != 1) return false;
  const auto failure_of = [&](int64_t samples) {
    return training_failure(model, data.dataset().image_shape(), device, samples);
  };
  const auto failure = failure_of(1);
  if (!failure || failure_of(2)) return false;  // the size is not the reason
  if (max_iters < data.size()) return true;
  const bool only_one = (sync_bn ? data.whole_batch_size() : data.batch_size()) == 1;
  node.fail(fmt::format("{} one sample, but the model cannot train on one sample: {}; {}",
                        only_one ? "each batch has" : "the last batch of an epoch has", *failure,
                        only_one           ? "set batch_size: 2 or more"
                        : data.size() == 1 ? "add more samples"
                                           : "set drop_last: true, or another batch_size"));
}

}  // namespace

bool check_training_data(const std::shared_ptr<Algorithm>& model, const DataLoader& data,
                         c10::Device device, int64_t max_iters, const Node& node, bool sync_bn) {
  const int64_t views = data.dataset().num_views();
  if (views != model->num_views()) {
    node.fail(fmt::format("its pipeline makes {} view(s) of each image, but the model needs {}; {}",
                          views, model->num_views(),
                          model->num_views() == 1 ? "remove MultiView" : "use MultiView"));
  }
  if (data.dataset().lacks_labels() && !model->learns_without_labels()) {
    node.fail(
        "its dataset has samples without a label (`labelled`), but the model needs labels; "
        "MeanTeacher can learn without them");
  }
  return check_last_batch(*as_module(model), data, device, max_iters, node, sync_bn);
}

void check_sync_bn(const std::shared_ptr<Algorithm>& model, const Node& key) {
  if (dynamic_cast<const TorchScript*>(model.get())) {
    key.fail("a TorchScript model computes its statistics by itself; set sync_bn: false");
  }
  const std::string other = find_unsynced_batch_norm(*as_module(model));
  if (other.empty()) return;
  key.fail(fmt::format(
      "the layer {} is LibTorch's own BatchNorm, which knows one process; a plugin's network uses "
      "polyak::SyncBatchNorm2d of polyak/trainer/sync_batch_norm.h instead",
      other));
}

void check_fit(const ModelRef& model, const Value& state_dict, bool whole,
               const std::string& file) {
  const StateDifference found = check_state_dict(model, state_dict, whole);
  if (!found.empty())
    log_warning("load_from: {} only partly fits the model; {}", file, found.text());
}

}  // namespace polyak
