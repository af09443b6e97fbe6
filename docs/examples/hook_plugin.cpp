// SPDX-License-Identifier: Apache-2.0
// A hook of one's own in a shared library, which a config names under `plugins`.
#include <polyak/core/log.h>
#include <polyak/loader/plugin.h>
#include <polyak/runtime/hook.h>
#include <polyak/runtime/runner.h>

#include <memory>

// --8<-- [start:plugin]
namespace {

struct StopWhenGoodOptions : polyak::Options {
  std::string metric = "accuracy";
  double at_least = 0;
  void visit(polyak::OptionVisitor& visitor) override {
    visitor.key("metric", &metric, "The metric to watch.");
    visitor.required("at_least", &at_least, "Training ends once the metric is this large.");
  }
};

/// Ends training after a validation that is good enough.
class StopWhenGood : public polyak::Hook {
 public:
  explicit StopWhenGood(StopWhenGoodOptions options) : options_(std::move(options)) {
    polyak::check_options(options_, "StopWhenGood");
  }
  std::string name() const override { return "StopWhenGood"; }
  int priority() const override { return polyak::kLow; }

  void after_val_epoch(polyak::Runner& runner, polyak::Scalars& metrics) override {
    const auto found = metrics.find(options_.metric);
    if (found == metrics.end() || found->second < options_.at_least) return;
    polyak::log_info("StopWhenGood: {} is {:.2f}", options_.metric, found->second);
    runner.request_stop();
  }

 private:
  StopWhenGoodOptions options_;
};

}  // namespace

POLYAK_PLUGIN(catalog) {
  catalog.of<polyak::Hook>().add<StopWhenGoodOptions>(
      "StopWhenGood", "Ends training after a validation that is good enough.",
      [](const StopWhenGoodOptions& options, const polyak::Hook::Context&) {
        return std::make_shared<StopWhenGood>(options);
      });
}
// --8<-- [end:plugin]
