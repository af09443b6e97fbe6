// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/torch_script.h"

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>
#include <caffe2/serialize/inline_container.h>
#include <fmt/ranges.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/python/update_graph_executor_opt.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/version.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <utility>

#include "polyak/registry/registry.h"
#include "polyak/runtime/runner.h"

namespace polyak {
namespace {

namespace fs = std::filesystem;

/// The file of `path`: relative to the folder of the config, like `_base_`, or to the current
/// folder if the path comes from the command line or a program.
std::string file_of(const Node& path) {
  const fs::path name(path.as_string());
  if (name.empty()) path.fail("must name a TorchScript archive");
  const fs::path folder = path.place().line > 0 ? fs::path(path.place().file).parent_path() : "";
  return fs::absolute(folder / name).lexically_normal().string();
}

/// The reason of an error, in one line. TorchScript's messages are a page of source code; the
/// reason is in the last line that starts with an exception's name, if there is one.
std::string reason_of(const std::exception& error) {
  std::istringstream text(error.what());
  std::string first, named;
  for (std::string line; std::getline(text, line);) {
    const auto blank = [](unsigned char c) { return std::isspace(c); };
    if (std::all_of(line.begin(), line.end(), blank)) continue;
    if (first.empty()) first = line;
    const std::string head = line.substr(0, line.find(": "));
    const bool is_name = std::none_of(head.begin(), head.end(), blank);
    for (const char* ending : {"Error", "Exception"}) {
      const size_t place = head.rfind(ending);
      if (is_name && place != std::string::npos &&
          place + std::string(ending).size() == head.size())
        named = line;
    }
  }
  return named.empty() ? first : named;
}

/// Fails, at the position in the config, if the file is not a TorchScript archive: LibTorch's own
/// message is not helpful.
void check_is_script(const Node& path, const std::string& file) {
  std::error_code ignored;
  if (!fs::exists(file, ignored)) path.fail(fmt::format("{}: no such file", file));
  if (!fs::is_regular_file(file, ignored)) path.fail(fmt::format("{}: is not a file", file));
  std::ifstream stream(file, std::ios::binary);
  char magic[2] = {};
  stream.read(magic, sizeof magic);
  const char* const export_it = "in Python, torch.jit.script(model).save(path) writes one";
  if (!stream || magic[0] != 'P' || magic[1] != 'K') {
    path.fail(fmt::format("{}: is not a TorchScript archive; {}", file, export_it));
  }
  caffe2::serialize::PyTorchStreamReader reader(file);
  if (reader.hasRecord("constants.pkl")) return;
  path.fail(fmt::format(
      "{}: is not a TorchScript archive{}; {}", file,
      reader.hasRecord("data.pkl")
          ? ": torch.save wrote it, so it contains values (a state_dict or a checkpoint), not code"
          : "",
      export_it));
}

torch::jit::Module load_script(const Node& path, const std::string& file, c10::Device device) {
  try {
    check_is_script(path, file);
    return torch::jit::load(file, c10::optional<c10::Device>(device));
  } catch (const ConfigError&) {
    throw;
  } catch (const std::exception& error) {
    path.fail(
        fmt::format("{}: LibTorch {} cannot load it: {}; if a newer PyTorch exported it, export it "
                    "with {} or older; if it is damaged, export it again",
                    file, TORCH_VERSION, reason_of(error), TORCH_VERSION));
  }
}

/// Runs a module as written, without TorchScript's profile-guided optimisations. These round
/// differently from the operations themselves (from the second call on, gradients of GELU and
/// similar functions differ in the last digits), and depend on everything that ran before, which a
/// resumed run does not repeat.
class WithoutOptimizer {
 public:
  WithoutOptimizer() { torch::jit::setGraphExecutorOptimize(false); }
  ~WithoutOptimizer() { torch::jit::setGraphExecutorOptimize(before_); }
  WithoutOptimizer(const WithoutOptimizer&) = delete;
  WithoutOptimizer& operator=(const WithoutOptimizer&) = delete;

 private:
  bool before_ = torch::jit::getGraphExecutorOptimize();
};

/// The attributes that the code assigns by `self.name = value`, each with its class.
using AssignedNames = std::set<std::pair<const c10::Type*, std::string>>;

void find_assigned(at::ArrayRef<torch::jit::Block*> blocks, AssignedNames& names) {
  for (torch::jit::Block* block : blocks) {
    for (torch::jit::Node* node : block->nodes()) {
      if (node->kind() == c10::prim::SetAttr) {
        names.emplace(node->input(0)->type().get(), node->s(c10::attr::name));
      }
      find_assigned(node->blocks(), names);
      if (node->hasAttribute(c10::attr::Subgraph)) {
        find_assigned({node->g(c10::attr::Subgraph)->block()}, names);
      }
    }
  }
}

bool is_tensor(const torch::jit::Module& script, const std::string& name) {
  return script.hasattr(name) && script.attr(name).isTensor();
}

}  // namespace

/// A buffer that the module's code may assign.
struct TorchScript::Assigned {
  c10::intrusive_ptr<c10::ivalue::Object> owner;
  size_t slot;
  at::Tensor registered;
};

/// A normalisation layer of a script. Its momentum is a constant in its code. So for the plain mean
/// over batches, each forward pass starts from zero, which gives a known multiple of the batch's
/// own statistics.
class ScriptNorm : public torch::nn::Module, public RunningStatistics {
 public:
  static bool describes(const torch::jit::Module& script) {
    if (!is_tensor(script, "running_mean") || !is_tensor(script, "running_var") ||
        !is_tensor(script, "num_batches_tracked") || !script.hasattr("momentum")) {
      return false;
    }
    const c10::IValue momentum = script.attr("momentum");
    return momentum.isNone() || momentum.isDouble();
  }

  explicit ScriptNorm(const torch::jit::Module& script)
      : torch::nn::Module("ScriptNorm"),
        script_(script),
        mean_(script.attr("running_mean").toTensor()),
        var_(script.attr("running_var").toTensor()),
        count_(script.attr("num_batches_tracked").toTensor()) {
    const c10::IValue momentum = script.attr("momentum");
    if (momentum.isDouble()) momentum_ = momentum.toDouble();
  }

  void begin_mean() override {
    if (sum_) return;  // called once for each name of the layer
    before_ = {mean_.clone(), var_.clone(), count_.clone()};
    count_.zero_();  // without a momentum, the first batch then replaces the statistics
    sum_ = Sums{at::zeros_like(mean_), at::zeros_like(var_), 0};
  }

  void end_mean() override {
    if (!sum_) return;
    sum_.reset();
    count_.copy_(before_.count);
  }

  void train(bool on) override {
    torch::nn::Module::train(on);
    script_.train(on);
  }

  void before_forward() {
    if (!takes_mean()) return;
    seen_ = count_.item<int64_t>();
    mean_.zero_();
    var_.zero_();
  }

  void after_forward() {
    if (!takes_mean()) return;
    const int64_t passes = count_.item<int64_t>() - seen_;
    if (passes > 0) {
      // A layer that is used several times in a forward pass has already averaged them.
      const double share = 1 - std::pow(1 - *momentum_, static_cast<double>(passes));
      ++sum_->batches;
      sum_->mean.add_(mean_, 1 / share);
      sum_->var.add_(var_, 1 / share);
    }
    const double batches = static_cast<double>(sum_->batches);
    mean_.copy_(sum_->batches > 0 ? sum_->mean / batches : before_.mean);
    var_.copy_(sum_->batches > 0 ? sum_->var / batches : before_.var);
  }

 private:
  struct Sums {
    at::Tensor mean;
    at::Tensor var;
    int64_t batches;
  };
  struct Statistics {
    at::Tensor mean;
    at::Tensor var;
    at::Tensor count;
  };
  /// Without a momentum, the layer itself computes the mean.
  bool takes_mean() const { return sum_ && momentum_ && script_.is_training(); }

  torch::jit::Module script_;
  at::Tensor mean_;
  at::Tensor var_;
  at::Tensor count_;
  std::optional<double> momentum_;
  std::optional<Sums> sum_;
  Statistics before_;
  int64_t seen_ = 0;
};

void TorchScriptOptions::visit(OptionVisitor& visitor) {
  visitor.any(
      "path", &path, "string",
      "The file written by torch.jit.script(model).save(path), relative to the config's folder.",
      Bounds(), /*required=*/true);
  visitor.required_component("loss", &loss, "loss",
                             "The loss of the logits that the module's forward returns.");
  visitor.key("num_classes", &num_classes, "Number of logits; null: the data's number of classes.",
              closed_interval(1, kMostClasses));
}

TorchScript::TorchScript(const TorchScriptOptions& options, const Context& context)
    : torch::nn::Module("TorchScript"),
      file_(file_of(options.path)),
      num_classes_(options.num_classes.value_or(context.num_classes)),
      loss_(context.catalog->of<Loss>().build(options.loss, {})),
      script_(
          std::make_shared<torch::jit::Module>(load_script(options.path, file_, context.device))) {
  check_options(options, "TorchScript");
  if (num_classes_ < context.num_classes) {
    fail<ConfigError>("TorchScript: num_classes is {}, but the data has {} classes", num_classes_,
                      context.num_classes);
  }
  check_forward_takes_images(options.path);
  adopt();
  if (parameters().empty()) {
    options.path.fail(
        fmt::format("{}: has no parameters, so there is nothing to train; torch.jit.freeze turns "
                    "parameters into constants; export the model with torch.jit.script only",
                    file_));
  }
}

TorchScript::TorchScript(const TorchScript& other, std::shared_ptr<torch::jit::Module> script)
    : torch::nn::Module("TorchScript"),
      file_(other.file_),
      num_classes_(other.num_classes_),
      loss_(other.loss_),
      script_(std::move(script)) {
  adopt();
  auto mine = named_parameters();
  for (const auto& item : other.named_parameters()) {
    mine[item.key()].set_requires_grad(item.value().requires_grad());
  }
}

TorchScript::~TorchScript() = default;

void TorchScript::check_forward_takes_images(const Node& path) const {
  const auto forward = script_->find_method("forward");
  if (!forward) path.fail(fmt::format("{}: has no forward", file_));
  const c10::FunctionSchema& schema = forward->function().getSchema();
  std::vector<std::string> inputs;  // without `self`
  for (const c10::Argument& argument : schema.arguments()) {
    inputs.push_back(fmt::format("{}: {}{}", argument.name(), argument.type()->annotation_str(),
                                 argument.default_value() ? " = ..." : ""));
  }
  inputs.erase(inputs.begin());
  const auto& arguments = schema.arguments();
  const bool fits =
      arguments.size() > 1 && arguments[1].type()->isSubtypeOf(*c10::TensorType::get()) &&
      std::all_of(arguments.begin() + 2, arguments.end(),
                  [](const c10::Argument& other) { return other.default_value().has_value(); });
  if (!fits) {
    path.fail(
        fmt::format("{}: forward takes ({}); it must take one tensor, the images, and no other "
                    "argument without a default",
                    file_, fmt::join(inputs, ", ")));
  }
  const c10::TypePtr& result = schema.returns().front().type();
  if (!result->isSubtypeOf(*c10::TensorType::get())) {
    path.fail(fmt::format(
        "{}: forward returns {}; it must return the logits, one tensor of the shape [N, classes]",
        file_, result->annotation_str()));
  }
}

void TorchScript::adopt() {
  std::map<const void*, std::shared_ptr<torch::nn::Module>> adopted;
  adopt(*script_, *this, adopted);

  AssignedNames names;
  for (const torch::jit::Module& module : script_->modules()) {
    for (const torch::jit::Method& method : module.get_methods()) {
      find_assigned({method.graph()->block()}, names);
    }
  }
  std::set<const void*> known;  // a module with two names
  for (const torch::jit::Module& module : script_->modules()) {
    if (!known.insert(module._ivalue().get()).second) continue;
    for (const auto& buffer : module.named_buffers(/*recurse=*/false)) {
      if (!names.count({module.type().get(), buffer.name})) continue;
      assigned_.push_back(
          {module._ivalue(), module.type()->getAttributeSlot(buffer.name), buffer.value});
    }
  }
}

void TorchScript::adopt(const torch::jit::Module& script, torch::nn::Module& into,
                        std::map<const void*, std::shared_ptr<torch::nn::Module>>& adopted) {
  into.torch::nn::Module::train(
      script.is_training());  // before it has children, which have their own
  for (const auto& item : script.named_parameters(/*recurse=*/false)) {
    into.register_parameter(item.name, item.value, item.value.requires_grad());
  }
  for (const auto& item : script.named_buffers(/*recurse=*/false)) {
    into.register_buffer(item.name, item.value);
  }
  for (const auto& child : script.named_children()) {
    // A module with two names stays one module.
    std::shared_ptr<torch::nn::Module>& module = adopted[child.value._ivalue().get()];
    if (!module) {
      if (ScriptNorm::describes(child.value)) {
        norms_.push_back(std::make_shared<ScriptNorm>(child.value));
        module = norms_.back();
      } else {
        module = std::make_shared<torch::nn::Module>(child.name);
      }
      adopt(child.value, *module, adopted);
    }
    into.register_module(child.name, module);
  }
}

Algorithm::Losses TorchScript::loss(const Batch& batch) {
  return {{"loss", loss_->compute(predict(batch.images()), batch.labels)}};
}

at::Tensor TorchScript::predict(const at::Tensor& images) {
  // All other code uses the registered buffers. Code that assigns one gets a copy to read and to
  // keep for its backward pass; the assigned value is then copied into the registered buffer.
  struct KeepRegistered {
    std::vector<Assigned>& buffers;
    explicit KeepRegistered(std::vector<Assigned>& assigned) : buffers(assigned) {
      for (Assigned& item : buffers)
        item.owner->setSlot(item.slot, item.registered.detach().clone());
    }
    ~KeepRegistered() {
      const at::NoGradGuard no_grad;
      for (Assigned& item : buffers) {
        const at::Tensor value = item.owner->getSlot(item.slot).toTensor().detach();
        if (value.sizes() == item.registered.sizes() &&
            value.scalar_type() == item.registered.scalar_type()) {
          item.registered.copy_(value);
        } else {
          item.registered.set_data(value);
        }
        item.owner->setSlot(item.slot, item.registered);
      }
    }
  };

  c10::IValue result;
  for (const auto& norm : norms_) norm->before_forward();
  try {
    const KeepRegistered keep(assigned_);
    const WithoutOptimizer plain;
    result = script_->forward({images});
  } catch (const std::exception& error) {
    fail<Error>("{}: forward failed: {}", file_, reason_of(error));
  }
  for (const auto& norm : norms_) norm->after_forward();

  at::Tensor logits = result.toTensor();
  if (logits.dim() != 2 || logits.size(0) != images.size(0) || logits.size(1) != num_classes_ ||
      !logits.is_floating_point()) {
    fail<Error>(
        "{}: forward returned a {} tensor of the shape [{}] for {} images; it must return logits, "
        "float [{}, {}]{}",
        file_, at::toString(logits.scalar_type()),
        fmt::join(logits.sizes().begin(), logits.sizes().end(), ", "), images.size(0),
        images.size(0), num_classes_,
        logits.dim() == 2 && logits.size(1) > num_classes_
            ? " (set num_classes if the model has more logits than the data has classes)"
            : "");
  }
  return logits;
}

std::shared_ptr<torch::nn::Module> TorchScript::clone(
    const c10::optional<c10::Device>& device) const {
  const at::NoGradGuard no_grad;  // otherwise a copied parameter is not a leaf
  auto script = std::make_shared<torch::jit::Module>(script_->deepcopy());
  std::shared_ptr<torch::nn::Module> copy(new TorchScript(*this, std::move(script)));
  if (device) copy->to(*device);
  return copy;
}

void TorchScript::train(bool on) {
  torch::nn::Module::train(on);
  script_->train(on);
}

}  // namespace polyak
