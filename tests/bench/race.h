// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <benchmark/benchmark.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace polyak::bench {

/// What the command line says beside Google Benchmark's own flags.
struct Flags {
  int64_t rounds = 21;
  bool tiny = false;  // small shapes, few updates: to see that everything runs
  bool cold = false;  // every run starts with its data out of the caches
};
const Flags& flags();
/// Takes our flags out of the command line. Returns false when one is wrong.
bool read_flags(int* count, char** arguments);

/// Several ways of doing one thing, timed against each other. In every round each of them runs
/// once, in an order that turns, so that what disturbs the machine disturbs all alike; figures are
/// medians over rounds, and ratios and differences are taken within a round.
class Race {
 public:
  using Work = std::function<void()>;
  /// A timed run is `calls` calls, for what is too short to be timed alone.
  explicit Race(int64_t calls = 1) : calls_(calls) {}
  /// `before` comes before each timed run, untimed. Without it the same way runs once, so that its
  /// data are where it leaves them and not where another left them, or the caches are swept.
  /// A way that is there already gets other work, and keeps its times.
  void add(const std::string& name, Work run, Work before = nullptr);
  /// The rounds are the iterations of `state`, after some to warm up; its time is that of the first
  /// way.
  void run(benchmark::State& state);

  // The parts of run(), for races that take turns.
  void warm_up();  // rounds that do not count
  void round();
  /// Leaves the counters "<name>_us", the median of a call, and "<name>/<first name>", the median
  /// of the rounds' ratios.
  void report(benchmark::State& state) const;
  double last_us() const { return ways_.front().us.back(); }  // of the first way

  double ratio(const std::string& name, const std::string& base) const;
  double difference_us(const std::string& name, const std::string& base) const;
  /// The same with what came before the timed run.
  double whole_difference_us(const std::string& name, const std::string& base) const;
  double whole_us(const std::string& name) const;
  /// The name of the fastest of the ways whose names begin so.
  std::string fastest(const std::string& group) const;

 private:
  struct Way {
    std::string name;
    Work run, before;
    std::vector<double> us;     // of a call
    std::vector<double> whole;  // with `before`
  };
  std::pair<double, double> time(const Way& way) const;
  const Way& way(const std::string& name) const;

  std::vector<Way> ways_;
  int64_t calls_;
  int64_t turn_ = 0;
};

}  // namespace polyak::bench
