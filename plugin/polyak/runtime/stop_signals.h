// SPDX-License-Identifier: Apache-2.0
#pragma once

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

/// "SIGTERM", or "signal 99" for one without a name here.
POLYAK_API std::string signal_name(int signal);

}  // namespace polyak
