// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "polyak/attach/attached_runner.h"
#include "polyak/averaging/model.h"

namespace polyak {

/// Tensors of the program that are averaged together, with their own count of steps.
struct Group {
  std::vector<NamedTensor> tensors;  // with internal names
  std::vector<NamedTensor> frozen;   // parameters of the same model without optimizer: copied
  std::unique_ptr<AttachedRunner> runner;
  std::string file;
  std::string optimizer;    // its class
  int64_t made = 0;         // its place in the order of creation, from 1
  std::string saved_as;     // the newest averaged version of a file that the program saved
  int64_t generation = -1;  // of the names when buffers and frozen parameters were last added
  bool written = true;
  bool broken = false;

  /// Adds a tensor under an internal name. Its average starts as a copy.
  void add(NamedTensor item);
  /// Replaces a tensor by another. If `continues`, it continues the average of the first; otherwise
  /// its average starts as a copy.
  void replace(const at::Tensor& before, const at::Tensor& now, bool continues);
  /// Removes the tensors that the program has released. Their averages end.
  std::vector<NamedTensor> remove_orphans();
  /// Passes added, replaced and removed tensors on to the averages.
  void tell_averages(const AttachConfig& config, const Catalog& catalog);
  /// Whether the program has released all tensors.
  bool is_expired() const;
  /// Whether the program has released this tensor, apart from the graph of a loss.
  /// @param handles_beside the number of handles that the caller holds
  bool is_orphan(const at::Tensor& tensor, size_t handles_beside = 0) const;
  /// Restarts the averages of tensors that were resized in place as copies.
  void see_resized();
  /// The number of parameters that are averaged or copied, without buffers.
  int64_t count_parameters() const;

 private:
  std::vector<std::vector<int64_t>> sizes_;  // of `tensors`
  int64_t named_ = 0;
  bool grown_ = false;     // tensors were added, or continue an average
  bool replaced_ = false;  // some average starts again or ended
};

}  // namespace polyak
