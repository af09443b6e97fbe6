// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/csrc/jit/api/module.h>
#include <torch/nn/module.h>
#include <torch/types.h>

#include <fstream>
#include <string>

/// Appends a tensor as float32: a line "name kind count" and the numbers after it. Kinds are p for
/// a parameter, b for a buffer, i for a buffer of whole numbers.
inline void dump_tensor(std::ofstream& file, const std::string& name, const torch::Tensor& tensor,
                        bool buffer) {
  if (tensor.layout() != torch::kStrided || tensor.is_meta()) return;  // has no numbers to show
  const torch::Tensor values = tensor.detach().to(torch::kFloat).contiguous();
  const char kind = !buffer ? 'p' : tensor.is_floating_point() ? 'b' : 'i';
  file << name << ' ' << kind << ' ' << values.numel() << '\n';
  file.write(static_cast<const char*>(values.data_ptr()),
             static_cast<std::streamsize>(values.numel() * 4));
}

/// Appends the parameters and buffers whose names start so; an empty line ends.
inline void dump_weights(std::ofstream& file, const torch::nn::Module& module,
                         const std::string& start = "") {
  for (const auto& item : module.named_parameters()) {
    if (item.key().rfind(start, 0) == 0) dump_tensor(file, item.key(), item.value(), false);
  }
  for (const auto& item : module.named_buffers()) {
    if (item.key().rfind(start, 0) == 0) dump_tensor(file, item.key(), item.value(), true);
  }
  file << '\n' << std::flush;
}

inline void dump_weights(std::ofstream& file, const torch::jit::Module& module) {
  for (const auto& item : module.named_parameters()) {
    dump_tensor(file, item.name, item.value, false);
  }
  for (const auto& item : module.named_buffers()) dump_tensor(file, item.name, item.value, true);
  file << '\n' << std::flush;
}
