// SPDX-License-Identifier: Apache-2.0
#include "polyak/vis_backends/progress_bar.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string_view>

namespace polyak {
namespace {

constexpr int kMostCells = 30;
constexpr int kLeastCells = 8;
constexpr std::chrono::milliseconds kPause{100};

int terminal_columns() {
  constexpr int kUnknown = 80;
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kUnknown;
}

/// At once, so that no half of a bar is seen.
void show(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace

std::string bar_text(const Progressing& progressing, int columns) {
  const int64_t all = std::max<int64_t>(progressing.all, 1);
  const int64_t done = std::clamp<int64_t>(progressing.done, 0, all);
  const std::string counter = fmt::format("{}/{}", done, all);
  const std::string title = progressing.title.empty() ? "" : progressing.title + " ";
  // The last column stays empty: some terminals would begin a new line behind it.
  const int room = std::max(columns - 1, 1);
  std::vector<std::string> fields = progressing.fields;
  while (true) {
    std::string tail;
    for (const std::string& field : fields) tail += "  " + field;
    const int cells = std::min(
        room - static_cast<int>(fmt::format("{}[] {}{}", title, counter, tail).size()), kMostCells);
    if (cells >= kLeastCells) {
      const auto filled = static_cast<size_t>(cells * done / all);
      return fmt::format("{}[{}{}] {}{}", title, std::string(filled, '#'),
                         std::string(static_cast<size_t>(cells) - filled, '.'), counter, tail);
    }
    if (fields.empty()) return counter.substr(0, static_cast<size_t>(room));
    fields.pop_back();
  }
}

bool ProgressBar::is_possible() {
  static const bool is_terminal = ::isatty(STDERR_FILENO) != 0;
  return is_terminal;
}

bool ProgressBar::is_due() const {
  return !is_drawn_ || Clock::now() - drawn_at_ >= kPause;
}

void ProgressBar::draw(const Progressing& progressing) {
  // Over the old one, and only then what is left of it: an erased line would flicker.
  show("\r" + bar_text(progressing, terminal_columns()) + "\x1b[K");
  drawn_at_ = Clock::now();
  is_drawn_ = true;
}

void ProgressBar::clear() {
  if (is_drawn_) show("\r\x1b[K");
  is_drawn_ = false;
}

}  // namespace polyak
