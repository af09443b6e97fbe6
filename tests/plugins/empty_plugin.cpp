// Registers nothing.
#include "polyak/loader/plugin.h"

POLYAK_PLUGIN(/*catalog*/) {}
