// SPDX-License-Identifier: Apache-2.0
#include "bench/race.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <stdexcept>

namespace polyak::bench {
namespace {

constexpr int64_t kWarmUpRounds = 2;

Flags& mutable_flags() {
  static Flags flags;
  return flags;
}

void sweep_caches() {
  static std::vector<char> memory(size_t{1} << 30);
  for (size_t i = 0; i < memory.size(); i += 64) ++memory[i];
  benchmark::ClobberMemory();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + int64_t(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

template <class Operation>
double median(std::vector<double> a, const std::vector<double>& b, Operation operation) {
  std::transform(a.begin(), a.end(), b.begin(), a.begin(), operation);
  return median(std::move(a));
}

}  // namespace

const Flags& flags() {
  return mutable_flags();
}

bool read_flags(int* count, char** arguments) {
  Flags& flags = mutable_flags();
  int kept = 1;
  for (int i = 1; i < *count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "--tiny") {
      flags.tiny = true;
    } else if (argument == "--cold") {
      flags.cold = true;
    } else if (argument.rfind("--rounds=", 0) == 0) {
      flags.rounds = std::atoll(argument.c_str() + 9);
    } else {
      arguments[kept++] = arguments[i];
    }
  }
  *count = kept;
  return flags.rounds > 0;
}

std::pair<double, double> Race::time(const Way& way) const {
  using Clock = std::chrono::steady_clock;
  using Microseconds = std::chrono::duration<double, std::micro>;
  const auto start = Clock::now();
  if (way.before) {
    way.before();
  } else {
    flags().cold ? sweep_caches() : way.run();
  }
  const auto ready = Clock::now();
  for (int64_t i = 0; i < calls_; ++i) way.run();
  const auto end = Clock::now();
  return {Microseconds(end - ready).count() / double(calls_), Microseconds(end - start).count()};
}

void Race::add(const std::string& name, Work run, Work before) {
  for (Way& way : ways_) {
    if (way.name != name) continue;
    way.run = std::move(run);
    way.before = std::move(before);
    return;
  }
  ways_.push_back({name, std::move(run), std::move(before), {}, {}});
}

void Race::round() {
  const auto size = int64_t(ways_.size());
  for (int64_t i = 0; i < size; ++i) {
    // Every other round goes backwards: turning alone would leave each with the same predecessor.
    Way& way = ways_[size_t((turn_ + (turn_ % 2 == 0 ? i : size - i)) % size)];
    const auto [us, whole] = time(way);
    way.us.push_back(us);
    way.whole.push_back(whole);
  }
  ++turn_;
}

void Race::warm_up() {
  const size_t counted = ways_.front().us.size();
  for (int64_t i = 0; i < kWarmUpRounds; ++i) round();
  for (Way& way : ways_) way.us.resize(counted), way.whole.resize(counted);
}

void Race::report(benchmark::State& state) const {
  const std::string& first = ways_.front().name;
  for (const Way& way : ways_) {
    state.counters[way.name + "_us"] = median(way.us);
    if (way.name != first) state.counters[way.name + "/" + first] = ratio(way.name, first);
  }
}

void Race::run(benchmark::State& state) {
  warm_up();
  for (auto _ : state) {
    round();
    state.SetIterationTime(last_us() * 1e-6);
  }
  report(state);
}

const Race::Way& Race::way(const std::string& name) const {
  for (const Way& way : ways_) {
    if (way.name == name) return way;
  }
  throw std::invalid_argument("not in this race: " + name);
}

double Race::ratio(const std::string& name, const std::string& base) const {
  return median(way(name).us, way(base).us, std::divides<>());
}

double Race::difference_us(const std::string& name, const std::string& base) const {
  return median(way(name).us, way(base).us, std::minus<>());
}

double Race::whole_difference_us(const std::string& name, const std::string& base) const {
  return median(way(name).whole, way(base).whole, std::minus<>());
}

double Race::whole_us(const std::string& name) const {
  return median(way(name).whole);
}

std::string Race::fastest(const std::string& group) const {
  const Way* best = nullptr;
  for (const Way& way : ways_) {
    if (way.name.rfind(group, 0) != 0) continue;
    if (!best || ratio(way.name, best->name) < 1) best = &way;
  }
  return best ? best->name : "";
}

}  // namespace polyak::bench
