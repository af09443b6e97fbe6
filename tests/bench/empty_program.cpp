// SPDX-License-Identifier: Apache-2.0
// What a program that is linked to LibTorch takes to start, and nothing else.
int main() {}
