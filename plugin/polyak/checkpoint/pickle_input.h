// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <istream>
#include <string>
#include <string_view>

namespace polyak::pickle {

/// Bytes that are read once, from the first to the last. They are in memory, or in a file of which
/// only the next part is: what follows a pickle may be much larger than the pickle.
class Input {
 public:
  /// @param bytes outlive this object
  explicit Input(std::string_view bytes) : window_(bytes) {}
  /// @param file a stream at its start; it outlives this object
  /// @param size how many bytes it has
  Input(std::istream& file, uint64_t size) : file_(&file), unread_(size) {}
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;

  /// How many bytes were taken, and how many are left.
  uint64_t position() const { return position_; }
  uint64_t left() const { return window_.size() + unread_; }

  /// The next bytes, valid until the next call.
  /// @throws Damage if there are fewer
  std::string_view take(uint64_t count) {
    if (count > window_.size()) fill(count);
    const std::string_view taken = window_.substr(0, count);
    window_.remove_prefix(count);
    position_ += count;
    return taken;
  }

  /// The next bytes up to a line feed, which is taken too.
  /// @throws Damage if there is none
  std::string_view line();

  /// Copies the next bytes.
  /// @throws Damage if there are fewer
  void copy(void* target, uint64_t count);

 private:
  /// Makes the window at least as large.
  void fill(uint64_t size);

  std::istream* file_ = nullptr;
  std::string buffer_;
  std::string_view window_;  // what is in memory and was not taken
  uint64_t unread_ = 0;      // of the file
  uint64_t position_ = 0;
};

}  // namespace polyak::pickle
