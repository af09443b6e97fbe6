// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "polyak/averaging/averaged_model.h"
#include "polyak/registry/registry.h"
#include "polyak/rules/average_options.h"
#include "polyak/rules/clock.h"

namespace polyak {

/// An average of a model by the rule `O`: an Options struct, derived from AverageOptions<O> or
/// MomentumOptions<O>, with
///
///     static constexpr const char* kName;           // for configs and messages
///     static constexpr const char* kDoc;            // one sentence
///     double weight(const Clock& clock) const;      // of the new value, in [0, 1]
///
/// and, if the defaults of AverageOptions do not fit, lasting_weight(), set_run_length() and
/// check_complete(). A derived class gives it a name in C++:
///
///     class RampEMA final : public polyak::Average<RampEMAOptions> {
///      public:
///       using Average::Average;
///     };
template <class O>
class Average : public AveragedModel {
 public:
  /// The rule.
  using Options = O;

  /// @throws ConfigError if an option is out of range or a required one is missing
  explicit Average(const ModelRef& model, O options = {}, ModuleFactory factory = nullptr)
      : AveragedModel(model, settings_of(options), std::move(factory)),
        options_(std::move(options)) {}

  std::string rule_name() const override { return O::kName; }
  Node rule_options() const override { return options_to_node(options_); }
  /// The options that the average was built with.
  const O& options() const { return options_; }

 private:
  static Settings settings_of(const O& options) {
    options.check_complete();
    return checked(options, O::kName);
  }
  double rule(int64_t k) const override { return options_.weight(Clock(k)); }
  double lasting_weight() const override { return options_.lasting_weight(); }

  O options_;
};

/// Registers an average, a class derived from Average<O>, with the name and the documentation of
/// its options.
template <class A>
void register_average(Catalog& catalog) {
  using O = typename A::Options;
  catalog.of<AveragedModel>().template add<O>(
      O::kName, O::kDoc, [](O options, const AveragedModel::Context& context) {
        if (context.max_iters) options.set_run_length(*context.max_iters);
        return std::make_shared<A>(*context.model, std::move(options));
      });
}

}  // namespace polyak
