// Registers a hook and then fails: nothing of it may stay.
#include <memory>
#include <stdexcept>

#include "polyak/loader/plugin.h"
#include "polyak/runtime/hook.h"

namespace {

struct NoOptions : polyak::Options {
  void visit(polyak::OptionVisitor&) override {}
};

struct LostHook : polyak::Hook {
  std::string name() const override { return "LostHook"; }
};

}  // namespace

POLYAK_PLUGIN(catalog) {
  catalog.of<polyak::Hook>().add<NoOptions>(
      "LostHook", "Never there.",
      [](const NoOptions&, const polyak::Hook::Context&) { return std::make_shared<LostHook>(); });
  throw std::runtime_error("the licence server is asleep");
}
