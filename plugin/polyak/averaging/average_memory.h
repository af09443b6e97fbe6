// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/averaging/slot.h"

namespace polyak {

/// Places averages on the CPU next to each other, in the order in which updates visit them, and in
/// huge pages if available. Allocated separately, each small average would be an address that the
/// CPU cannot predict, and a large one would touch a new page every 4 KiB. Each average has its own
/// storage, but a handle to one keeps the memory of all alive. A large average has the same offset
/// within its page as its source.
void gather_averages(const Slots& slots);

}  // namespace polyak
