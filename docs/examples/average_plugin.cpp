// SPDX-License-Identifier: Apache-2.0
// An average of one's own in a shared library: 20 lines.
#include <polyak/averaging/averaged_model.h>
#include <polyak/loader/plugin.h>

#include <algorithm>
#include <memory>

// --8<-- [start:plugin]
struct RampEMAOptions : polyak::MomentumOptions<RampEMAOptions> {
  RampEMAOptions() : MomentumOptions(0.0002) {}
};

class RampEMA : public polyak::AveragedModel {
 public:
  RampEMA(const polyak::Model& model, const RampEMAOptions& options)
      : AveragedModel(model, checked(options, "RampEMA")), options_(options) {}
  std::string rule_name() const override { return "RampEMA"; }
  polyak::Node rule_options() const override { return polyak::options_to_node(options_); }

 private:
  double rule(int64_t k) const override { return std::max(options_.momentum(), 9.0 / (10 + k)); }
  RampEMAOptions options_;
};

POLYAK_PLUGIN(catalog) {
  catalog.of<polyak::AveragedModel>().add<RampEMAOptions>(
      "RampEMA", "EMA whose decay rises as (1 + k) / (10 + k).",
      [](const RampEMAOptions& options, const polyak::AveragedModel::Context& context) {
        return std::make_shared<RampEMA>(*context.model, options);
      });
}
// --8<-- [end:plugin]
