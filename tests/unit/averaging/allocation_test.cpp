// SPDX-License-Identifier: Apache-2.0
// An update allocates nothing. Every way to ask the C library for memory is counted here; a test
// program of its own, since it replaces malloc for the whole process.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <atomic>
#include <cstdlib>

#include "polyak/polyak.h"
#include "polyak/runtime/average_set.h"
#include "support/tiny_net.h"

// glibc's own names.
// NOLINTBEGIN(bugprone-reserved-identifier,readability-inconsistent-declaration-parameter-name)
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
}

namespace {
std::atomic<bool> counting{false};
std::atomic<int64_t> allocations{0};

void count() {
  if (counting) ++allocations;
}
}  // namespace

extern "C" {
__attribute__((visibility("default"))) void* malloc(size_t size) {
  count();
  return __libc_malloc(size);
}
__attribute__((visibility("default"))) void* calloc(size_t number, size_t size) {
  count();
  return __libc_calloc(number, size);
}
__attribute__((visibility("default"))) void* realloc(void* old, size_t size) {
  count();
  return __libc_realloc(old, size);
}
__attribute__((visibility("default"))) void* memalign(size_t alignment, size_t size) {
  count();
  return __libc_memalign(alignment, size);
}
__attribute__((visibility("default"))) void* aligned_alloc(size_t alignment, size_t size) {
  count();
  return __libc_memalign(alignment, size);
}
__attribute__((visibility("default"))) int posix_memalign(void** out, size_t alignment,
                                                          size_t size) {
  count();
  *out = __libc_memalign(alignment, size);
  return *out ? 0 : 12;
}
}

// NOLINTEND(bugprone-reserved-identifier,readability-inconsistent-declaration-parameter-name)

namespace polyak::test {
namespace {

int64_t allocations_in(const std::function<void()>& action) {
  allocations = 0;
  counting = true;
  action();
  counting = false;
  return allocations;
}

TEST(Allocation, IsSeenByTheCounter) {
  EXPECT_GT(allocations_in([] { at::empty({1000}); }), 0);
  EXPECT_GT(allocations_in([] { std::vector<int>(1000).at(1) = 2; }), 0);
}

/// Every kind of tensor that a kernel takes, enough of it for two threads.
struct Net : torch::nn::Module {
  Net() {
    register_module("tiny", TinyNet());
    register_module("large", torch::nn::Linear(1000, 500));
    register_parameter("bfloat16", at::randn({1000}).to(at::kBFloat16));
    register_parameter("half", at::randn({1000}).to(at::kHalf));
    register_parameter("double", at::randn({1000}, at::kDouble));
    register_parameter("image", at::randn({4, 3, 5, 5}).contiguous(at::MemoryFormat::ChannelsLast));
    register_buffer("mean", at::randn({1000}));
  }
};

TEST(Allocation, AnUpdateMakesNone) {
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    for (const bool update_buffers : {false, true}) {
      for (const char* precision : {"default", "compensated", "float64"}) {
        Net net;
        const auto options = CosineEMAOptions()
                                 .momentum(0.1)
                                 .max_iters(100)
                                 .interval(2)
                                 .update_buffers(update_buffers)
                                 .precision(parse_precision(precision))
                                 .skip_nonfinite(true);
        CosineEMA a(net, options), b(net, options), c(net, options);
        AveragedModel* all[] = {&a, &b, &c};
        const ModelRef model(net);
        for (int i = 0; i < 3; ++i) update_together(all, model);  // copies, plans, starts threads
        EXPECT_EQ(allocations_in([&] {
                    for (int i = 0; i < 10; ++i) update_together(all, model);
                  }),
                  0)
            << precision << ", " << threads << " thread(s)";
        EXPECT_EQ(allocations_in([&] {
                    for (int i = 0; i < 10; ++i) a.update_parameters(net);
                  }),
                  0)
            << precision << ", " << threads << " thread(s)";
      }
    }
  }
}

TEST(Allocation, ASetOfAveragesMakesNoneBesideItsLogs) {
  Net net;
  const ModelRef model(net);
  const auto options = CosineEMAOptions().momentum(0.1).max_iters(100);
  const auto first = std::make_shared<CosineEMA>(net, options);
  const auto second = std::make_shared<CosineEMA>(net, options);
  AverageSet set([&] { return model; }, [](const std::string&, double) {});
  set.add({"", first});
  set.add({"b", second});
  const auto update = [&] {
    set.post(*first, true);
    set.post(*second, true);
    set.flush();
  };
  for (int i = 0; i < 3; ++i) update();
  EXPECT_EQ(allocations_in([&] {
              for (int i = 0; i < 10; ++i) update();
            }),
            0);
  EXPECT_EQ(first->steps(), 13);
}

}  // namespace
}  // namespace polyak::test
