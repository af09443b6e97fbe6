// SPDX-License-Identifier: Apache-2.0
// What attach asks a LibTorch for its version with.
#include <map>
#include <string>

namespace caffe2 {

__attribute__((visibility("default"))) const std::map<std::string, std::string>& GetBuildOptions() {
  static const std::map<std::string, std::string> options{{"TORCH_VERSION", "0.4.1"}};
  return options;
}

}  // namespace caffe2
