// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/stop_signals.h"

#include <fmt/format.h>

#include <array>
#include <atomic>
#include <csignal>
#include <mutex>

namespace polyak {
namespace {

constexpr std::array<int, 3> kSignals{SIGTERM, SIGINT, SIGUSR1};

std::atomic<int> first_signal{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may use nothing else");

std::mutex mutex;  // for the variables below
int living = 0;
std::array<struct sigaction, kSignals.size()> earlier;
std::array<bool, kSignals.size()> taken;

void note(int signal) {
  int none = 0;
  first_signal.compare_exchange_strong(none, signal);
}

void take(size_t index) {
  struct sigaction action {};
  action.sa_handler = note;
  sigemptyset(&action.sa_mask);
  // The first SIGINT restores the system's handler, so that the second ends the process.
  action.sa_flags = SA_RESTART | (kSignals[index] == SIGINT ? SA_RESETHAND : 0);
  sigaction(kSignals[index], nullptr, &earlier[index]);
  taken[index] = earlier[index].sa_handler != SIG_IGN;
  if (taken[index]) sigaction(kSignals[index], &action, nullptr);
}

void give_back(size_t index) {
  if (!taken[index]) return;
  struct sigaction now {};
  sigaction(kSignals[index], nullptr, &now);
  const bool ours = now.sa_handler == note;
  const bool used_up = kSignals[index] == SIGINT && now.sa_handler == SIG_DFL;
  if (ours || used_up) sigaction(kSignals[index], &earlier[index], nullptr);
}

}  // namespace

StopSignals::StopSignals() {
  const std::lock_guard<std::mutex> lock(mutex);
  if (living++ > 0) return;
  first_signal = 0;
  for (size_t i = 0; i < kSignals.size(); ++i) take(i);
}

StopSignals::~StopSignals() {
  const std::lock_guard<std::mutex> lock(mutex);
  if (--living > 0) return;
  for (size_t i = 0; i < kSignals.size(); ++i) give_back(i);
}

int StopSignals::received() {
  return first_signal;
}

std::string signal_name(int signal) {
  switch (signal) {
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    case SIGUSR1:
      return "SIGUSR1";
    default:
      return fmt::format("signal {}", signal);
  }
}

}  // namespace polyak
