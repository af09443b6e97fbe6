// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <optional>
#include <string>

#include "polyak/core/export.h"

namespace polyak {

/// While one lives, SIGTERM, SIGINT and SIGUSR1 ask for a stop instead of ending the process. A
/// signal that was ignored stays ignored. More of SIGTERM and SIGUSR1 change nothing, since
/// schedulers send several; a second SIGINT ends the process at once. The handlers set an atomic
/// number and do nothing else. The last one to go puts the earlier handlers back, except where
/// somebody else has set one meanwhile. Construction and destruction are safe from any thread.
class POLYAK_API StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// The number of the first signal that came since the first of those that live was made; 0:
  /// none. Safe from any thread.
  static int received();
};

/// Whether a run is to end early: somebody asked for it, or a signal did.
class POLYAK_API StopRequest {
 public:
  /// Safe from any thread, as requested() is.
  void request() { requested_ = true; }
  bool requested() const { return requested_ || signal() != 0; }
  /// Signals count from here on, as StopSignals says; until ignore_signals().
  void heed_signals() {
    if (!signals_) signals_.emplace();
  }
  /// Puts the earlier handlers back. signal() stays.
  void ignore_signals() {
    signal_ = signal();
    signals_.reset();
  }
  /// The signal that asked for the stop; 0: none.
  int signal() const { return signals_ ? StopSignals::received() : signal_; }

 private:
  std::atomic<bool> requested_{false};
  std::optional<StopSignals> signals_;
  int signal_ = 0;  // once signals_ are gone
};

/// "SIGTERM", or "signal 99" for one without a name here.
POLYAK_API std::string signal_name(int signal);

}  // namespace polyak
