// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "support/processes.h"

namespace polyak::testing {

/// Fails the test with the output of each process that did not end with status 0.
inline void expect_success(const std::vector<Ended>& ended) {
  for (size_t i = 0; i < ended.size(); ++i) {
    EXPECT_EQ(ended[i].status, 0) << "process " << i << ": " << ended[i].output;
  }
}

}  // namespace polyak::testing
