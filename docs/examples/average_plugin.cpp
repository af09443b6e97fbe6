// SPDX-License-Identifier: Apache-2.0
// An average of one's own in a shared library: 20 lines.
#include <polyak/averaging/average.h>
#include <polyak/loader/plugin.h>

#include <algorithm>

// --8<-- [start:plugin]
struct RampEMAOptions : polyak::MomentumOptions<RampEMAOptions> {
  static constexpr const char* kName = "RampEMA";
  static constexpr const char* kDoc = "EMA whose decay rises as (1 + k) / (10 + k).";

  RampEMAOptions() : MomentumOptions(0.0002) {}
  double weight(const polyak::Clock& clock) const {
    return std::max(momentum(), 9.0 / (10 + clock.updates));
  }
};

using RampEMA = polyak::Average<RampEMAOptions>;

POLYAK_PLUGIN(catalog) {
  polyak::register_average<RampEMA>(catalog);
}
// --8<-- [end:plugin]
