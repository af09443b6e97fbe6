// Three averages over one model: in one pass, and in three.
#include "bench/averaging_ways.h"
#include "bench/benchmarks.h"
#include "bench/cases.h"
#include "bench/race.h"

namespace polyak::bench {
namespace {

void several(benchmark::State& state, const Case& of) {
  const auto model = std::make_shared<Parameters>(of.shapes(), of.dtype);
  std::vector<std::unique_ptr<AveragedModel>> owned;
  std::vector<AveragedModel*> emas;
  std::vector<at::Tensor> averages, sources;
  for (int i = 0; i < 3; ++i) {
    owned.push_back(make_average(model));
    emas.push_back(owned.back().get());
    for (const at::Tensor& average : averages_of(*emas.back())) averages.push_back(average);
    for (const at::Tensor& source : model->tensors()) sources.push_back(source.detach());
  }
  const auto together = [&] { update_together(emas, model); };
  const auto one_by_one = [&] {
    for (AveragedModel* ema : emas) ema->update_parameters(model);
  };
  std::string wrong = check_update("update_together", together, averages, sources);
  if (wrong.empty()) wrong = check_update("one by one", one_by_one, averages, sources);
  if (!wrong.empty()) return fail(state, wrong);

  Race race;
  race.add("ours", together);
  race.add("one_by_one", one_by_one);
  race.run(state);
  race.report(state);
}

}  // namespace

void add_several_benchmarks() {
  add_cases("several", {"resnet50", "vit_b_16"}, {at::kFloat, at::kBFloat16}, several,
            flags().rounds);
}

}  // namespace polyak::bench
