// Small programs that save in every way that attach has to live with; none knows of it.
//
// saver NAME [ARG ...]: files are written to the current folder.
#include <torch/torch.h>

#include <chrono>
#include <cstdio>
#include <deque>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

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
      {"loads", loads},
  };
  torch::manual_seed(1);
  all.at(argv[1])(Arguments(argv + 2, argv + argc));
}
