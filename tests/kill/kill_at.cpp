// SPDX-License-Identifier: Apache-2.0
// Preloaded into a program: ends it by SIGKILL right before its Nth operation on files, N in
// POLYAK_KILL_AT; with 0, writes the number of operations into the file POLYAK_KILL_COUNT instead.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace {

std::atomic<long> operations{0};

long wanted() {
  static const long number = [] {
    const char* text = std::getenv("POLYAK_KILL_AT");
    return text ? std::atol(text) : 0;
  }();
  return number;
}

void count() {
  if (++operations == wanted()) kill(getpid(), SIGKILL);
}

template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

__attribute__((destructor)) void report() {
  const char* file = std::getenv("POLYAK_KILL_COUNT");
  if (!file || wanted() != 0) return;
  if (std::FILE* out = next<std::FILE*(const char*, const char*)>("fopen")(file, "w")) {
    std::fprintf(out, "%ld\n", operations.load());
    std::fclose(out);
  }
}

mode_t mode_of(int flags, va_list arguments) {
  return (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int rename(const char* from, const char* to) {
  count();
  return next<int(const char*, const char*)>("rename")(from, to);
}

int remove(const char* path) {
  count();
  return next<int(const char*)>("remove")(path);
}

int unlink(const char* path) {
  count();
  return next<int(const char*)>("unlink")(path);
}

int fsync(int descriptor) {
  count();
  return next<int(int)>("fsync")(descriptor);
}

int mkdir(const char* path, mode_t mode) {
  count();
  return next<int(const char*, mode_t)>("mkdir")(path, mode);
}

int ftruncate(int descriptor, off_t size) {
  count();
  return next<int(int, off_t)>("ftruncate")(descriptor, size);
}

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  if ((flags & (O_CREAT | O_WRONLY | O_RDWR)) != 0) count();
  return next<int(const char*, int, ...)>("open")(path, flags, mode);
}

std::FILE* fopen(const char* path, const char* mode) {
  if (mode[0] != 'r') count();
  return next<std::FILE*(const char*, const char*)>("fopen")(path, mode);
}
}
#pragma GCC visibility pop
