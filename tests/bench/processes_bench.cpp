// SPDX-License-Identifier: Apache-2.0
// Two processes of one thread each beside one process: processes_bench [ROUNDS]. It prints
//   - the time of an update of an average in parts, of one that each process has whole
//   - samples a second of two processes, of one process with two threads and the same batch
// Ratios are medians of rounds that alternate. The machine needs two cores of its own.
#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "polyak/averaging/averages.h"
#include "polyak/distributed/gradient_reducer.h"
#include "support/processes.h"

namespace {

using polyak::ModelRef;
using Processes = std::shared_ptr<polyak::ProcessGroup>;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int number_from(const char* name) {
  const char* const text = std::getenv(name);
  return text ? std::atoi(text) : 1;
}

/// 25.2 million parameters.
torch::nn::Sequential make_mlp() {
  torch::manual_seed(1);
  return torch::nn::Sequential(torch::nn::Linear(1024, 4096), torch::nn::ReLU(),
                               torch::nn::Linear(4096, 4096), torch::nn::ReLU(),
                               torch::nn::Linear(4096, 1024), torch::nn::ReLU(),
                               torch::nn::Linear(1024, 10));
}

/// The shape of configs/fashion_mnist: three convolutions with BatchNorm, 28 x 28 pixels.
torch::nn::Sequential make_cnn() {
  torch::manual_seed(1);
  torch::nn::Sequential net;
  int64_t channels = 1;
  for (const int64_t out : {16, 32, 64}) {
    net->push_back(torch::nn::Conv2d(
        torch::nn::Conv2dOptions(channels, out, 3).padding(1).stride(out == 16 ? 1 : 2)));
    net->push_back(torch::nn::BatchNorm2d(out));
    net->push_back(torch::nn::ReLU());
    channels = out;
  }
  net->push_back(torch::nn::AdaptiveAvgPool2d(1));
  net->push_back(torch::nn::Flatten());
  net->push_back(torch::nn::Linear(channels, 10));
  return net;
}

/// Prints seconds of an update in parts, and whole.
const polyak::testing::Register kUpdate("update", [](const Processes& processes) {
  at::set_num_threads(1);
  torch::nn::Sequential net = make_mlp();
  const auto options = polyak::ExponentialMovingAverageOptions().momentum(0.01);
  polyak::ExponentialMovingAverage whole{ModelRef(net.ptr()), options};
  polyak::ExponentialMovingAverage parts{
      ModelRef(net.ptr()), polyak::ExponentialMovingAverageOptions().momentum(0.01).shard(true)};
  parts.set_process_group(processes);
  const auto time_of = [&](polyak::AveragedModel& average) {
    processes->barrier("beginning");
    const auto begin = Clock::now();
    for (int i = 0; i < 20; ++i) average.update_parameters(ModelRef(net.ptr()));
    return seconds_since(begin) / 20;
  };
  time_of(whole);
  time_of(parts);
  for (int round = 0; round < number_from("POLYAK_ROUNDS"); ++round) {
    const double each = time_of(parts), all = time_of(whole);
    if (processes->is_main()) std::printf("%.9g %.9g\n", each, all);
  }
});

/// Prints samples a second of all processes.
void train(const Processes& processes, const char* model) {
  at::set_num_threads(number_from("POLYAK_THREADS"));
  const bool mlp = std::string(model) == "mlp";
  torch::nn::Sequential net = mlp ? make_mlp() : make_cnn();
  const int64_t batch = (mlp ? 64 : 128) / processes->size();
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.01).momentum(0.9));
  const auto reducer = polyak::make_gradient_reducer(processes, ModelRef(net.ptr()).tensors(), {});
  const at::Tensor images = mlp ? torch::randn({batch, 1024}) : torch::randn({batch, 1, 28, 28});
  const at::Tensor labels = torch::arange(batch).remainder(10);
  const int steps = mlp ? 4 : 12;
  Clock::time_point begin;
  for (int step = -2; step < steps; ++step) {
    if (step == 0) {
      processes->barrier("beginning");
      begin = Clock::now();
    }
    optimizer.zero_grad();
    if (processes->size() > 1) reducer->forward();
    const at::Tensor loss = torch::nn::functional::cross_entropy(net->forward(images), labels);
    processes->size() > 1 ? reducer->backward(loss, true) : loss.backward();
    optimizer.step();
  }
  const double samples = static_cast<double>(steps * batch * processes->size());
  if (processes->is_main()) std::printf("%.9g\n", samples / seconds_since(begin));
}
const polyak::testing::Register kMlp("mlp", [](const Processes& p) { train(p, "mlp"); });
const polyak::testing::Register kCnn("cnn", [](const Processes& p) { train(p, "cnn"); });

std::string output_of(int64_t size, const char* worker, int threads, int rounds) {
  const auto ended = polyak::testing::run_processes(size, worker,
                                                    {{"POLYAK_THREADS", std::to_string(threads)},
                                                     {"OMP_NUM_THREADS", std::to_string(threads)},
                                                     {"POLYAK_ROUNDS", std::to_string(rounds)}});
  for (const auto& item : ended) {
    if (item.status == 0) continue;
    std::fprintf(stderr, "%s", item.output.c_str());
    std::exit(1);
  }
  return ended[0].output;
}

}  // namespace

int main(int argc, char** argv) {
  const int status = polyak::testing::run_worker();
  if (status >= 0) return status;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // a table takes minutes
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 5;
  std::vector<double> ratios, times;
  const std::string text = output_of(2, "update", 1, rounds);
  double parts = 0, whole = 0;
  int read = 0;
  for (const char* place = text.c_str();
       std::sscanf(place, "%lf %lf\n%n", &parts, &whole, &read) == 2; place += read) {
    ratios.push_back(parts / whole);
    times.push_back(whole);
  }
  std::printf("update of a half of 25.2 M parameters, of a whole: %.3f (whole: %.2f ms)\n",
              median(ratios), 1e3 * median(times));
  for (const char* model : {"mlp", "cnn"}) {
    std::vector<double> speeds;
    double one = 0;
    for (int round = 0; round < rounds; ++round) {
      const double two = std::atof(output_of(2, model, 1, 1).c_str());
      one = std::atof(output_of(1, model, 2, 1).c_str());
      speeds.push_back(two / one);
    }
    std::printf(
        "%s: samples a second of two processes, of one with two threads: %.3f (one: %.1f)\n", model,
        median(speeds), one);
  }
  return 0;
}
