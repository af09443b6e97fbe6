// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "polyak/config/options.h"
#include "polyak/core/export.h"

namespace polyak {

class Catalog;

/// Adds the models, data, optimizers, schedules and metrics of the reference runner.
POLYAK_API void register_trainer(Catalog& catalog);

/// The options of a whole training config at their defaults, for checks and for its schema.
POLYAK_API std::unique_ptr<Options> make_train_config();

}  // namespace polyak
