// SPDX-License-Identifier: Apache-2.0
// Calls a function that no library has: of another version of Polyak, say.
#include "polyak/loader/plugin.h"

namespace polyak {
POLYAK_API void function_of_another_version();
}

POLYAK_PLUGIN(/*catalog*/) {
  polyak::function_of_another_version();
}
