// SPDX-License-Identifier: Apache-2.0
// A shared library that is no plugin.
extern "C" int polyak_test_number() {
  return 42;
}
