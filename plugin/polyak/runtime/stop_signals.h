// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <optional>
#include <string>

#include "polyak/core/export.h"

namespace polyak {

/// While one lives, SIGTERM, SIGINT and SIGUSR1 request a stop instead of ending the process. A
/// signal that was ignored stays ignored. Further SIGTERM and SIGUSR1 change nothing, because
/// schedulers send several; a second SIGINT ends the process at once. The handlers only set an
/// atomic number. The last one to be destroyed restores the earlier handlers, unless somebody else
/// has set one meanwhile. Construction and destruction are safe from any thread.
class POLYAK_API StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// The number of the first signal since the oldest living object was made, or 0. Safe from any
  /// thread.
  static int received();
};

/// Whether a run should end early, because somebody or a signal requested it.
class POLYAK_API StopRequest {
 public:
  /// Safe from any thread, as requested() is.
  void request() { requested_ = true; }
  bool requested() const { return requested_ || signal() != 0; }
  /// Signals count from here on, as in StopSignals, until ignore_signals().
  void heed_signals() {
    if (!signals_) signals_.emplace();
  }
  /// Restores the earlier handlers. signal() keeps its value.
  void ignore_signals() {
    signal_ = signal();
    signals_.reset();
  }
  /// The signal that requested the stop, or 0.
  int signal() const { return signals_ ? StopSignals::received() : signal_; }

 private:
  std::atomic<bool> requested_{false};
  std::optional<StopSignals> signals_;
  int signal_ = 0;  // after signals_ was reset
};

/// "SIGTERM", or "signal 99" for a signal without a name here.
POLYAK_API std::string signal_name(int signal);

}  // namespace polyak
