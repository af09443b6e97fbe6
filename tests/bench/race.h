#pragma once

#include <benchmark/benchmark.h>

#include <functional>
#include <string>
#include <vector>

namespace polyak::bench {

/// What the command line says beside Google Benchmark's own flags; usage() lists it.
struct Flags {
  int64_t rounds = 21;
  int64_t warmup = 2;
  int64_t updates = 1'000'000;  // of the benchmark of precision
  bool tiny = false;            // small shapes: to see that everything runs
  bool cold = false;            // every run starts with its data out of the caches
};
const Flags& flags();
/// Takes our flags out of the command line. Returns false when one is wrong.
bool read_flags(int* count, char** arguments);
std::string usage();

/// Whether a benchmark broke off; the program then fails.
bool any_failed();
void fail(benchmark::State& state, const std::string& what);

double median_of(std::vector<double> values);

/// Several ways of doing one thing, timed against each other. In every round each of them runs
/// once, in an order that turns, so that what disturbs the machine disturbs all alike; figures are
/// medians over rounds, and ratios are taken within a round.
class Race {
 public:
  /// Names are "ours", a group and a name ("aten:lerp"), or what a benchmark likes.
  void add(std::string name, std::function<void()> run) {
    entries_.push_back({std::move(name), std::move(run), {}});
  }
  /// The rounds are the iterations of `state`; its time is that of the first entry. A timed run is
  /// `calls` calls, for what is too short to be timed alone. `settle`: before each, the same way
  /// runs once untimed, so that its data are where it leaves them and not where another left them;
  /// or the caches are swept.
  void run(benchmark::State& state, int64_t calls = 1, bool settle = true);

  /// Seconds of one call: the median.
  double median(const std::string& name) const;
  /// How many times as long as `base` it takes: the median of the rounds' ratios.
  double ratio(const std::string& name, const std::string& base) const;
  /// How many seconds longer than `base` it takes: the median of the rounds' differences.
  double difference(const std::string& name, const std::string& base) const;
  /// The name of the group's entry with the smallest median.
  std::string fastest(const std::string& group) const;

  /// Writes "<name>_us" of each entry, and "<name>/ours" of each but the first.
  void report(benchmark::State& state) const;

 private:
  struct Entry {
    std::string name;
    std::function<void()> run;
    std::vector<double> seconds;
  };
  static double time_of(const Entry& entry, int64_t calls, bool settle);
  const Entry& entry(const std::string& name) const;

  std::vector<Entry> entries_;
  int64_t round_ = 0;
};

}  // namespace polyak::bench
