// SPDX-License-Identifier: Apache-2.0
// A stranger's plugin: a hook and an average of its own.
#include <memory>

#include "polyak/averaging/average.h"
#include "polyak/loader/plugin.h"
#include "polyak/runtime/hook.h"

namespace {

struct GreetingOptions : polyak::Options {
  std::string text = "hello";
  void visit(polyak::OptionVisitor& visitor) override {
    visitor.key("text", &text, "What it says.");
  }
};

struct GreetingHook : polyak::Hook {
  std::string name() const override { return "GreetingHook"; }
};

/// Always half of the way.
struct HalfOptions : polyak::AverageOptions<HalfOptions> {
  static constexpr const char* kName = "HalfWay";
  static constexpr const char* kDoc = "Half of the way at each update.";
  double weight(const polyak::Clock&) const { return 0.5; }
};

}  // namespace

POLYAK_PLUGIN(catalog) {
  catalog.of<polyak::Hook>().add<GreetingOptions>(
      "GreetingHook", "Greets.", [](const GreetingOptions&, const polyak::Hook::Context&) {
        return std::make_shared<GreetingHook>();
      });
  polyak::register_average<polyak::Average<HalfOptions>>(catalog);
}
