// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>

namespace polyak::cli {

/// The files of configs/init by their names: "fashion-mnist", "loop".
const std::map<std::string, std::string>& init_texts();

}  // namespace polyak::cli
