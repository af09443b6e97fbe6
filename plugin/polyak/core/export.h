// SPDX-License-Identifier: Apache-2.0
#pragma once

// Marks symbols that other libraries may link to; all others are hidden.
#define POLYAK_API __attribute__((visibility("default")))
