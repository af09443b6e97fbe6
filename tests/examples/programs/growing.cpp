// SPDX-License-Identifier: Apache-2.0
// Gaussian splatting's form: points of a scene, an optimizer for each of their tensors. Every 10
// steps the points that matter are doubled and those that do not go: each optimizer gets a new
// tensor of another length, and its state the same rows.
#include <torch/optim/adam.h>
#include <torch/serialize.h>
#include <torch/utils.h>

#include <cstdio>
#include <memory>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include "attach/weights_dump.h"
#ifdef EMBEDDED
#include <polyak/polyak.h>

#include "averages_dump.h"
#endif

namespace {

struct Part {
  std::string name;
  torch::Tensor tensor;
  std::unique_ptr<torch::optim::Adam> optimizer;
};

/// Under what an optimizer keeps a tensor's state: a string in old LibTorchs.
template <class Map>
typename Map::key_type key_of(const Map& /*state*/, const torch::Tensor& tensor) {
  if constexpr (std::is_same_v<typename Map::key_type, std::string>) {
    std::ostringstream text;
    text << tensor.unsafeGetTensorImpl();
    return text.str();
  } else {
    return tensor.unsafeGetTensorImpl();
  }
}

/// Puts these rows in the place of the part's tensor, in the optimizer and in its state.
void replace(Part& part, const torch::Tensor& rows) {
  auto& states = part.optimizer->state();
  const auto before = states.find(key_of(states, part.tensor));
  const auto& had = static_cast<torch::optim::AdamParamState&>(*before->second);
  auto state = std::make_unique<torch::optim::AdamParamState>();
  state->step(had.step());
  state->exp_avg(had.exp_avg().index_select(0, rows));
  state->exp_avg_sq(had.exp_avg_sq().index_select(0, rows));
  states.erase(before);
  part.tensor = part.tensor.detach().index_select(0, rows).requires_grad_();
  part.optimizer->param_groups()[0].params()[0] = part.tensor;
  states[key_of(states, part.tensor)] = std::move(state);
}

/// All points but those of the smallest weight, and once more those of the largest gradient.
torch::Tensor rows_to_keep(const Part& means, const Part& weights) {
  const auto kept = weights.tensor.detach().squeeze(1).argsort().slice(0, 2);
  const auto doubled = means.tensor.grad().norm(2, 1).argsort().slice(0, -5);
  return torch::cat({kept, doubled});
}

#ifdef EMBEDDED
polyak::ModelRef model_of(const std::vector<Part>& parts) {
  std::vector<polyak::NamedTensor> tensors;
  for (const Part& part : parts) tensors.push_back({part.name, part.tensor});
  return polyak::ModelRef(tensors);
}

/// An average of a model, and the handle that updates take.
struct Averaged {
  explicit Averaged(const polyak::ModelRef& model)
      : model(model), average(model, polyak::CosineEMAOptions().momentum(0.1).max_iters(40)) {}
  polyak::ModelRef model;
  polyak::CosineEMA average;
};

/// The average of the grown parts, which goes on from the rows that it had.
std::unique_ptr<Averaged> grown(const Averaged& before, const std::vector<Part>& parts,
                                const torch::Tensor& rows) {
  auto after = std::make_unique<Averaged>(model_of(parts));
  std::vector<polyak::NamedTensor> values;
  for (const auto& item : before.average.named_averages()) {
    values.push_back({item.key(), item.value().index_select(0, rows)});
  }
  after->average.load_state(values, before.average.steps());
  return after;
}
#endif

}  // namespace

int main() {
  torch::manual_seed(1);
  std::vector<Part> parts;
  for (const char* name : {"means", "scales", "weights"}) {
    const int64_t width = std::string(name) == "weights" ? 1 : 2;
    const auto tensor = torch::rand({8, width}).requires_grad_();
    parts.push_back({name, tensor,
                     std::make_unique<torch::optim::Adam>(std::vector<torch::Tensor>{tensor},
                                                          torch::optim::AdamOptions(1e-2))});
  }
  std::ofstream weights("points.bin", std::ios::binary), rows_kept("rows.bin", std::ios::binary);
#ifdef EMBEDDED
  auto averaged = std::make_unique<Averaged>(model_of(parts));
  std::ofstream averages("points_averages.bin", std::ios::binary);
#endif

  double loss = 0;
  for (int step = 0; step < 40; ++step) {
    const auto at = torch::rand({16, 1, 2});
    const auto reach = ((at - parts[0].tensor) / (0.1 + parts[1].tensor.square())).square().sum(2);
    const auto seen = torch::exp(-reach).matmul(parts[2].tensor);
    const auto error = torch::mse_loss(seen, at.sum(2).sin());
    for (Part& part : parts) part.optimizer->zero_grad();
    error.backward();
    for (Part& part : parts) part.optimizer->step();
    for (const Part& part : parts) dump_tensor(weights, part.name, part.tensor, false);
    weights << '\n' << std::flush;
    loss = error.item<double>();
#ifdef EMBEDDED
    averaged->average.update_parameters(averaged->model);
    dump_averages(averages, averaged->average);
#endif
    if (step % 10 != 9) continue;
    const auto rows = rows_to_keep(parts[0], parts[2]);
    for (Part& part : parts) replace(part, rows);
    dump_tensor(rows_kept, "rows", rows, false);
    rows_kept << '\n' << std::flush;
    torch::save(std::vector<torch::Tensor>{parts[0].tensor, parts[1].tensor, parts[2].tensor},
                "points.pt");
#ifdef EMBEDDED
    averaged = grown(*averaged, parts, rows);
#endif
  }
  std::printf("%lld points, the loss: %.17g\n", static_cast<long long>(parts[0].tensor.size(0)),
              loss);
}
