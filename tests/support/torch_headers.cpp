// SPDX-License-Identifier: Apache-2.0
// Owns LibTorch's headers, precompiled once for all programs of the tests.
int main() {}
