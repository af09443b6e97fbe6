// SPDX-License-Identifier: Apache-2.0
// The functions of LibTorch that the preloaded library replaces. Each has the symbol of the
// original, calls it, and notifies the session. They are not members of LibTorch's classes, since
// defining a class's first virtual function would emit a second vtable here. The ABI allows calling
// a member as a function that takes the object first.

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <exception>
#include <functional>
#include <ostream>
#include <string>
#include <unordered_map>
#include <utility>

#include "polyak/attach/config.h"
#include "polyak/attach/session.h"

#define POLYAK_IN_PLACE_OF(symbol) __asm__(symbol) __attribute__((visibility("default")))

namespace polyak {
namespace {

using torch::optim::Optimizer;
using Closure = Optimizer::LossClosure;

/// Never destroyed: the program's threads may run until the end. Null in a forked child.
std::atomic<Session*> session{nullptr};
std::terminate_handler terminate_before = nullptr;

/// The function that the program would have called without us.
template <class Function>
Function* original(const char* symbol) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, symbol));
}

void finish() {
  if (Session* here = session) here->finish();
}

/// Registered after a step, the handler runs before LibTorch's objects of that time are destroyed.
/// Exit handlers of the program may run later still.
void write_at_exit() {
  [[maybe_unused]] static const int registered = std::atexit([] {
    if (Session* here = session) here->write_averages();
  });
}

at::Tensor step(at::Tensor (*original_step)(Optimizer*, Closure), Optimizer* self,
                Closure closure) {
  if (Session* here = session) here->stepping(*self);
  at::Tensor loss = original_step(self, std::move(closure));
  if (Session* here = session) {
    here->stepped(*self);
    write_at_exit();
  }
  return loss;
}

/// If intercepted functions call each other, only the outermost call is the program's.
class Nesting {
 public:
  explicit Nesting(int& depth) : depth_(depth) { ++depth_; }
  ~Nesting() { --depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;
  bool is_outermost() const { return depth_ == 1; }

 private:
  int& depth_;
};
thread_local int exports = 0;
thread_local int zero_grads = 0;

}  // namespace

// ---- optimizers

#define POLYAK_STEP(name, class_symbol)                                                        \
  at::Tensor name(Optimizer* self, Closure closure)                                            \
      POLYAK_IN_PLACE_OF("_ZN5torch5optim" class_symbol "4stepESt8functionIFN2at6TensorEvEE"); \
  at::Tensor name(Optimizer* self, Closure closure) {                                          \
    static const auto real = original<at::Tensor(Optimizer*, Closure)>(                        \
        "_ZN5torch5optim" class_symbol "4stepESt8functionIFN2at6TensorEvEE");                  \
    return step(real, self, std::move(closure));                                               \
  }

POLYAK_STEP(step_sgd, "3SGD")
POLYAK_STEP(step_adam, "4Adam")
POLYAK_STEP(step_adamw, "5AdamW")
POLYAK_STEP(step_rmsprop, "7RMSprop")
POLYAK_STEP(step_adagrad, "7Adagrad")
POLYAK_STEP(step_lbfgs, "5LBFGS")

#define POLYAK_ADD_PARAM_GROUP \
  "_ZN5torch5optim9Optimizer15add_param_groupERKNS0_19OptimizerParamGroupE"
void add_param_group(Optimizer* self, const torch::optim::OptimizerParamGroup& group)
    POLYAK_IN_PLACE_OF(POLYAK_ADD_PARAM_GROUP);
void add_param_group(Optimizer* self, const torch::optim::OptimizerParamGroup& group) {
  static const auto real =
      original<void(Optimizer*, const torch::optim::OptimizerParamGroup&)>(POLYAK_ADD_PARAM_GROUP);
  real(self, group);
  if (Session* here = session) here->group_added(*self);
}

template <class Zeroed>
static void zeroing_gradients(const Zeroed& zeroed) {
  Session* here = session;
  if (!here) return;
  here->zeroing_gradients(zeroed);
  write_at_exit();
}

// Its arguments differ between LibTorch 1.13 and 2.
#define POLYAK_ZERO_GRAD "_ZN5torch5optim9Optimizer9zero_gradE"
void zero_grad(Optimizer* self) POLYAK_IN_PLACE_OF(POLYAK_ZERO_GRAD "v");
void zero_grad(Optimizer* self) {
  static const auto real = original<void(Optimizer*)>(POLYAK_ZERO_GRAD "v");
  zeroing_gradients(*self);
  real(self);
}
void zero_grad(Optimizer* self, bool set_to_none) POLYAK_IN_PLACE_OF(POLYAK_ZERO_GRAD "b");
void zero_grad(Optimizer* self, bool set_to_none) {
  static const auto real = original<void(Optimizer*, bool)>(POLYAK_ZERO_GRAD "b");
  zeroing_gradients(*self);
  real(self, set_to_none);
}

// ---- modules

#define POLYAK_MODULE_ZERO_GRAD "_ZN5torch2nn6Module9zero_gradEb"
void module_zero_grad(torch::nn::Module* self, bool set_to_none)
    POLYAK_IN_PLACE_OF(POLYAK_MODULE_ZERO_GRAD);
void module_zero_grad(torch::nn::Module* self, bool set_to_none) {
  static const auto real = original<void(torch::nn::Module*, bool)>(POLYAK_MODULE_ZERO_GRAD);
  const Nesting nesting(zero_grads);  // a module calls its children
  if (nesting.is_outermost()) zeroing_gradients(*self);
  real(self, set_to_none);
}

using NamedParameters = torch::OrderedDict<std::string, at::Tensor>;

static const at::Tensor& tensor_of(const at::Tensor& item) {
  return item;
}
static const at::Tensor& tensor_of(const torch::jit::NameTensor& item) {
  return item.value;
}
static const at::Tensor& tensor_of(const NamedParameters::Item& item) {
  return item.value();
}

static size_t name_hash(const at::Tensor&) {
  return 0;
}
static size_t name_hash(const torch::jit::NameTensor& item) {
  return std::hash<std::string>()(item.name);
}
static size_t name_hash(const NamedParameters::Item& item) {
  return std::hash<std::string>()(item.key());
}

/// Changes if a tensor of the list is another one, or there are more or fewer.
template <class List>
static size_t fingerprint(const List& list) {
  size_t hash = 0;
  for (const auto& item : list) {
    const auto address = reinterpret_cast<uintptr_t>(tensor_of(item).unsafeGetTensorImpl());
    hash = ((hash + 1) * 1000003 + address) * 1000003 + name_hash(item);
  }
  return hash;
}

// All accesses to a module's parameters lead here, and the caller has the whole tree alive.
#define POLYAK_NAMED_PARAMETERS "_ZNK5torch2nn6Module16named_parametersB5cxx11Eb"
NamedParameters named_parameters(const torch::nn::Module* self, bool recurse)
    POLYAK_IN_PLACE_OF(POLYAK_NAMED_PARAMETERS);
NamedParameters named_parameters(const torch::nn::Module* self, bool recurse) {
  static const auto real =
      original<NamedParameters(const torch::nn::Module*, bool)>(POLYAK_NAMED_PARAMETERS);
  NamedParameters parameters = real(self, recurse);
  Session* here = session;
  if (here && recurse && !parameters.is_empty()) {
    // The handle takes no const module, but changes nothing.
    here->module_seen(const_cast<torch::nn::Module&>(*self), fingerprint(parameters));
  }
  return parameters;
}

// The program itself iterates over TorchScript's lists, so both functions are intercepted.
#define POLYAK_SCRIPT_PARAMETERS(name, List, symbol)                                  \
  List name(const torch::jit::Module* self, bool recurse) POLYAK_IN_PLACE_OF(symbol); \
  List name(const torch::jit::Module* self, bool recurse) {                           \
    static const auto real = original<List(const torch::jit::Module*, bool)>(symbol); \
    List parameters = real(self, recurse);                                            \
    Session* here = session;                                                          \
    if (here && recurse && parameters.size() > 0) {                                   \
      here->module_seen(*self, fingerprint(parameters));                              \
    }                                                                                 \
    return parameters;                                                                \
  }

#define POLYAK_SCRIPT_LIST "_ZNK5torch3jit6Module10parametersEb"
#define POLYAK_SCRIPT_NAMED_LIST "_ZNK5torch3jit6Module16named_parametersEb"
POLYAK_SCRIPT_PARAMETERS(script_parameters, torch::jit::parameter_list, POLYAK_SCRIPT_LIST)
POLYAK_SCRIPT_PARAMETERS(script_named_parameters, torch::jit::named_parameter_list,
                         POLYAK_SCRIPT_NAMED_LIST)

// ---- saving: torch::save, OutputArchive::save_to and jit::Module::save all lead here

using torch::jit::Module;
using ExtraFiles = std::unordered_map<std::string, std::string>;
template <class Target>
using ExportTo = void(const Module&, Target, const ExtraFiles&, bool, bool, bool);

#define POLYAK_EXPORT_TO_SINK                                                                     \
  "_ZN5torch3jit12ExportModuleERKNS0_6ModuleERKSt8functionIFmPKvmEERKSt13unordered_mapI"          \
  "NSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEESH_St4hashISH_ESt8equal_toISH_ESaISt4pair" \
  "IKSH_SH_EEEbbb"
#define POLYAK_EXPORT_TO_STREAM                                                                \
  "_ZN5torch3jit12ExportModuleERKNS0_6ModuleERSoRKSt13unordered_mapINSt7__cxx1112basic_string" \
  "IcSt11char_traitsIcESaIcEEESB_St4hashISB_ESt8equal_toISB_ESaISt4pairIKSB_SB_EEEbbb"
#define POLYAK_EXPORT_TO_FILE                                                                     \
  "_ZN5torch3jit12ExportModuleERKNS0_6ModuleERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIc" \
  "EEERKSt13unordered_mapIS9_S9_St4hashIS9_ESt8equal_toIS9_ESaISt4pairISA_S9_EEEbbb"

namespace {

/// Runs the program's export and then, unless it is nested in another export, that of the averages.
template <class Target>
void export_module(ExportTo<Target>* real, const Module& module, Target target,
                   const std::string& path, const ExtraFiles& extra_files, bool bytecode,
                   bool debug_info, bool flatbuffer) {
  const Nesting nesting(exports);
  real(module, target, extra_files, bytecode, debug_info, flatbuffer);
  Session* here = session;
  if (!here || !nesting.is_outermost()) return;
  here->saved(module, path, [&](const Module& averaged, const Session::Sink& sink) {
    static const auto to_sink = original<ExportTo<const Session::Sink&>>(POLYAK_EXPORT_TO_SINK);
    to_sink(averaged, sink, extra_files, bytecode, debug_info, flatbuffer);
  });
}

}  // namespace

#define POLYAK_EXPORT(name, Target, symbol, path)                                              \
  void name(const Module& module, Target target, const ExtraFiles& extra_files, bool bytecode, \
            bool debug_info, bool flatbuffer) POLYAK_IN_PLACE_OF(symbol);                      \
  void name(const Module& module, Target target, const ExtraFiles& extra_files, bool bytecode, \
            bool debug_info, bool flatbuffer) {                                                \
    static const auto real = original<ExportTo<Target>>(symbol);                               \
    export_module<Target>(real, module, target, path, extra_files, bytecode, debug_info,       \
                          flatbuffer);                                                         \
  }

POLYAK_EXPORT(export_to_sink, const Session::Sink&, POLYAK_EXPORT_TO_SINK, "")
POLYAK_EXPORT(export_to_stream, std::ostream&, POLYAK_EXPORT_TO_STREAM, "")
POLYAK_EXPORT(export_to_file, const std::string&, POLYAK_EXPORT_TO_FILE, target)

// ---- start

namespace {

void check_symbols() {
  for (const char* symbol :
       {POLYAK_ADD_PARAM_GROUP, POLYAK_MODULE_ZERO_GRAD, POLYAK_NAMED_PARAMETERS,
        POLYAK_SCRIPT_LIST, POLYAK_SCRIPT_NAMED_LIST, POLYAK_EXPORT_TO_SINK,
        POLYAK_EXPORT_TO_STREAM, POLYAK_EXPORT_TO_FILE}) {
    if (!dlsym(RTLD_NEXT, symbol)) {
      fail<Error>("this LibTorch has no symbol {}; attach does not support it", symbol);
    }
  }
}

/// The program sees its original environment, and child processes are not attached.
void restore_environment() {
  const char* before = std::getenv(kAttachPreload);
  if (before && *before) {
    ::setenv("LD_PRELOAD", before, 1);
  } else {
    ::unsetenv("LD_PRELOAD");
  }
  ::unsetenv(kAttachPreload);
  ::unsetenv(kAttachConfig);
  ::unsetenv(kAttachDryRun);
}

__attribute__((constructor)) void start() {
  const char* given = std::getenv(kAttachConfig);
  if (!given) return;
  const std::string text = given;
  const char* const steps = std::getenv(kAttachDryRun);
  const int64_t dry_run = steps ? std::atoll(steps) : 0;
  restore_environment();
  try {
    check_symbols();
    const AttachConfig config = attach_config_from(text);
    session = new Session(config, dry_run);
    if (dry_run > 0) {
      say(fmt::format("attached to {} for {}; no averages are written",
                      program_invocation_short_name, count_of(dry_run, "optimizer step")));
    } else {
      say(fmt::format("attached to {}; averages go to {}", program_invocation_short_name,
                      *config.output_dir));
    }
  } catch (const std::exception& error) {
    say(first_line(error));
    ::_exit(2);
  }
  pthread_atfork(nullptr, nullptr, [] { session = nullptr; });
  std::atexit(finish);
  std::at_quick_exit(finish);
  terminate_before = std::set_terminate([] {
    finish();
    terminate_before();
  });
}

}  // namespace
}  // namespace polyak
