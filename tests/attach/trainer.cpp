// SPDX-License-Identifier: Apache-2.0
// A trainer in the manner of the C++ frontend's MNIST example, which knows nothing of Polyak; and,
// compiled with WITH_POLYAK, the same with the lines that give it the hooks of a YAML file.
//
// trainer DATA [--epochs N] [--batches N] [--lr R] [--seed N] [--quiet] [--save FILE] [--dump FILE]
// trainer DATA --evaluate FILE [--dump FILE]
// trainer_with_hooks DATA --hooks CONFIG ...
#include <torch/torch.h>

#include <fstream>
#include <iostream>
#include <map>
#include <string>

#include "weights_dump.h"
#ifdef WITH_POLYAK
#include <polyak/polyak.h>
#endif

struct Net : torch::nn::Module {
  Net()
      : conv1(torch::nn::Conv2dOptions(1, 10, /*kernel_size=*/5)),
        conv2(torch::nn::Conv2dOptions(10, 20, /*kernel_size=*/5)),
        fc1(320, 50),
        fc2(50, 10) {
    register_module("conv1", conv1);
    register_module("conv2", conv2);
    register_module("conv2_drop", conv2_drop);
    register_module("fc1", fc1);
    register_module("fc2", fc2);
  }

  torch::Tensor forward(torch::Tensor x) {
    x = torch::relu(torch::max_pool2d(conv1->forward(x), 2));
    x = torch::relu(torch::max_pool2d(conv2_drop->forward(conv2->forward(x)), 2));
    x = x.view({-1, 320});
    x = torch::relu(fc1->forward(x));
    x = torch::dropout(x, /*p=*/0.5, /*training=*/is_training());
    x = fc2->forward(x);
    return torch::log_softmax(x, /*dim=*/1);
  }

  torch::nn::Conv2d conv1;
  torch::nn::Conv2d conv2;
  torch::nn::Dropout2d conv2_drop;
  torch::nn::Linear fc1;
  torch::nn::Linear fc2;
};

auto images(const std::string& folder, torch::data::datasets::MNIST::Mode mode) {
  return torch::data::datasets::MNIST(folder, mode)
      .map(torch::data::transforms::Normalize<>(0.2860, 0.3530))
      .map(torch::data::transforms::Stack<>());
}

double accuracy_of(Net& model, const std::string& folder) {
  torch::NoGradGuard no_grad;
  model.eval();
  auto data = images(folder, torch::data::datasets::MNIST::Mode::kTest);
  const auto size = data.size().value();
  auto loader = torch::data::make_data_loader<torch::data::samplers::SequentialSampler>(
      std::move(data), /*batch_size=*/1000);
  int64_t correct = 0;
  for (auto& batch : *loader) {
    correct += model.forward(batch.data).argmax(1).eq(batch.target).sum().item<int64_t>();
  }
  return static_cast<double>(correct) / static_cast<double>(size);
}

int main(int argc, char** argv) {
  std::map<std::string, std::string> given;
  for (int i = 2; i < argc; i += 2) given[argv[i]] = i + 1 < argc ? argv[i + 1] : "";
  const auto number = [&](const char* name, double otherwise) {
    return given.count(name) ? std::stod(given[name]) : otherwise;
  };
  const std::string folder = argv[1];
  torch::manual_seed(static_cast<uint64_t>(number("--seed", 1)));
  std::ofstream dump;
  if (given.count("--dump")) dump.open(given["--dump"], std::ios::binary);

  Net model;
  if (given.count("--evaluate")) {
    torch::serialize::InputArchive archive;
    archive.load_from(given["--evaluate"]);
    model.load(archive);
    if (dump.is_open()) dump_weights(dump, model);
    std::cout << accuracy_of(model, folder) << std::endl;
    return 0;
  }

  auto data = images(folder, torch::data::datasets::MNIST::Mode::kTrain);
  auto loader = torch::data::make_data_loader<torch::data::samplers::RandomSampler>(
      std::move(data), /*batch_size=*/64);
  torch::optim::SGD optimizer(model.parameters(),
                              torch::optim::SGDOptions(number("--lr", 0.01)).momentum(0.5));
#ifdef WITH_POLYAK
  polyak::LoopHooks hooks(given["--hooks"], model,
                          polyak::LoopHooksSettings().optimizer(optimizer));
#endif
  const auto epochs = static_cast<int64_t>(number("--epochs", 1));
  const auto batches = static_cast<int64_t>(number("--batches", 1e9));
  for (int64_t epoch = 1; epoch <= epochs; ++epoch) {
    model.train();
    int64_t index = 0;
    double sum = 0;
    for (auto& batch : *loader) {
      if (index++ == batches) break;
      optimizer.zero_grad();
      auto loss = torch::nll_loss(model.forward(batch.data), batch.target);
      loss.backward();
      optimizer.step();
#ifdef WITH_POLYAK
      hooks.after_step();
      hooks.after_iter({{"loss", loss.item<double>()}});
#endif
      sum += loss.item<double>();
      if (dump.is_open()) dump_weights(dump, model);
    }
    std::cout << "epoch " << epoch << " loss " << sum << std::endl;
  }
#ifdef WITH_POLYAK
  hooks.after_train();
#endif
  if (given.count("--save")) {
    torch::serialize::OutputArchive archive;
    model.save(archive);
    archive.save_to(given["--save"]);
    std::cout << "accuracy " << accuracy_of(model, folder) << std::endl;
  }
}
