// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/cli/run_record.h"

namespace polyak::cli {

/// A page about one run, or about several side by side: HTML that is also well-formed XML, without
/// scripts and without anything from elsewhere.
std::string report_page(const std::vector<RunRecord>& runs);

}  // namespace polyak::cli
