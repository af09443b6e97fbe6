# How sanitizers must behave beside a LibTorch that was built without them.
# shellcheck shell=bash
# - LibTorch keeps what it allocates until the process ends; its leaks hide ours, so leaks are not looked for.
# - Plugins are opened with dlopen, and `polyak attach` preloads: the sanitizer's library is not always first.
# - Objects made on one side and freed on the other have another size or allocator in the eyes of one side.
# - gcc's OpenMP runtime is not instrumented: see .ci/tsan.supp.
export ASAN_OPTIONS="detect_leaks=0:verify_asan_link_order=0:detect_stack_use_after_return=1:${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:${UBSAN_OPTIONS:-}"
export TSAN_OPTIONS="suppressions=$POLYAK_ROOT/.ci/tsan.supp:ignore_noninstrumented_modules=1:${TSAN_OPTIONS:-}"
