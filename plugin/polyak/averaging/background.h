// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace polyak {

/// One thread that runs one job at a time. A single caller calls start() and wait(), and sees what
/// a job wrote after wait().
class Background {
 public:
  Background() = default;
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;
  /// Waits for the job; an exception from it is lost.
  ~Background();

  /// Starts a job after the previous one is done. The first call starts the thread.
  void start(std::function<void()> job);
  /// Waits until the job is done. Rethrows its exception, once.
  void wait();

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> job_;  // empty when there is none
  std::exception_ptr error_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace polyak
