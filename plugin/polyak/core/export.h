// SPDX-License-Identifier: Apache-2.0
#pragma once

// Marks what other libraries may link against; everything else stays hidden inside libpolyak.so.
#define POLYAK_API __attribute__((visibility("default")))
