// SPDX-License-Identifier: Apache-2.0
#include "polyak/optim/python_class.h"

#include <ATen/Functions.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <sstream>
#include <tuple>
#include <typeinfo>

#include "polyak/optim/saved_numbers.h"

namespace polyak {
namespace {

using Names = std::vector<std::string>;
using Betas = std::tuple<double, double>;

/// From here on not every integer is a float32.
constexpr int64_t kLargestFloatCount = int64_t{1} << 24;

Value value_of(double number) {
  return number;
}
Value value_of(bool flag) {
  return flag;
}
Value value_of(const Betas& betas) {
  return Value::tuple({std::get<0>(betas), std::get<1>(betas)});
}

/// Calls `action`, and adds the key to an error.
template <class Action>
void name_key_in_errors(const char* key, const Action& action) {
  try {
    action();
  } catch (const CheckpointError& error) {
    fail<CheckpointError>("optimizer: {}: {}", key, error.what());
  }
}

void read(const Value& value, double& number) {
  number = value.as_real();
}
void read(const Value& value, bool& flag) {
  flag = value.as_bool();
}
void read(const Value& value, Betas& betas) {
  if (value.items().size() != 2) fail<CheckpointError>("must be two numbers");
  betas = {value.items()[0].as_real(), value.items()[1].as_real()};
}

/// A count as Python's optimizers keep it: a tensor without dimensions.
at::Tensor count_tensor(int64_t count) {
  return at::scalar_tensor(static_cast<double>(count),
                           count > kLargestFloatCount ? at::kDouble : at::kFloat);
}

int64_t read_count(const Value& value) {
  const std::optional<int64_t> count = count_of(value);
  if (!count) fail<CheckpointError>("optimizer: the step {} is not a count", text_of(value));
  return *count;
}

bool is_set(const Value& group, const char* flag) {
  bool set = false;
  if (const Value* value = group.find(flag)) {
    name_key_in_errors(flag, [&] { set = value->as_bool(); });
  }
  return set;
}

bool is_nonzero(const Value& group, const char* key) {
  double number = 0;
  if (const Value* value = group.find(key)) {
    name_key_in_errors(key, [&] { number = value->as_real(); });
  }
  return number != 0;
}

// What differs between the classes. `numbers` and `tensors` list the options and the state's
// tensors under Python's names, in Python's order; `defaults` what only Python's groups have.

struct SgdTraits {
  using Torch = torch::optim::SGD;
  using Options = torch::optim::SGDOptions;
  using State = torch::optim::SGDParamState;
  static constexpr const char* kName = "SGD";
  static constexpr bool kCounts = false;
  static constexpr std::array kFalse = {"maximize", "differentiable"};
  static constexpr std::array kNone = {"foreach", "fused"};

  template <class O, class Use>
  static void numbers(O& options, const Use& use) {
    use("lr", options.lr());
    use("momentum", options.momentum());
    use("dampening", options.dampening());
    use("weight_decay", options.weight_decay());
    use("nesterov", options.nesterov());
  }
  template <class S, class Use>
  static void tensors(S& state, const Use& use) {
    use("momentum_buffer", state.momentum_buffer());
  }
  static Names needed(const Value& group) {
    return is_nonzero(group, "momentum") ? Names{"momentum_buffer"} : Names{};
  }
};

template <class TorchClass, class TorchOptions, class TorchState, bool kDecoupled>
struct AdamTraits {
  using Torch = TorchClass;
  using Options = TorchOptions;
  using State = TorchState;
  static constexpr const char* kName = kDecoupled ? "AdamW" : "Adam";
  static constexpr bool kCounts = true;
  static constexpr std::array kFalse = {"maximize", "capturable", "differentiable"};
  static constexpr std::array kNone = {"foreach", "fused"};

  template <class O, class Use>
  static void numbers(O& options, const Use& use) {
    use("lr", options.lr());
    use("betas", options.betas());
    use("eps", options.eps());
    use("weight_decay", options.weight_decay());
    use("amsgrad", options.amsgrad());
  }
  template <class S, class Use>
  static void tensors(S& state, const Use& use) {
    use("exp_avg", state.exp_avg());
    use("exp_avg_sq", state.exp_avg_sq());
    use("max_exp_avg_sq", state.max_exp_avg_sq());
  }
  static Names needed(const Value& group) {
    Names names = {"step", "exp_avg", "exp_avg_sq"};
    if (is_set(group, "amsgrad")) names.emplace_back("max_exp_avg_sq");
    return names;
  }
};
using AdamOfTorch = AdamTraits<torch::optim::Adam, torch::optim::AdamOptions,
                               torch::optim::AdamParamState, /*kDecoupled=*/false>;
using AdamWOfTorch = AdamTraits<torch::optim::AdamW, torch::optim::AdamWOptions,
                                torch::optim::AdamWParamState, /*kDecoupled=*/true>;

struct RmspropTraits {
  using Torch = torch::optim::RMSprop;
  using Options = torch::optim::RMSpropOptions;
  using State = torch::optim::RMSpropParamState;
  static constexpr const char* kName = "RMSprop";
  static constexpr bool kCounts = true;
  static constexpr std::array kFalse = {"maximize", "capturable", "differentiable"};
  static constexpr std::array kNone = {"foreach"};

  template <class O, class Use>
  static void numbers(O& options, const Use& use) {
    use("lr", options.lr());
    use("momentum", options.momentum());
    use("alpha", options.alpha());
    use("eps", options.eps());
    use("centered", options.centered());
    use("weight_decay", options.weight_decay());
  }
  template <class S, class Use>
  static void tensors(S& state, const Use& use) {
    use("square_avg", state.square_avg());
    use("momentum_buffer", state.momentum_buffer());
    use("grad_avg", state.grad_avg());
  }
  static Names needed(const Value& group) {
    Names names = {"step", "square_avg"};
    if (is_nonzero(group, "momentum")) names.emplace_back("momentum_buffer");
    if (is_set(group, "centered")) names.emplace_back("grad_avg");
    return names;
  }
};

struct AdagradTraits {
  using Torch = torch::optim::Adagrad;
  using Options = torch::optim::AdagradOptions;
  using State = torch::optim::AdagradParamState;
  static constexpr const char* kName = "Adagrad";
  static constexpr bool kCounts = true;
  static constexpr std::array kFalse = {"maximize", "differentiable"};
  static constexpr std::array kNone = {"foreach", "fused"};

  template <class O, class Use>
  static void numbers(O& options, const Use& use) {
    use("lr", options.lr());
    use("lr_decay", options.lr_decay());
    use("eps", options.eps());
    use("weight_decay", options.weight_decay());
    use("initial_accumulator_value", options.initial_accumulator_value());
  }
  template <class S, class Use>
  static void tensors(S& state, const Use& use) {
    use("sum", state.sum());
  }
  static Names needed(const Value& /*group*/) { return {"step", "sum"}; }
};

template <class Traits>
constexpr bool kIsAdam =
    std::is_same_v<Traits, AdamOfTorch> || std::is_same_v<Traits, AdamWOfTorch>;

template <class Traits>
class ClassOf final : public PythonClass {
  using TorchOptions = typename Traits::Options;
  using TorchState = typename Traits::State;

 public:
  const char* name() const override { return Traits::kName; }

  bool is_class_of(const torch::optim::Optimizer& optimizer) const override {
    if (typeid(optimizer) != typeid(typename Traits::Torch)) return false;
    for (const auto& group : optimizer.param_groups()) {
      const Options& options = group.options();
      if (typeid(options) != typeid(TorchOptions)) return false;
    }
    return std::all_of(optimizer.state().begin(), optimizer.state().end(), [](const auto& item) {
      const State* state = item.second.get();
      return state && typeid(*state) == typeid(TorchState);
    });
  }

  Value group(const Options& options) const override {
    Value group = Value::dict();
    Traits::numbers(static_cast<const TorchOptions&>(options),
                    [&](const char* key, const auto& number) { group.set(key, value_of(number)); });
    if constexpr (kIsAdam<Traits>) {
      group.set("decoupled_weight_decay", std::is_same_v<Traits, AdamWOfTorch>);
    }
    return group;
  }

  Value defaults() const override {
    Value values = Value::dict();
    for (const char* key : Traits::kFalse) values.set(key, false);
    for (const char* key : Traits::kNone) values.set(key, Value());
    return values;
  }

  std::unique_ptr<Options> read_group(const Value& group) const override {
    auto options = std::make_unique<TorchOptions>(/*lr=*/0.0);
    Traits::numbers(*options, [&](const char* key, auto& number) {
      const Value& value = group.at(key);
      name_key_in_errors(key, [&] { read(value, number); });
    });
    return options;
  }

  void assign(Options& target, const Options& source) const override {
    static_cast<TorchOptions&>(target) = static_cast<const TorchOptions&>(source);
  }

  Names state_names(const Value& group) const override { return Traits::needed(group); }

  Value state(const State& state) const override {
    const auto& own = static_cast<const TorchState&>(state);
    Value entry = Value::dict();
    if constexpr (Traits::kCounts) entry.set("step", count_tensor(own.step()));
    Traits::tensors(own, [&](const char* key, const at::Tensor& tensor) {
      if (tensor.defined()) entry.set(key, tensor);
    });
    return entry;
  }

  std::unique_ptr<State> read_state(const at::Tensor& parameter, const Value& entry,
                                    const Options& options) const override {
    auto state = std::make_unique<TorchState>();
    bool any = false;
    Traits::tensors(*state, [&](const char* key, at::Tensor& tensor) {
      const Value* value = entry.find(key);
      if (!value || value->is_none()) return;
      name_key_in_errors(key, [&] {
        tensor = value->as_tensor().to(parameter.device(), parameter.scalar_type(),
                                       /*non_blocking=*/false, /*copy=*/true);
      });
      any = true;
    });
    if constexpr (Traits::kCounts) {
      if (const Value* step = entry.find("step")) {
        state->step(read_count(*step));
      } else if (any) {
        fail<CheckpointError>("optimizer: a parameter's state has no 'step'");
      }
    }
    if (!any) return nullptr;
    check_complete(*state, entry);
    if constexpr (kIsAdam<Traits>) {
      // Which the previous run did not use.
      if (static_cast<const TorchOptions&>(options).amsgrad() &&
          !state->max_exp_avg_sq().defined()) {
        state->max_exp_avg_sq(at::zeros_like(state->exp_avg_sq()));
      }
    }
    return state;
  }

  std::unique_ptr<State> new_state(const at::Tensor& parameter,
                                   const Options& options) const override {
    if constexpr (std::is_same_v<Traits, AdagradTraits>) {  // whose constructor makes them
      auto state = std::make_unique<TorchState>();
      state->sum(at::full_like(
          parameter, static_cast<const TorchOptions&>(options).initial_accumulator_value()));
      return state;
    } else {
      return nullptr;
    }
  }

 private:
  /// A step would fail on a state that lacks one of the tensors that it always has.
  static void check_complete(const TorchState& state, const Value& entry) {
    const Names needed = Traits::needed(Value::dict());
    Traits::tensors(state, [&](const char* key, const at::Tensor& tensor) {
      if (tensor.defined() || std::find(needed.begin(), needed.end(), key) == needed.end()) return;
      const Value& value = entry.at(key);
      name_key_in_errors(key, [&] { value.as_tensor(); });  // says what it is instead
    });
  }
};

template <class Key>
Key make_key(c10::TensorImpl* address) {
  if constexpr (std::is_same_v<Key, std::string>) {
    std::ostringstream text;
    text << address;
    return text.str();
  } else {
    return address;
  }
}

template <class... Traits>
const PythonClass* find_class(const torch::optim::Optimizer& optimizer) {
  static const std::tuple<ClassOf<Traits>...> kClasses;
  const PythonClass* found = nullptr;
  std::apply(
      [&](const auto&... each) {
        ((found = found || !each.is_class_of(optimizer) ? found : &each), ...);
      },
      kClasses);
  return found;
}

}  // namespace

PythonClass::~PythonClass() = default;

const PythonClass* python_class_of(const torch::optim::Optimizer& optimizer) {
  return find_class<SgdTraits, AdamOfTorch, AdamWOfTorch, RmspropTraits, AdagradTraits>(optimizer);
}

TorchStates::key_type state_key(const at::Tensor& parameter) {
  return make_key<TorchStates::key_type>(parameter.unsafeGetTensorImpl());
}

}  // namespace polyak
