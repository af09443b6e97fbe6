// SPDX-License-Identifier: Apache-2.0
#include "polyak/vis_backends/progress_bar.h"

#include <gtest/gtest.h>

namespace polyak {
namespace {

TEST(ProgressBar, ShowsWhatFitsBehindABarThatFitsTheTerminal) {
  const Progressing now{"epoch 2/12", 40, 100, {"eta 0:01:10", "812 samples/s", "loss 0.31"}};
  EXPECT_EQ(bar_text(now, 100),
            "epoch 2/12 [############..................] 40/100  eta 0:01:10  812 samples/s  loss "
            "0.31");
  EXPECT_EQ(bar_text(now, 80),
            "epoch 2/12 [########............] 40/100  eta 0:01:10  812 samples/s  loss 0.31");
  EXPECT_EQ(bar_text(now, 60), "epoch 2/12 [####.......] 40/100  eta 0:01:10  812 samples/s");
  EXPECT_EQ(bar_text(now, 50), "epoch 2/12 [######..........] 40/100  eta 0:01:10");
  EXPECT_EQ(bar_text(now, 30), "epoch 2/12 [###......] 40/100");
  EXPECT_EQ(bar_text(now, 10), "40/100");
  for (int columns = 1; columns < 120; ++columns) {
    EXPECT_LE(bar_text(now, columns).size(), static_cast<size_t>(std::max(columns - 1, 1)));
  }
}

TEST(ProgressBar, TakesAnyNumbers) {
  EXPECT_EQ(bar_text({"", 0, 0, {}}, 20), "[.............] 0/1");
  EXPECT_EQ(bar_text({"", 7, 5, {}}, 20), "[#############] 5/5");
  EXPECT_EQ(bar_text({"", -1, 5, {}}, 20), "[.............] 0/5");
}

}  // namespace
}  // namespace polyak
