// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <thread>

#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

namespace polyak {

/// Writes one checkpoint at a time in a thread of its own. All calls come from one other thread.
class POLYAK_API BackgroundWriter {
 public:
  BackgroundWriter() = default;
  /// Waits for what is being written; its error is lost.
  ~BackgroundWriter();
  BackgroundWriter(const BackgroundWriter&) = delete;
  BackgroundWriter& operator=(const BackgroundWriter&) = delete;

  /// Copies the value, and calls `write` with the copy in a thread. Call finish() first.
  /// @throws CheckpointError if the value cannot be copied
  void start(const Value& value, std::function<void(const Value&)> write);
  /// Whether finish() would not wait.
  bool done() const;
  /// Waits until `write` has returned.
  /// @throws what it threw
  void finish();

 private:
  struct State;
  std::thread thread_;
  std::shared_ptr<State> state_;
};

}  // namespace polyak
