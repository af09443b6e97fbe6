// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "polyak/attach/attached_runner.h"
#include "polyak/averaging/model.h"

namespace polyak {

/// Tensors of the program that are averaged together, in their own count of steps.
struct Group {
  std::vector<NamedTensor> tensors;  // names are ours
  std::vector<NamedTensor> frozen;   // stand beside them, and no optimizer has them: copied
  std::unique_ptr<AttachedRunner> runner;
  std::string file;
  std::string optimizer;    // its class
  int64_t made = 0;         // its place among the optimizers
  std::string saved_as;     // the newest file of the program's that holds these averages
  int64_t generation = -1;  // of the names, when what stands beside was looked for
  bool written = true;
  bool broken = false;

  /// Takes a tensor in, under a name of ours; its average begins as a copy.
  void add(NamedTensor item);
  /// Puts a tensor in the place of one that is here. It goes on with the average of that one where
  /// `continues`, else it begins as a copy.
  void replace(const at::Tensor& before, const at::Tensor& now, bool continues);
  /// Lets the averages know of what was added and replaced.
  void tell_averages(const AttachConfig& config, const Catalog& catalog);
  /// Whether the program holds none of the tensors any more.
  bool is_expired() const;
  /// Whether the program has let this one of the tensors go; a loss that was computed with it may
  /// still hold it.
  /// @param handles_beside that the caller holds
  bool is_orphan(const at::Tensor& tensor, size_t handles_beside = 0) const;
  /// A tensor that got another shape in its place begins as a copy.
  void see_resized();
  /// The parameters that are averaged or copied, without buffers.
  int64_t count_parameters() const;

 private:
  std::vector<std::vector<int64_t>> sizes_;  // of `tensors`
  int64_t named_ = 0;
  bool grown_ = false;     // tensors were added, or took an average over
  bool replaced_ = false;  // some average begins anew
};

}  // namespace polyak
