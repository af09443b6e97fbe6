#include "bench/race.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <stdexcept>

namespace polyak::bench {
namespace {

Flags& mutable_flags() {
  static Flags flags;
  return flags;
}

bool failed = false;

/// Pushes everything else out of the caches.
void sweep_caches() {
  static std::vector<char> memory(size_t{1} << 30);
  for (size_t i = 0; i < memory.size(); i += 64) ++memory[i];
  benchmark::ClobberMemory();
}

}  // namespace

const Flags& flags() {
  return mutable_flags();
}

std::string usage() {
  return "polyak_bench [--rounds=21] [--warmup=2] [--updates=1000000] [--tiny] [--cold] "
         "[--benchmark_filter=REGEX] [--benchmark_out=FILE] ...\n";
}

bool read_flags(int* count, char** arguments) {
  Flags& flags = mutable_flags();
  const auto number = [](const std::string& argument, const std::string& name, int64_t* value) {
    if (argument.rfind(name + "=", 0) != 0) return false;
    *value = std::atoll(argument.c_str() + name.size() + 1);
    return true;
  };
  int kept = 1;
  for (int i = 1; i < *count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "--tiny") {
      flags.tiny = true;
    } else if (argument == "--cold") {
      flags.cold = true;
    } else if (!number(argument, "--rounds", &flags.rounds) &&
               !number(argument, "--warmup", &flags.warmup) &&
               !number(argument, "--updates", &flags.updates)) {
      arguments[kept++] = arguments[i];
    }
  }
  *count = kept;
  return flags.rounds > 0 && flags.warmup >= 0 && flags.updates > 0;
}

bool any_failed() {
  return failed;
}

void fail(benchmark::State& state, const std::string& what) {
  failed = true;
  state.SkipWithError(what.c_str());
}

double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + int64_t(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double Race::time_of(const Entry& entry, int64_t calls, bool settle) {
  if (settle) flags().cold ? sweep_caches() : entry.run();
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < calls; ++i) entry.run();
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
  return passed.count() / double(calls);
}

void Race::run(benchmark::State& state, int64_t calls, bool settle) {
  const auto round = [&] {
    // Every other round goes backwards: turning alone would leave each with the same predecessor.
    const auto size = int64_t(entries_.size());
    std::vector<double> seconds(entries_.size());
    for (int64_t i = 0; i < size; ++i) {
      const auto at = size_t((round_ + (round_ % 2 == 0 ? i : size - i)) % size);
      seconds[at] = time_of(entries_[at], calls, settle);
    }
    ++round_;
    return seconds;
  };
  for (int64_t i = 0; i < flags().warmup; ++i) round();
  for (auto _ : state) {
    const std::vector<double> seconds = round();
    for (size_t i = 0; i < entries_.size(); ++i) entries_[i].seconds.push_back(seconds[i]);
    state.SetIterationTime(seconds.front());
  }
}

const Race::Entry& Race::entry(const std::string& name) const {
  for (const Entry& entry : entries_) {
    if (entry.name == name) return entry;
  }
  throw std::invalid_argument("not in this race: " + name);
}

double Race::median(const std::string& name) const {
  return median_of(entry(name).seconds);
}

double Race::ratio(const std::string& name, const std::string& base) const {
  std::vector<double> ratios = entry(name).seconds;
  for (size_t i = 0; i < ratios.size(); ++i) ratios[i] /= entry(base).seconds[i];
  return median_of(ratios);
}

double Race::difference(const std::string& name, const std::string& base) const {
  std::vector<double> differences = entry(name).seconds;
  for (size_t i = 0; i < differences.size(); ++i) differences[i] -= entry(base).seconds[i];
  return median_of(differences);
}

std::string Race::fastest(const std::string& group) const {
  const Entry* best = nullptr;
  for (const Entry& entry : entries_) {
    if (entry.name.rfind(group + ":", 0) != 0) continue;
    if (!best || median_of(entry.seconds) < median_of(best->seconds)) best = &entry;
  }
  if (!best) throw std::invalid_argument("nobody of this group: " + group);
  return best->name;
}

void Race::report(benchmark::State& state) const {
  const std::string& base = entries_.front().name;
  for (const Entry& entry : entries_) {
    state.counters[entry.name + "_us"] = median(entry.name) * 1e6;
    if (entry.name != base) state.counters[entry.name + "/" + base] = ratio(entry.name, base);
  }
}

}  // namespace polyak::bench
