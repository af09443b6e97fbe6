// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Polyak's version, MAJOR.MINOR.PATCH; CMakeLists.txt reads it here.
#define POLYAK_VERSION "0.1.0"
