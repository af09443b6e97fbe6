// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "support/processes.h"

int main(int argc, char** argv) {
  const int status = polyak::testing::run_worker();
  if (status >= 0) return status;
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
