// SPDX-License-Identifier: Apache-2.0
// Small programs that save in every way that attach has to live with; none knows of it.
//
// saver NAME [ARG ...]: files are written to the current folder.
#include <torch/torch.h>

#include <chrono>
#include <cstdio>
#include <deque>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "weights_dump.h"

namespace {

using Arguments = std::vector<std::string>;

struct NetImpl : torch::nn::Cloneable<NetImpl> {
  NetImpl() { reset(); }
  void reset() override {
    first = register_module("first", torch::nn::Linear(4, 8));
    dropout = register_module("dropout", torch::nn::Dropout(0.0));
    second = register_module("second", torch::nn::Linear(8, 2));
  }
  torch::Tensor forward(const torch::Tensor& x) { return second(dropout(torch::relu(first(x)))); }
  torch::nn::Linear first{nullptr};
  torch::nn::Dropout dropout{nullptr};
  torch::nn::Linear second{nullptr};
};
TORCH_MODULE(Net);

void train(Net& net, torch::optim::Optimizer& optimizer, int steps = 2) {
  for (int i = 0; i < steps; ++i) {
    optimizer.zero_grad();
    net(torch::randn({8, 4})).square().mean().backward();
    optimizer.step();
  }
}

void many_streams(const Arguments& arguments) {
  Net net;
  torch::optim::SGD sgd(net->parameters(), 0.05);
  for (int i = 0; i < std::stoi(arguments[0]); ++i) {
    train(net, sgd);
    std::stringstream stream;
    torch::save(net, stream);
  }
}

void saves_a_clone(const Arguments&) {
  Net net;
  torch::optim::Adam adam(net->parameters());
  train(net, adam);
  const auto best = std::dynamic_pointer_cast<NetImpl>(net->clone());
  torch::save(best, "best.pt");
  torch::save(adam, "adam.pt");  // what goes with a model is nothing to speak of
}

void hand_made_target(const Arguments&) {
  Net net, target;
  torch::optim::SGD sgd(net->parameters(), 0.05);
  for (int i = 0; i < 3; ++i) {
    train(net, sgd);
    torch::NoGradGuard no_grad;
    const auto from = net->parameters(), to = target->parameters();
    for (size_t j = 0; j < to.size(); ++j) to[j].lerp_(from[j], 0.1);
  }
}

void nothing_to_step(const Arguments&) {
  torch::optim::SGD sgd(std::vector<torch::Tensor>{}, 0.05);
  sgd.step();
}

void saves_as(const Arguments& files) {
  Net net;
  torch::optim::SGD sgd(net->parameters(), 0.05);
  for (const std::string& file : files) {
    train(net, sgd);
    torch::save(net, file);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

/// Deletes the oldest of all files whose names begin as its own do.
void keeps_the_newest(const Arguments& arguments) {
  Net net;
  torch::optim::SGD sgd(net->parameters(), 0.05);
  std::deque<std::string> files;
  for (int i = 1; i <= 5; ++i) {
    train(net, sgd);
    const std::string name = "kept_" + std::to_string(i);
    torch::save(net, name + ".pt");
    files.push_back(name);
    if (files.size() <= static_cast<size_t>(std::stoi(arguments[0]))) continue;
    for (const char* mark : {".pt", ".averaged.pt"}) std::remove((files.front() + mark).c_str());
    files.pop_front();
  }
}

/// Puts another tensor into an optimizer in the place of one, as loops do that move points about.
void replaces(const Arguments& arguments) {
  const bool reordered = arguments[0] == "reordered", grows = arguments[0] == "behind_more";
  torch::Tensor first = torch::rand({4}).requires_grad_(),
                second = torch::rand({4}).requires_grad_();
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(std::vector<torch::Tensor>{first});
  groups.emplace_back(std::vector<torch::Tensor>{second});
  torch::optim::SGD sgd(groups, torch::optim::SGDOptions(0.1));
  groups.clear();
  std::ofstream weights("steps.bin", std::ios::binary);
  for (int i = 0; i < 10; ++i) {
    if (i == 5) {
      const torch::Tensor values = second.detach().clone();
      second = (reordered ? values.flip(0) : values).requires_grad_();
      sgd.param_groups()[1].params()[0] = second;
      if (grows) sgd.param_groups()[0].params().push_back(torch::ones({4}).requires_grad_());
    }
    sgd.zero_grad();
    (first.square().sum() + (second - 1).square().sum()).backward();
    sgd.step();
    dump_tensor(weights, "first", first, false);
    dump_tensor(weights, "second", second, false);
    weights << '\n';
  }
}

/// A target in the same module, frozen and copied by hand, and a counter that jumps before a save.
struct BothImpl : torch::nn::Cloneable<BothImpl> {
  BothImpl() { reset(); }
  void reset() override {
    online =
        register_module("online", torch::nn::Linear(torch::nn::LinearOptions(4, 2).bias(false)));
    norm = register_module("norm", torch::nn::BatchNorm1d(2));
    target =
        register_module("target", torch::nn::Linear(torch::nn::LinearOptions(4, 2).bias(false)));
    for (auto& parameter : target->parameters()) parameter.set_requires_grad(false);
  }
  torch::nn::Linear online{nullptr}, target{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
};
TORCH_MODULE(Both);

void target_in_the_module(const Arguments&) {
  Both both;
  std::vector<torch::Tensor> trained;
  for (const auto& parameter : both->parameters()) {
    if (parameter.requires_grad()) trained.push_back(parameter);
  }
  torch::optim::SGD sgd(trained, 0.05);
  for (int i = 0; i < 4; ++i) {
    sgd.zero_grad();
    const auto x = torch::randn({8, 4});
    (both->norm(both->online(x)) - x.slice(1, 0, 2)).square().mean().backward();
    sgd.step();
    torch::NoGradGuard no_grad;
    both->target->weight.copy_(both->online->weight);
  }
  both->norm->num_batches_tracked.add_(100);
  torch::save(both, "both.pt");
}

/// Says of each tensor whether two files hold the same.
void compares(const Arguments& files) {
  Both a, b;
  torch::load(a, files[0]);
  torch::load(b, files[1]);
  const auto say = [](const std::string& name, const torch::Tensor& x, const torch::Tensor& y) {
    std::printf("%s %s\n", name.c_str(), torch::equal(x, y) ? "same" : "other");
  };
  for (const auto& item : a->named_parameters()) {
    say(item.key(), item.value(), b->named_parameters()[item.key()]);
  }
  for (const auto& item : a->named_buffers()) {
    say(item.key(), item.value(), b->named_buffers()[item.key()]);
  }
}

void loads(const Arguments& arguments) {
  Net net;
  torch::load(net, arguments[0]);
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, std::function<void(const Arguments&)>> all{
      {"many_streams", many_streams},
      {"saves_a_clone", saves_a_clone},
      {"hand_made_target", hand_made_target},
      {"nothing_to_step", nothing_to_step},
      {"saves_as", saves_as},
      {"keeps_the_newest", keeps_the_newest},
      {"replaces", replaces},
      {"target_in_the_module", target_in_the_module},
      {"compares", compares},
      {"loads", loads},
  };
  torch::manual_seed(1);
  all.at(argv[1])(Arguments(argv + 2, argv + argc));
}
