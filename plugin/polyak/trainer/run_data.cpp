// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/run_data.h"

#include "polyak/core/log.h"
#include "polyak/trainer/class_names.h"

namespace polyak {
namespace {

/// The items of a list; a single value is a list of one, null an empty list.
std::vector<Node> as_list(const Node& node) {
  if (node.is_null()) return {};
  return node.is_sequence() ? node.items() : std::vector<Node>{node};
}

class Builder {
 public:
  Builder(const Node& config, const TrainConfig& options, const RunData::Context& context)
      : config_(config), options_(options), context_(context) {}

  RunData build() {
    if (context_.training) make_training_data();
    const bool has_val = !options_.val_dataloader.is_null();
    const bool has_test = !options_.test_dataloader.is_null();
    if (!has_val) {
      for (const char* key : {"val_cfg", "val_evaluator"}) {
        const Node* node = config_.find(key);
        if (node && !node->is_null()) node->fail("has no effect without val_dataloader");
      }
    }
    const bool test_as_val = !has_test && options_.test_evaluator.is_null();
    if (has_val && (context_.training || test_as_val)) {
      data_.val =
          make_evaluation(options_.val_dataloader, options_.val_evaluator, options_.val_cfg, "val");
    }
    const Node& test_loader = has_test ? options_.test_dataloader : options_.val_dataloader;
    if (test_as_val) {
      data_.test = data_.val;
    } else if (!test_loader.is_null()) {
      const Node& evaluator =
          options_.test_evaluator.is_null() ? options_.val_evaluator : options_.test_evaluator;
      data_.test = make_evaluation(test_loader, evaluator, options_.test_cfg, "test");
    }
    if (!context_.training && !data_.test) {
      config_.fail(
          "a test needs test_dataloader and test_evaluator, or val_dataloader and val_evaluator");
    }
    return std::move(data_);
  }

 private:
  void make_training_data() {
    for (const char* key : {"train_dataloader", "train_cfg", "optim_wrapper"}) {
      const Node* node = config_.find(key);
      if (!node || node->is_null())
        config_.fail(fmt::format("'{}' is missing; training needs it", key));
    }
    data_.train = std::make_shared<DataLoader>(options_.train_dataloader, *context_.catalog,
                                               /*training=*/true, context_.seed, context_.share);
    data_.classes = classes_to_learn(data_.train->dataset());
    const StartingPoint& start = *context_.start;
    if (start.resuming) check_same_classes(*start.checkpoint, start.file, data_.classes);
  }

  Evaluation make_evaluation(const Node& loader, const Node& evaluator, const Node& loop,
                             const char* stage) {
    EvaluationLoopOptions loop_options;
    read_options(loop, loop_options, fmt::format("{}_cfg", stage));
    if (evaluator.is_null()) {
      loader.fail(fmt::format("also needs {0}_evaluator, such as {{type: Accuracy}}", stage));
    }
    Evaluation evaluation;
    evaluation.loader = std::make_shared<DataLoader>(loader, *context_.catalog, /*training=*/false,
                                                     context_.seed, context_.share);
    number_classes(*evaluation.loader);
    const Dataset& dataset = evaluation.loader->dataset();
    const Metric::Context context{dataset.num_classes(), context_.catalog, context_.seed,
                                  context_.predict, dataset.classes()};
    for (const Node& node : as_list(evaluator)) {
      evaluation.metrics.push_back(context_.catalog->of<Metric>().build(node, context));
      if (evaluation.metrics.back()->needs_labels() && dataset.num_labelled() == 0) {
        node.fail(fmt::format("needs labels, but `labelled` of {}_dataloader's dataset keeps none",
                              stage));
      }
    }
    return evaluation;
  }

  /// Numbers labels by the classes that the model learns or has learned, so that a label means the
  /// same class in every dataset.
  void number_classes(DataLoader& loader) {
    const std::vector<std::string> own = loader.dataset().classes();
    if (own.empty()) return;
    std::vector<std::string>& classes = data_.classes;
    if (!context_.training && classes.empty()) {
      const std::optional<Value>& checkpoint = context_.start->checkpoint;
      if (checkpoint && !named_otherwise(*checkpoint, own)) {
        classes = classes_of_checkpoint(*checkpoint);
      }
      if (classes.empty()) classes = find_training_classes();
      if (classes.empty()) {
        log_warning(
            "neither the checkpoint nor the training data lists these classes, so labels follow "
            "this dataset's own order: {}",
            name_list(own));
        return;
      }
    }
    if (!classes.empty()) loader.number_classes_by(classes);
  }

  /// For a test of a checkpoint without class names: those of the config's training data, if it
  /// exists.
  std::vector<std::string> find_training_classes() const {
    const Node* dataset = options_.train_dataloader.find("dataset");
    if (!dataset) return {};
    try {
      return classes_to_learn(*context_.catalog->of<Dataset>().build(*dataset, {context_.catalog}));
    } catch (const Error&) {
      return {};
    }
  }

  const Node& config_;
  const TrainConfig& options_;
  const RunData::Context& context_;
  RunData data_;
};

}  // namespace

RunData build_run_data(const Node& config, const TrainConfig& options,
                       const RunData::Context& context) {
  return Builder(config, options, context).build();
}

}  // namespace polyak
