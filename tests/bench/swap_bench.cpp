// The averaged weights go into the model and the raw ones come back, as for an evaluation.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/utils.h>

#include "bench/averaging_ways.h"
#include "bench/benchmarks.h"
#include "bench/race.h"

namespace polyak::bench {
namespace {

bool equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (!a[i].equal(b[i].to(a[i].scalar_type()))) return false;
  }
  return true;
}

/// MMEngine's EMAHook: a clone and two copies for each tensor.
void exchange_by_copies(const std::vector<at::Tensor>& model, std::vector<at::Tensor>& averages) {
  for (size_t i = 0; i < model.size(); ++i) {
    const at::Tensor aside = averages[i].clone();
    averages[i].copy_(model[i]);
    model[i].copy_(aside);
  }
}

void swap(benchmark::State& state, const std::string& name, at::ScalarType dtype, int threads) {
  torch::NoGradGuard no_grad;
  at::set_num_threads(threads);
  Subject subject(shapes_of(name, flags().tiny ? 64 : 1), dtype);
  for (const at::Tensor& average : subject.averages) average.mul_(0.5);
  const std::vector<at::Tensor>& model = subject.model->tensors();
  std::vector<at::Tensor> raw, averages;  // what MMEngine keeps: averages in the model's dtype
  for (const at::Tensor& tensor : model) raw.push_back(tensor.clone());
  for (const at::Tensor& average : subject.averages)
    averages.push_back(average.to(dtype, false, true));

  struct Way {
    std::string name;
    std::function<void(const std::function<void()>& evaluate)> run;
  };
  const std::vector<Way> ways{{"ours",
                               [&](const auto& evaluate) {
                                 auto guard = subject.ema->swap(subject.model);
                                 evaluate();
                               }},
                              {"mmengine", [&](const auto& evaluate) {
                                 exchange_by_copies(model, averages);
                                 evaluate();
                                 exchange_by_copies(model, averages);
                               }}};
  Race race;
  for (const Way& way : ways) {
    bool right = false;
    way.run([&] { right = equal(model, subject.averages); });
    if (!right || !equal(model, raw)) return fail(state, way.name + " swaps something else");
    race.add(way.name, [&way] { way.run([] {}); });
  }
  race.run(state);
  race.report(state);
}

}  // namespace

void add_swap_benchmarks() {
  for (const char* name : {"resnet50", "vit_b_16"}) {
    for (const auto& [dtype, dtype_name] : dtypes()) {
      if (dtype == at::kHalf) continue;  // as bfloat16
      for (int threads : {1, 2}) {
        add_benchmark(
            "swap/" + std::string(name) + "/" + dtype_name + "/" + std::to_string(threads),
            [name, dtype = dtype, threads](benchmark::State& state) {
              swap(state, name, dtype, threads);
            });
      }
    }
  }
}

}  // namespace polyak::bench
