# SPDX-License-Identifier: Apache-2.0
# How sanitizers must behave beside a LibTorch that was built without them.
# shellcheck shell=bash
# - Leaks are looked for; lsan.supp names libraries that keep memory until the process ends. ASAN_OPTIONS=detect_leaks=0
#   turns that off, where a container forbids what it takes (ptrace).
# - Plugins are opened with dlopen, and `polyak attach` preloads: the sanitizer's library is not always first.
# - gcc's OpenMP runtime is not instrumented: see tsan.supp.
export ASAN_OPTIONS="detect_leaks=1:verify_asan_link_order=0:detect_stack_use_after_return=1:${ASAN_OPTIONS:-}"
export LSAN_OPTIONS="suppressions='$POLYAK_ROOT/.ci/lsan.supp':print_suppressions=0:${LSAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:${UBSAN_OPTIONS:-}"
export TSAN_OPTIONS="suppressions='$POLYAK_ROOT/.ci/tsan.supp':ignore_noninstrumented_modules=1:${TSAN_OPTIONS:-}"
