// SPDX-License-Identifier: Apache-2.0
// Tests with several processes: a test starts copies of its own program, each of which runs one
// worker instead of the tests.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "polyak/averaging/process_group.h"

namespace polyak::testing {

/// How a process ended.
struct Ended {
  int status = 0;      // exit status; 128 + N after signal N
  std::string output;  // of both streams
  double seconds = 0;
};

/// Variables of the environment, beside those that say where a process stands.
using Environment = std::map<std::string, std::string>;

/// Runs a worker in `size` processes, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
/// @param ranks those that are started; empty: all
std::vector<Ended> run_processes(int64_t size, const std::string& worker,
                                 const Environment& environment = {},
                                 std::vector<int64_t> ranks = {});

/// A worker: joined processes, what it throws goes to standard error and ends it with status 1.
using Worker = std::function<void(const std::shared_ptr<ProcessGroup>&)>;

/// Workers by name. main() calls run_worker() first.
std::map<std::string, Worker>& workers();
/// Registers a worker before main() looks for it.
struct Register {
  Register(const char* name, Worker worker) { workers().emplace(name, std::move(worker)); }
};
/// For workers. @throws Error naming what does not hold
void require(bool condition, const char* what);
/// If this process was started for a worker: runs it. @return its exit status, or -1
int run_worker();

/// A port of this machine on which this object listens.
class TakenPort {
 public:
  TakenPort();
  ~TakenPort();
  TakenPort(const TakenPort&) = delete;
  TakenPort& operator=(const TakenPort&) = delete;
  int64_t number() const { return number_; }

 private:
  int socket_;
  int64_t number_;
};
/// One that nothing listens on.
inline int64_t free_port() {
  return TakenPort().number();
}

}  // namespace polyak::testing
