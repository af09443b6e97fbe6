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

/// What the index says of one file of averages.
struct AveragesRecord {
  std::string file;       // in output_dir
  int64_t made = 0;       // the place of its optimizer among those that the program made, from 1
  std::string optimizer;  // its class
  int64_t parameters = 0;
  int64_t steps = 0;
  std::vector<std::string> names;  // of the parameters and of what stands beside them
  std::string saved_as;  // the newest file of averaged weights that the program's saves made
};

/// The files of an attached run, by name: where averages and siblings go, which copies of streams
/// stay, an index of them all, and what is said of them at the end.
class OutputFiles {
 public:
  explicit OutputFiles(const AttachConfig& config);

  /// Where the averages of the optimizer go that was made as the `made`-th: by the config's `names`
  /// `averages-generator.pth`, else the next of `averages.pth`, `averages-2.pth`, ...
  std::string new_averages_file(int64_t made);

  /// Where averaged weights go that belong to what the program saved as `path`.
  /// @param suffix "" or ".NAME" of an average
  std::string sibling_of(const std::string& path, const std::string& suffix) const;
  /// Notes that a sibling is whole. It gets a time of change one second before the original's, so
  /// that whoever takes the newest file of a folder takes the program's own.
  void sibling_written(const std::string& path, const std::string& sibling);
  /// Notes a save in which there was nothing to average.
  void no_sibling(const std::string& path);

  /// A save to a stream begins; false where none is to be kept.
  bool begin_stream();
  /// Where its averaged weights go.
  std::string stream_file(const std::string& suffix);
  /// It is whole: the copies that are too many go.
  void end_stream();

  /// Notes what a file of averages holds now, and writes the index.
  void averages_written(AveragesRecord record);
  /// What a person should know at the end, a line each.
  std::vector<std::string> last_lines() const;

 private:
  std::string in_output_dir(const std::string& name) const;
  void write_index() const;

  std::string output_dir_;
  std::vector<std::string> names_;
  std::string siblings_;                 // "": beside the originals
  std::optional<int64_t> keep_streams_;  // nothing: all
  std::set<std::string> given_;
  std::vector<AveragesRecord> records_;  // in the order of making
  std::map<std::string, std::string> siblings_written_;
  std::vector<std::string> without_;
  int64_t streams_ = 0;
  std::vector<std::string> present_;  // files of the stream that is being written
  std::deque<std::vector<std::string>> kept_;
};

}  // namespace polyak
