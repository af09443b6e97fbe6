// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/wait.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "scenario.h"

namespace {

using Run = std::function<int(Net&, torch::optim::Optimizer&, Steps&)>;

int ten_steps(const Run& end) {
  Net model;
  torch::optim::SGD sgd(model.parameters(), 0.05);
  Steps dump("steps");
  train(model, sgd, 10, dump);
  return end(model, sgd, dump);
}

int forks(const Arguments&) {
  return ten_steps([](Net& model, torch::optim::Optimizer& sgd, Steps& dump) {
    const pid_t child = ::fork();
    if (child == 0) {
      torch::set_num_threads(1);
      for (int i = 0; i < 3; ++i) plain_turn(model, sgd);
      save(model, "child.pt");
      std::exit(7);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    train(model, sgd, 2, dump);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
  });
}

/// Any lock of LibTorch or the C library that the thread holds stays locked in a child. Those of
/// their first use and of exit's handlers hang children without attach, too: neither is asked for
/// here.
int forks_beside_a_training_thread(const Arguments&) {
  Net model;
  torch::optim::SGD sgd(model.parameters(), 0.05);
  std::atomic<bool> stop{false};
  std::atomic<int> turns{0};
  std::thread trainer([&] {
    for (; !stop; ++turns) plain_turn(model, sgd);
  });
  while (turns < 2) std::this_thread::yield();
  int wrong = 0;
  for (int i = 0; i < 20; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::alarm(10);  // a child that hangs dies of it
      torch::optim::SGD own({torch::zeros({2}, torch::requires_grad())}, 0.1);
      own.step();
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    wrong += status == 0 ? 0 : 1;
  }
  stop = true;
  trainer.join();
  return wrong;
}

int threads(const Arguments&) {
  const auto work = [](const std::string& name) {
    Net model;
    torch::optim::SGD sgd(model.parameters(), 0.05);
    Steps dump(name);
    train(model, sgd, 50, dump);
    save(model, name + ".pt");
  };
  std::thread a(work, "a"), b(work, "b");
  a.join();
  b.join();
  return 0;
}

int exits_in_a_step(const Arguments&) {
  return ten_steps([](Net&, torch::optim::Optimizer& sgd, Steps&) {
    sgd.step([]() -> torch::Tensor { std::exit(5); });
    return 0;
  });
}

int throws_in_a_step(const Arguments&) {
  return ten_steps([](Net& model, torch::optim::Optimizer& sgd, Steps& dump) {
    try {
      sgd.step([]() -> torch::Tensor { throw std::runtime_error("no data"); });
    } catch (const std::runtime_error&) {
      train(model, sgd, 2, dump);
    }
    return 0;
  });
}

int exits_while_a_thread_trains(const Arguments&) {
  auto* model = new Net;
  auto* sgd = new torch::optim::SGD(model->parameters(), 0.05);
  std::atomic<int> steps{0};
  std::thread([model, sgd, &steps] {
    while (true) {
      plain_turn(*model, *sgd);
      ++steps;
    }
  }).detach();
  while (steps < 5) std::this_thread::yield();
  std::exit(9);
}

int ends(const Arguments& arguments) {
  return ten_steps([&](Net&, torch::optim::Optimizer&, Steps&) -> int {
    const std::string& how = arguments.at(0);
    if (how == "exit") std::exit(4);
    if (how == "_exit") ::_exit(6);
    if (how == "quick_exit") std::quick_exit(8);
    if (how == "throw") throw std::runtime_error("the disk is full");
    if (how == "SIGTERM") ::raise(SIGTERM);
    if (how == "SIGKILL") ::raise(SIGKILL);
    if (how == "SIGINT") ::raise(SIGINT);
    if (how == "abort") std::abort();
    if (how == "thread") std::thread([] { std::exit(12); }).join();
    if (how == "terminate") {
      std::set_terminate([] { ::_exit(11); });
      throw std::runtime_error("the disk is full");
    }
    if (how == "handler") {
      std::signal(SIGTERM, [](int) { std::exit(3); });
      ::raise(SIGTERM);
    }
    return 2;
  });
}

int saves_at_exit(const Arguments&) {
  static Net& model = *new Net;
  std::atexit([] { save(model, "model.pt"); });
  torch::optim::SGD sgd(model.parameters(), 0.05);
  Steps dump("steps");
  train(model, sgd, 10, dump);
  return 0;
}

int no_step(const Arguments&) {
  Net model;
  save(model, "model.pt");
  return 0;
}

int environment(const Arguments&) {
  const char* preload = std::getenv("LD_PRELOAD");
  std::cout << "LD_PRELOAD=" << (preload ? preload : "(unset)") << std::endl;
  return std::system("env | grep -c -e ^POLYAK_ATTACH -e libpolyak_attach; true");
}

/// Which standard streams are open and which signals are ignored.
int inheritance(const Arguments&) {
  std::ostringstream found;
  for (int i = 0; i <= 2; ++i) found << (::fcntl(i, F_GETFD) < 0 ? "closed " : "open ");
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("SigIgn", 0) == 0) found << line;
  }
  std::ofstream("inheritance.txt") << found.str() << "\n";
  return 0;
}

/// For measuring: a model so small that a step takes microseconds.
int tiny(const Arguments& arguments) {
  torch::set_num_threads(1);
  torch::nn::Linear net(4, 1);
  torch::optim::SGD sgd(net->parameters(), 0.01);
  const auto x = torch::randn({8, 4}), y = torch::randn({8, 1});
  for (int i = 0; i < std::stoi(arguments.at(0)); ++i) {
    sgd.zero_grad();
    (net->forward(x) - y).square().mean().backward();
    sgd.step();
  }
  return 0;
}

}  // namespace

Scenarios scenarios_of_ends() {
  return {
      {"forks", forks},
      {"forks_beside_a_training_thread", forks_beside_a_training_thread},
      {"threads", threads},
      {"exits_in_a_step", exits_in_a_step},
      {"throws_in_a_step", throws_in_a_step},
      {"exits_while_a_thread_trains", exits_while_a_thread_trains},
      {"ends", ends},
      {"saves_at_exit", saves_at_exit},
      {"no_step", no_step},
      {"environment", environment},
      {"inheritance", inheritance},
      {"tiny", tiny},
  };
}
