// SPDX-License-Identifier: Apache-2.0
// at::parallel_for is a header whose threads come from the flags and the runtime of whoever
// compiles it. These tests hold the build to its promise: every thread works, and one OpenMP
// runtime serves the whole process.
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <thread>

namespace {

// clang cannot use libgomp: built by it, averaging runs on one thread (docs/design.md).
#ifdef _OPENMP
TEST(Parallel, TwoThreadsWorkAtOnce) {
  at::set_num_threads(2);
  std::atomic<int> arrived{0};
  std::mutex mutex;
  std::set<std::thread::id> threads;
  at::parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    // Each chunk waits for the other; run one after the other, the first gives up instead.
    ++arrived;
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (arrived < 2 && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
    std::lock_guard<std::mutex> lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  EXPECT_EQ(threads.size(), 2u);
}
#endif

TEST(Parallel, OneOpenMpRuntimeIsLoaded) {
  std::set<std::string> runtimes;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const auto slash = line.find('/');
    if (slash == std::string::npos) continue;
    const std::string name = line.substr(line.rfind('/') + 1);
    for (const char* prefix : {"libgomp", "libiomp", "libomp."}) {
      if (name.rfind(prefix, 0) == 0) runtimes.insert(line.substr(slash));
    }
  }
  EXPECT_EQ(runtimes.size(), 1u) << ::testing::PrintToString(runtimes);
}

}  // namespace
