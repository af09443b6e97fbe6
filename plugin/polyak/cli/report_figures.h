// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/cli/run_record.h"
#include "polyak/cli/svg_chart.h"

namespace polyak::cli {

/// A chart of a report, and what has to be said of it.
struct Figure {
  Chart chart;
  std::vector<std::string> notes;
};

/// The charts of a run: metrics of averaged and raw weights with their gap shaded, losses, the
/// weights of its averages, and all else that it logged.
std::vector<Figure> figures_of(const RunRecord& run);
/// The charts of several runs, one over the other, each run in its color.
std::vector<Figure> figures_of_all(const std::vector<RunRecord>& runs);

}  // namespace polyak::cli
