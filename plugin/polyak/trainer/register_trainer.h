// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/core/export.h"

namespace polyak {

class Catalog;

/// Adds the models, data, optimizers, schedules and metrics of the reference runner.
POLYAK_API void register_trainer(Catalog& catalog);

}  // namespace polyak
