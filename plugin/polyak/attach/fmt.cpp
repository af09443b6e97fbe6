// SPDX-License-Identifier: Apache-2.0
// fmt for the preloaded library, which must not depend on libfmt.so. The sources that it shares
// with libpolyak.so call fmt as a library; its header defines these functions here, compiled
// without inlining so that each has a symbol.
#define FMT_HEADER_ONLY
#include <fmt/format.h>

namespace {

[[gnu::used]] std::string (*const kFormat)(fmt::string_view, fmt::format_args) = fmt::vformat;
[[gnu::used]] void (*const kPrint)(std::FILE*, fmt::string_view, fmt::format_args) = fmt::vprint;

}  // namespace
