// SPDX-License-Identifier: Apache-2.0
#include "polyak/attach/output_files.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <filesystem>

#include "polyak/attach/sibling.h"
#include "polyak/checkpoint/file.h"
#include "polyak/config/node.h"
#include "polyak/core/text.h"

namespace polyak {
namespace fs = std::filesystem;
namespace {

constexpr size_t kLines = 8;  // at most, for files of averages at program exit
constexpr size_t kNames = 3;  // at most, in one line

}  // namespace

std::string count_of(int64_t number, const char* what) {
  return fmt::format("{} {}{}", number, what, number == 1 ? "" : "s");
}

OutputFiles::OutputFiles(const AttachConfig& config)
    : output_dir_(*config.output_dir),
      names_(config.names),
      siblings_(config.siblings == "beside" ? "" : config.siblings),
      keep_streams_(config.streams_kept()) {}

std::string OutputFiles::in_output_dir(const std::string& name) const {
  return (fs::path(output_dir_) / name).string();
}

std::string OutputFiles::new_averages_file(int64_t made) {
  const auto place = static_cast<size_t>(made - 1);
  std::string file = place < names_.size() ? fmt::format("averages-{}.pth", names_[place]) : "";
  for (size_t number = given_.size() + 1; file.empty() || !given_.insert(file).second; ++number) {
    file = number == 1 ? "averages.pth" : fmt::format("averages-{}.pth", number);
  }
  return in_output_dir(file);
}

std::string OutputFiles::sibling_of(const std::string& path, const std::string& suffix) const {
  std::string beside = sibling_path(path, "averaged" + suffix);
  if (siblings_.empty()) return beside;
  // Files with the same name in different folders must not collide.
  std::error_code error;
  const fs::path absolute = fs::absolute(beside, error);
  const fs::path here = absolute.lexically_proximate(fs::current_path(error));
  const bool outside = here.empty() || here.is_absolute() || *here.begin() == "..";
  return (fs::path(siblings_) / (outside ? absolute.relative_path() : here)).string();
}

void OutputFiles::sibling_written(const std::string& path, const std::string& sibling) {
  std::error_code error;
  const fs::file_time_type time = fs::last_write_time(path, error);
  if (!error) fs::last_write_time(sibling, time - std::chrono::seconds(1), error);
  siblings_written_[sibling] = path;
}

void OutputFiles::no_sibling(const std::string& path) {
  if (std::find(without_.begin(), without_.end(), path) == without_.end()) without_.push_back(path);
}

bool OutputFiles::begin_stream() {
  present_.clear();
  if (keep_streams_ == 0) return false;
  ++streams_;
  return true;
}

std::string OutputFiles::stream_file(const std::string& suffix) {
  present_.push_back(in_output_dir(fmt::format("stream-{}{}.pt", streams_, suffix)));
  return present_.back();
}

void OutputFiles::end_stream() {
  if (present_.empty()) {
    --streams_;  // it had no averaged tensors
    return;
  }
  kept_.push_back(std::move(present_));
  present_.clear();
  while (keep_streams_ && kept_.size() > static_cast<size_t>(*keep_streams_)) {
    std::error_code ignored;
    for (const std::string& file : kept_.front()) fs::remove(file, ignored);
    kept_.pop_front();
  }
}

// ---- the index and the end

void OutputFiles::averages_written(AveragesRecord record) {
  record.file = fs::path(record.file).filename().string();
  const auto known =
      std::find_if(records_.begin(), records_.end(),
                   [&](const AveragesRecord& other) { return other.file == record.file; });
  if (known != records_.end()) {
    *known = std::move(record);
  } else {
    records_.push_back(std::move(record));
  }
  std::stable_sort(
      records_.begin(), records_.end(),
      [](const AveragesRecord& a, const AveragesRecord& b) { return a.made < b.made; });
  write_index();
}

void OutputFiles::write_index() const {
  Node index = Node::mapping();
  for (const AveragesRecord& record : records_) {
    Node names = Node::sequence();
    for (const std::string& name : record.names) names.append(name);
    Node entry = Node::mapping();
    entry.set("optimizer", record.optimizer);
    entry.set("made", record.made);
    entry.set("parameters", record.parameters);
    entry.set("steps", record.steps);
    if (!record.saved_as.empty()) entry.set("saved_as", record.saved_as);
    entry.set("names", std::move(names));
    index.set(record.file, std::move(entry));
  }
  replace_text_file(in_output_dir("averages.yaml"), index.dump());
}

std::string line_of(const AveragesRecord& record) {
  return fmt::format("{}: {} of {}, {}: {}", fs::path(record.file).filename().string(),
                     count_of(record.parameters, "parameter"), record.optimizer,
                     count_of(record.steps, "step"), list_names(record.names, kNames));
}

std::vector<std::string> OutputFiles::last_lines() const {
  std::vector<std::string> lines;
  for (const AveragesRecord& record : records_) {
    if (lines.size() == kLines) {
      lines.push_back(fmt::format("and {} more files of averages; averages.yaml lists all",
                                  records_.size() - kLines));
      break;
    }
    lines.push_back(line_of(record));
  }
  if (!without_.empty() && !records_.empty()) {
    lines.push_back(fmt::format(
        "no averaged weights beside {}: no optimizer steps its tensors, which may be copies; the "
        "averages are in averages*.pth in {}",
        list_names(without_, kNames), output_dir_));
  }
  std::vector<std::string> gone;
  for (const auto& [sibling, path] : siblings_written_) {
    std::error_code ignored;
    if (!fs::exists(sibling, ignored)) gone.push_back(fs::path(sibling).filename().string());
  }
  if (!gone.empty()) {
    lines.push_back(fmt::format(
        "{} of {} files with averaged weights were deleted ({}), maybe by the program, which takes "
        "them for its own files; set `siblings: FOLDER` to write them elsewhere",
        gone.size(), siblings_written_.size(), list_names(gone, kNames)));
  }
  return lines;
}

}  // namespace polyak
