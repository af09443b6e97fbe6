// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <torch/torch.h>

#include "polyak/averaging/average_state.h"
#include "polyak/averaging/averages.h"
#include "polyak/averaging/process_group.h"
#include "polyak/averaging/register.h"
#include "polyak/config/load.h"
#include "polyak/core/error.h"
#include "support/processes.h"

namespace polyak {
namespace {

using testing::Ended;
using ::testing::HasSubstr;
using testing::run_processes;
using Processes = std::shared_ptr<ProcessGroup>;
using testing::Register;
using testing::require;

struct CutNetImpl : torch::nn::Cloneable<CutNetImpl> {
  CutNetImpl() { CutNetImpl::reset(); }
  void reset() override {
    first = register_module("first", torch::nn::Linear(37, 101));
    norm = register_module("norm", torch::nn::BatchNorm1d(101));
    second = register_module("second", torch::nn::Linear(101, 53));
    tied = register_parameter("tied", second->weight);
    scale = register_parameter("scale", torch::ones({1}));
  }
  torch::nn::Linear first{nullptr}, second{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
  torch::Tensor tied, scale;
};
TORCH_MODULE(CutNet);

CutNet make_net(at::ScalarType dtype) {
  torch::manual_seed(3);
  CutNet net;
  net->to(dtype);
  return net;
}

/// A step that is the same in every process.
void take_step(CutNet& net, int64_t number) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(static_cast<uint64_t>(1000 + number));
  for (at::Tensor& parameter : net->parameters()) {
    parameter.add_(torch::randn(parameter.sizes()).to(parameter.scalar_type()), 0.1);
  }
  for (at::Tensor& buffer : net->buffers()) {
    buffer.add_(torch::rand(buffer.sizes()).mul(3).to(buffer.scalar_type()));
  }
}

std::shared_ptr<AveragedModel> build(const std::string& options, const ModelRef& model) {
  Catalog catalog;
  register_averages(catalog);
  AveragedModel::Context context;
  context.model = model;
  context.max_iters = 60;
  context.lengths = {60, 10, 32};
  return catalog.of<AveragedModel>().build(parse_config(options), context);
}

void require_equal(const AveragedModel& one, const AveragedModel& other, const std::string& what) {
  const auto a = one.named_averages(), b = other.named_averages();
  require(a.size() == b.size(), "the same names");
  for (const auto& item : a) {
    const at::Tensor& twin = b[item.key()];
    require(item.value().sizes() == twin.sizes() && at::equal(item.value(), twin),
            fmt::format("{}: {} has the same bits", what, item.key()).c_str());
  }
}

const std::vector<std::string> kRules = {
    "type: ExponentialMovingAverage\nmomentum: 0.03\nbias_correction: true",
    "type: CosineEMA\nmomentum: 0.04\nend_momentum: 0.01",
    "type: MomentumAnnealingEMA\nmomentum: 0.01",
    "type: ExpMomentumEMA\nmomentum: 0.01",
    "type: StochasticWeightAverage\nbegin: 3",
    "type: WarmupEMA",
    "type: GrowingHalfLifeEMA",
    "type: BEMA",
    "type: RampUpEMA\nbatch_size: 32\nema_kimg: 0.2",
    "type: PowerFunctionEMA\nsigma_rel: 0.1",
    "type: SlidingWindowAverage\nwindow: 3\nsnapshot_every: 2"};

/// Sharded and replicated averages side by side, with an evaluation and a resume in between.
void compare(const Processes& processes, const std::string& options, at::ScalarType dtype) {
  CutNet net = make_net(dtype), twin = make_net(dtype);  // one each: write_back changes it
  const auto whole = build(options, ModelRef(net));
  auto sharded = build(options + "\nshard: true", ModelRef(twin));
  sharded->set_process_group(processes);
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      take_step(net, i);
      take_step(twin, i);
      whole->update_parameters(ModelRef(net));
      const int64_t before = processes->bytes();
      sharded->update_parameters(ModelRef(twin));
      // Writing the average back needs all of it.
      const bool is_quiet = i > begin && options.find("write_back") == std::string::npos;
      require(!is_quiet || processes->bytes() == before,
              fmt::format("{}: an update communicates nothing", options).c_str());
    }
  };
  run(0, 12);
  require(sharded->is_sharded(), "the average is cut");
  {
    const SwapGuard guard = sharded->swap(ModelRef(twin));
    for (const auto& item : whole->state()) {
      const auto parameters = twin->named_parameters();
      if (const at::Tensor* live = parameters.find(item.name)) {
        require(at::equal(*live, item.tensor), "a swap puts the whole average in");
      }
    }
  }
  require_equal(*whole, *sharded, options);
  run(12, 20);
  const AverageState state = sharded->state_dict();
  const auto resumed = build(options + "\nshard: true", ModelRef(twin));
  resumed->set_process_group(processes);
  require(resumed->load_state_dict(state).clean(), "a state fits");
  sharded = resumed;
  run(20, 27);
  require_equal(*whole, *sharded, options + ", resumed");
}

const Register kRulesWorker("rules", [](const Processes& processes) {
  Catalog catalog;
  register_averages(catalog);
  for (const std::string& name : catalog.of<AveragedModel>().names()) {
    const auto is_named = [&](const std::string& rule) {
      return rule == "type: " + name || rule.rfind("type: " + name + "\n", 0) == 0;
    };
    require(std::any_of(kRules.begin(), kRules.end(), is_named),
            fmt::format("{} is compared", name).c_str());
  }
  for (const std::string& rule : kRules) compare(processes, rule, at::kFloat);
});
const Register kModesWorker("modes", [](const Processes& processes) {
  const std::string ema = "type: ExponentialMovingAverage\nmomentum: 0.03\n";
  for (const char* precision : {"default", "compensated", "float64"}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble}) {
      if (dtype == at::kDouble && std::string(precision) == "compensated") continue;
      for (const char* buffers : {"true", "false"}) {
        compare(processes,
                fmt::format("{}precision: {}\nupdate_buffers: {}", ema, precision, buffers), dtype);
      }
    }
  }
  compare(processes, ema + "interval: 3\nskip_nonfinite: true\nexclude: ['^first\\.']", at::kFloat);
  compare(processes, ema + "start: initial\nwrite_back: {every: 5, weight: 0.5}", at::kFloat);
  compare(processes, "type: BEMA\nprecision: float64", at::kBFloat16);
});

TEST(ShardedAverage, HasTheBitsOfAWholeOneForEveryRule) {
  for (const int64_t size : {2, 3}) {
    for (const Ended& ended : run_processes(size, "rules"))
      EXPECT_EQ(ended.status, 0) << ended.output;
  }
}

TEST(ShardedAverage, HasTheBitsOfAWholeOneForEveryPrecisionAndBufferMode) {
  for (const int64_t size : {2, 3}) {
    for (const Ended& ended : run_processes(size, "modes"))
      EXPECT_EQ(ended.status, 0) << ended.output;
  }
}

int64_t bytes_of(const AveragedModel& average) {
  int64_t bytes = 0;
  for (const auto& tensor : average.coverage().tensors) {
    if (!tensor.buffer) bytes += tensor.bytes;
  }
  return bytes;
}

const Register kMemory("memory", [](const Processes& processes) {
  torch::nn::Sequential net(torch::nn::Linear(1000, 700), torch::nn::Linear(700, 301));
  CosineEMA average{ModelRef(net.ptr()), CosineEMAOptions().max_iters(100).shard(true)};
  average.set_process_group(processes);
  const auto whole = static_cast<double>(bytes_of(average));
  average.update_parameters(ModelRef(net.ptr()));
  const auto size = static_cast<double>(processes->size());
  require(static_cast<double>(bytes_of(average)) <= whole * (1 / size + 0.02), "a part is a part");
  int64_t of_module = 0;
  for (const auto& item : average.named_parameters()) of_module += item.value().numel();
  require(of_module == 0, "the averaged module holds nothing meanwhile");
});

TEST(ShardedAverage, TakesTheMemoryOfItsPart) {
  for (const int64_t size : {2, 3, 4}) {
    for (const Ended& ended : run_processes(size, "memory"))
      EXPECT_EQ(ended.status, 0) << ended.output;
  }
}

const Register kLayers("layers", [](const Processes& processes) {
  torch::nn::Sequential net(torch::nn::Linear(64, 64), torch::nn::Linear(64, 64));
  const auto options = [] { return ExponentialMovingAverageOptions().momentum(0.1); };
  ExponentialMovingAverage whole{ModelRef(net.ptr()), options()};
  ExponentialMovingAverage sharded{ModelRef(net.ptr()), options().shard(true)};
  sharded.set_process_group(processes);
  for (int64_t i = 0; i < 9; ++i) {
    if (i == 3) net->push_back(torch::nn::Linear(64, 64));
    if (i == 5) net->to(torch::kDouble);
    const torch::NoGradGuard no_grad;
    torch::manual_seed(static_cast<uint64_t>(i));
    for (at::Tensor& parameter : net->parameters()) parameter.add_(torch::randn_like(parameter));
    for (const at::Tensor& parameter : net->parameters()) {
      processes->broadcast(parameter.detach(), 0, "making layers equal");
    }
    whole.update_parameters(ModelRef(net.ptr()));
    sharded.update_parameters(ModelRef(net.ptr()));
    require(sharded.is_sharded(), "it is cut again");
  }
  require_equal(whole, sharded, "layers");
});

TEST(ShardedAverage, FollowsLayersAndDtypes) {
  for (const Ended& ended : run_processes(2, "layers")) EXPECT_EQ(ended.status, 0) << ended.output;
}

const Register kDrifting("drifting", [](const Processes& processes) {
  CutNet net = make_net(at::kFloat);
  ExponentialMovingAverage average{ModelRef(net),
                                   ExponentialMovingAverageOptions().momentum(0.1).verify(4).shard(
                                       std::getenv("POLYAK_TEST_SHARD") != nullptr)};
  average.set_process_group(processes);
  for (int64_t i = 0; i < 12; ++i) {
    take_step(net, i);
    if (i == 5 && processes->rank() == 1) {
      const torch::NoGradGuard no_grad;
      net->second->bias[3] += 1e-6;
    }
    average.update_parameters(ModelRef(net));
  }
});

TEST(Verify, NamesTheFirstTensorThatDiffers) {
  for (const auto& environment : {testing::Environment(), {{"POLYAK_TEST_SHARD", "1"}}}) {
    for (const Ended& ended : run_processes(2, "drifting", environment)) {
      EXPECT_EQ(ended.status, 1);
      EXPECT_THAT(ended.output,
                  HasSubstr("verify: after update 8, rank 1 has another second.bias than rank 0"));
    }
  }
}

}  // namespace
}  // namespace polyak
