// SPDX-License-Identifier: Apache-2.0
// Registers a hook and then fails: nothing of it may stay.
#include <memory>
#include <stdexcept>
#include <string>

#include "polyak/loader/plugin.h"
#include "polyak/runtime/hook.h"

namespace {

struct NoOptions : polyak::Options {
  void visit(polyak::OptionVisitor&) override {}
};

struct LostHook : polyak::Hook {
  std::string name() const override { return "LostHook"; }
};

#ifdef POLYAK_TEST_THROW_OTHER
/// No std::exception, and its destructor lives in this library.
struct Trouble {
  std::string text = "its text, in memory that this library owns";
};
#endif

}  // namespace

POLYAK_PLUGIN(catalog) {
  catalog.of<polyak::Hook>().add<NoOptions>(
      "LostHook", "Never there.",
      [](const NoOptions&, const polyak::Hook::Context&) { return std::make_shared<LostHook>(); });
#if defined(POLYAK_TEST_THROW_STD)
  throw std::runtime_error("the licence server is asleep");
#elif defined(POLYAK_TEST_THROW_EMPTY)
  throw std::runtime_error("");
#else
  throw Trouble();
#endif
}
