// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace polyak::cli {

/// What a stream can show.
struct Terminal {
  int columns = 80;
  bool color = false;   // a terminal, and nobody asked for plain text (NO_COLOR, TERM=dumb)
  bool unicode = true;  // unless the locale names another encoding
};

/// Standard output's and standard error's. They ask the terminal, then COLUMNS; 80 columns where
/// neither knows.
Terminal output_terminal();
Terminal error_terminal();

}  // namespace polyak::cli
