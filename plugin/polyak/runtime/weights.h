// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "polyak/averaging/averaged_model.h"
#include "polyak/averaging/load_report.h"
#include "polyak/averaging/model.h"
#include "polyak/core/export.h"

// Weights of Python's files in a program of your own:
//
//   polyak::load_weights(model, "resnet50.pth");
//   polyak::save_weights(model, "mine.pth");
namespace polyak {

/// Which weights of a file are loaded, and under which names. Each part may be left out.
class POLYAK_API LoadWeightsOptions {
 public:
  /// The key path of the weights in the file, such as `ema.module`; "": they are found.
  LoadWeightsOptions& key(std::string value) { return key_ = std::move(value), *this; }
  /// Prefixes of names; the first that a name begins with is removed.
  LoadWeightsOptions& strip(std::vector<std::string> value) {
    return strip_ = std::move(value), *this;
  }
  /// Beginnings of names and what replaces them; the first that fits is used.
  LoadWeightsOptions& map(std::vector<std::pair<std::string, std::string>> value) {
    return map_ = std::move(value), *this;
  }
  /// Names of tensors to leave out, the file's or the model's; `*` stands for any text.
  LoadWeightsOptions& exclude(std::vector<std::string> value) {
    return exclude_ = std::move(value), *this;
  }
  /// Whether everything must fit; otherwise what does not fit is reported.
  LoadWeightsOptions& strict(bool value) { return strict_ = value, *this; }

  /// The values that were set.
  const std::string& key() const { return key_; }
  /// @copydoc key()
  const std::vector<std::string>& strip() const { return strip_; }
  /// @copydoc key()
  const std::vector<std::pair<std::string, std::string>>& map() const { return map_; }
  /// @copydoc key()
  const std::vector<std::string>& exclude() const { return exclude_; }
  /// @copydoc key()
  bool strict() const { return strict_; }

 private:
  std::string key_;
  std::vector<std::string> strip_;
  std::vector<std::pair<std::string, std::string>> map_;
  std::vector<std::string> exclude_;
  bool strict_ = false;
};

/// What load_weights() did.
struct WeightsReport : LoadReport {
  size_t loaded = 0;                // the number of the model's tensors that were set
  std::vector<std::string> others;  // key paths of other weights in the file
};

/// Loads weights from a file of PyTorch (any layout that torch.save writes, also whole training
/// checkpoints), of Polyak, or any other format that Polyak reads. Weights are found in the file,
/// and names are made to fit: wrappers' names and a common prefix are removed or added (see
/// docs/weights.md). Values are copied into the model's tensors, which keep their dtype and device.
/// Logs what was changed and, as a warning, what did not fit.
///
/// Not safe while another thread uses the model.
/// @throws CheckpointError if the file cannot be read or none of it fits, or, with `strict`, unless
///   all of it does; the model is unchanged then
POLYAK_API WeightsReport load_weights(const ModelRef& model, const std::string& path,
                                      const LoadWeightsOptions& options = {});

/// Writes the model's parameters and buffers under their names, in the format of the name's
/// extension: `.pth`, which Python reads by `torch.load(path, weights_only=True)`. The file is
/// complete or absent, also after a crash.
/// @throws CheckpointError naming the path and the reason
POLYAK_API void save_weights(const ModelRef& model, const std::string& path);

/// The same for averaged weights, under the names in the averaged model. Waits for an update in the
/// background.
POLYAK_API void save_weights(AveragedModel& average, const std::string& path);

}  // namespace polyak
