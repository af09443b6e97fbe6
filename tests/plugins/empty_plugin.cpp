// SPDX-License-Identifier: Apache-2.0
// Registers nothing.
#include "polyak/loader/plugin.h"

POLYAK_PLUGIN(/*catalog*/) {}
