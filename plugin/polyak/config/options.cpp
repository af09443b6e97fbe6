// SPDX-License-Identifier: Apache-2.0
#include "polyak/config/options.h"

namespace polyak {

OptionVisitor::~OptionVisitor() = default;
Options::~Options() = default;

void OptionVisitor::key(const char* name, OptionValue value, const char* doc, Bounds bounds) {
  visit(Key{name, doc, bounds, {}, false}, value);
}

void OptionVisitor::choice(const char* name, OptionValue value,
                           std::initializer_list<const char*> choices, const char* doc) {
  visit(Key{name, doc, {}, {choices.begin(), choices.end()}, false}, value);
}

void OptionVisitor::required(const char* name, OptionValue value, const char* doc, Bounds bounds) {
  visit(Key{name, doc, bounds, {}, true}, value);
}

}  // namespace polyak
