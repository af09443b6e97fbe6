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
/// and, if the defaults of AverageOptions do not fit, lasting_weight(), begins_after(),
/// set_run_length(), resolve(), check_lengths() and check_complete(). A derived class gives it a
/// name in C++:
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
      : Average(model, resolved(std::move(options)), std::move(factory), nullptr) {}

  std::string rule_name() const override { return O::kName; }
  Node rule_options() const override { return options_to_node(options_); }
  Node rule_defaults() const override { return options_to_node(O()); }
  /// The options that the average was built with.
  const O& options() const { return options_; }

 protected:
  /// For averages that need more of each tensor than its average and a weight.
  /// @param options those that resolved() returns
  Average(const ModelRef& model, O options, ModuleFactory factory,
          std::shared_ptr<TensorRule> tensor_rule)
      : AveragedModel(model, settings_of(options, std::move(tensor_rule)), std::move(factory)),
        options_(std::move(options)) {}
  /// The options with their final numbers. @throws ConfigError as the constructor does
  static O resolved(O options) {
    check_options(options, O::kName);
    if (options.start() == AverageStart::initial && options.begins_after() > 0) {
      fail<ConfigError>(
          "{}: start: initial begins with the weights from before training, and so does not go "
          "with a later begin; remove one of them",
          O::kName);
    }
    options.resolve(RunLengths());
    options.check_lengths();
    options.check_complete();
    return options;
  }

 private:
  static Settings settings_of(const O& options, std::shared_ptr<TensorRule> tensor_rule) {
    Settings settings = checked(options, O::kName);
    settings.tensor_rule = std::move(tensor_rule);
    return settings;
  }
  double rule(const Clock& clock) const override { return options_.scaled_weight(clock); }
  double filled_after(const Clock& clock) const override { return options_.filled_after(clock); }
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
        options.resolve(context.lengths);
        auto average = std::make_shared<A>(*context.model, std::move(options));
        average->set_batch_size(context.lengths.batch_size);
        return average;
      });
}

}  // namespace polyak
