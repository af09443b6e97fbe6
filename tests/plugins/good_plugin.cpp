// SPDX-License-Identifier: Apache-2.0
// A stranger's plugin: a hook and an average of its own.
#include <memory>

#include "polyak/averaging/averaged_model.h"
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

struct HalfOptions : polyak::AverageOptions<HalfOptions> {};

/// Always half of the way.
class HalfWay : public polyak::AveragedModel {
 public:
  HalfWay(const polyak::Model& model, HalfOptions options)
      : AveragedModel(model, checked(options, "HalfWay")), options_(std::move(options)) {}
  std::string rule_name() const override { return "HalfWay"; }
  polyak::Node rule_options() const override { return polyak::options_to_node(options_); }

 protected:
  double rule(int64_t) const override { return 0.5; }

 private:
  HalfOptions options_;
};

}  // namespace

POLYAK_PLUGIN(catalog) {
  catalog.of<polyak::Hook>().add<GreetingOptions>(
      "GreetingHook", "Greets.", [](const GreetingOptions&, const polyak::Hook::Context&) {
        return std::make_shared<GreetingHook>();
      });
  catalog.of<polyak::AveragedModel>().add<HalfOptions>(
      "HalfWay", "Half of the way at each update.",
      [](const HalfOptions& options, const polyak::AveragedModel::Context& context) {
        return std::make_shared<HalfWay>(*context.model, options);
      });
}
