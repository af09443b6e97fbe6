// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/pickle_input.h"

#include <algorithm>
#include <cstring>

#include "polyak/checkpoint/pickle_nodes.h"

namespace polyak::pickle {
namespace {

constexpr uint64_t kPart = 1 << 16;  // of a file, that is read at once

constexpr const char* kEnds = "it ends unexpectedly";

}  // namespace

void Input::fill(uint64_t size) {
  const uint64_t missing = size - window_.size();
  if (missing > unread_) throw Damage{kEnds};
  const uint64_t more = std::min(unread_, std::max(missing, kPart));
  std::string buffer(window_.size() + more, '\0');
  std::copy(window_.begin(), window_.end(), buffer.begin());
  if (!file_->read(buffer.data() + window_.size(), static_cast<std::streamsize>(more))) {
    throw Damage{kEnds};
  }
  buffer_ = std::move(buffer);
  window_ = buffer_;
  unread_ -= more;
}

std::string_view Input::line() {
  size_t searched = 0;
  size_t end = 0;
  while ((end = window_.find('\n', searched)) == std::string_view::npos) {
    if (unread_ == 0) throw Damage{"a name is not terminated"};
    searched = window_.size();
    fill(searched + std::min<uint64_t>(unread_, searched + 1));  // doubles it: no byte often
  }
  const std::string_view text = take(end + 1);
  return text.substr(0, end);
}

void Input::copy(void* target, uint64_t count) {
  const std::string_view held = take(std::min<uint64_t>(count, window_.size()));
  if (!held.empty()) std::memcpy(target, held.data(), held.size());
  const uint64_t rest = count - held.size();
  if (rest == 0) return;
  if (rest > unread_ ||
      !file_->read(static_cast<char*>(target) + held.size(), static_cast<std::streamsize>(rest))) {
    throw Damage{kEnds};
  }
  unread_ -= rest;
  position_ += rest;
}

}  // namespace polyak::pickle
