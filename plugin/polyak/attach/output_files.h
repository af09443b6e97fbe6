// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "polyak/attach/config.h"

namespace polyak {

/// The entry of one file of averages in the index.
struct AveragesRecord {
  std::string file;       // in output_dir
  int64_t made = 0;       // the optimizer's place in the order of creation, from 1
  std::string optimizer;  // its class
  int64_t parameters = 0;
  int64_t steps = 0;
  std::vector<std::string> names;  // of parameters and buffers
  std::string saved_as;            // the newest averaged version of a file that the program saved
};

/// "1 step", "2 steps".
std::string count_of(int64_t number, const char* what);
/// A line about a file of averages for the end of a run: its name, size, optimizer, steps, names.
std::string line_of(const AveragesRecord& record);

/// The files of an attached run: the names of averages and siblings, which copies of streams are
/// kept, an index of all files, and the messages about them at program exit.
class OutputFiles {
 public:
  explicit OutputFiles(const AttachConfig& config);

  /// The file for the averages of the optimizer that was created as number `made`: with a name from
  /// the config's `names`, `averages-generator.pth`, otherwise the next of `averages.pth`,
  /// `averages-2.pth`, ...
  std::string new_averages_file(int64_t made);

  /// The file for the averaged version of the file `path`.
  /// @param suffix "", or ".NAME" for a named average
  std::string sibling_of(const std::string& path, const std::string& suffix) const;
  /// Records that a sibling is complete. Sets its modification time to one second before that of
  /// the original, so that the newest file of a folder is the program's own.
  void sibling_written(const std::string& path, const std::string& sibling);
  /// Records a save without averaged tensors.
  void no_sibling(const std::string& path);

  /// Begins a save to a stream. Returns false if no copies are kept.
  bool begin_stream();
  /// The file for its averaged version.
  std::string stream_file(const std::string& suffix);
  /// Ends it, and removes the oldest copies beyond the limit.
  void end_stream();

  /// Records what a file of averages contains, and writes the index.
  void averages_written(AveragesRecord record);
  /// Messages for program exit, one line each.
  std::vector<std::string> last_lines() const;

 private:
  std::string in_output_dir(const std::string& name) const;
  void write_index() const;

  std::string output_dir_;
  std::vector<std::string> names_;
  std::string siblings_;                 // "": beside the originals
  std::optional<int64_t> keep_streams_;  // nullopt: all
  std::set<std::string> given_;
  std::vector<AveragesRecord> records_;  // in the order of creation
  std::map<std::string, std::string> siblings_written_;
  std::vector<std::string> without_;
  int64_t streams_ = 0;
  std::vector<std::string> present_;  // files of the stream that is being written
  std::deque<std::vector<std::string>> kept_;
};

}  // namespace polyak
