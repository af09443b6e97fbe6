// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "polyak/core/export.h"

namespace polyak {

class Node;

/// The valid range of a number. No range contains NaN, or infinity unless it is a bound.
struct POLYAK_API Bounds {
  double low = -std::numeric_limits<double>::max();  // the smallest value
  double high = std::numeric_limits<double>::max();  // the largest
  bool low_open = false;                             // `low` itself is outside
  bool high_open = false;                            // `high` itself is outside

  /// Whether a number is inside.
  bool contains(double value) const;
  /// "in (0, 1)", "at least 1", "above 0", or "" if every finite number is valid.
  std::string text() const;
};
/// (low, high), [low, high], [low, ...), (low, ...).
POLYAK_API Bounds open_interval(double low, double high);
POLYAK_API Bounds closed_interval(double low, double high);
POLYAK_API Bounds at_least(double low);
POLYAK_API Bounds above(double low);
constexpr double kMaxCount = 2147483647;          // 2^31 - 1
constexpr double kMaxSteps = 9007199254740992.0;  // 2^53
/// From `low` to 2^31 - 1, for counts and sizes: the product of two of them fits in 64 bits.
POLYAK_API Bounds count_from(double low);
/// From `low` to 2^53, the largest exact count of a double, for steps of training loops.
POLYAK_API Bounds steps_from(double low);

struct Options;

/// The blocks below a key, so that a whole config can be checked, and described by a schema,
/// without building anything.
struct Blocks {
  /// How they are arranged.
  enum class Form {
    none,           // the value is no block
    one,            // a mapping
    one_or_text,    // a mapping, or a string in its place
    one_or_list,    // a mapping, or a list of them
    list,           // a list of mappings
    list_of_lists,  // a list of such lists
    by_name,        // a mapping of names to mappings; null under a name leaves it out
  };
  Form form = Form::none;                        // of the value
  const char* kind = nullptr;                    // of the registry that builds them by `type`
  std::unique_ptr<Options> (*make)() = nullptr;  // without a kind: the options with their keys
  const char* owner = nullptr;                   // who takes the keys, for messages; null: the key
};

/// Whose keys all other keys of a block are.
struct Rest {
  const char* doc = nullptr;       // a sentence
  const char* kind = nullptr;      // of a registry that reads them; null: unknown
  const char* type_key = nullptr;  // the key that holds the type; null: the type is always the same
  const char* type = nullptr;      // that type, or the default
  const char* reason = nullptr;    // what messages call the choice of the type; null: the type_key
  std::vector<const char*> refused = {};    // of those keys: a block must not have them
  void (*complete)(Node& block) = nullptr;  // adds what the owner of the block sets
};

/// One key of an Options struct.
struct Key {
  const char* name;                  // as YAML writes it
  const char* doc;                   // one sentence or two, on one line
  Bounds bounds;                     // of a number
  std::vector<std::string> choices;  // for strings; empty: any
  bool required = false;             // a config must give it
  const char* type = nullptr;        // for the documentation; null: that of the member
  Blocks blocks;                     // below it
};

}  // namespace polyak
