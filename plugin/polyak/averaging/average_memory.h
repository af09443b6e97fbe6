// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/averaging/slot.h"

namespace polyak {

/// Lays averages on the CPU side by side, in the order in which updates go through them, and in
/// huge pages where there are any: alone, each small one would be a place in memory that the CPU
/// does not foresee, and a large one a new page every 4 KiB. Each keeps a storage of its own; a
/// handle to one keeps the memory of all. A large one lies in its page as its source does in its
/// own.
void gather_averages(const Slots& slots);

}  // namespace polyak
