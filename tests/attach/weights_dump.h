#pragma once

#include <torch/ordered_dict.h>
#include <torch/types.h>

#include <fstream>
#include <string>

/// Appends float32 tensors: a line "name count" each and the numbers after it; an empty line ends.
inline void dump_weights(std::ofstream& file,
                         const torch::OrderedDict<std::string, torch::Tensor>& tensors) {
  for (const auto& item : tensors) {
    const torch::Tensor values = item.value().detach().contiguous();
    file << item.key() << ' ' << values.numel() << '\n';
    file.write(static_cast<const char*>(values.data_ptr()),
               static_cast<std::streamsize>(values.numel() * 4));
  }
  file << '\n' << std::flush;
}
