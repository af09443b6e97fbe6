// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/registered.h"

#include <memory>

#include "polyak/averaging/register.h"
#include "polyak/loader/loader.h"
#include "polyak/trainer/register_trainer.h"

namespace polyak::cli {

Catalog& registered() {
  static Catalog& instance = []() -> Catalog& {
    auto catalog = std::make_unique<Catalog>();
    register_averages(*catalog);
    register_trainer(*catalog);
    load_plugin(find_plugin("polyak_hooks", ""), *catalog);
    return *catalog.release();
  }();
  return instance;
}

}  // namespace polyak::cli
