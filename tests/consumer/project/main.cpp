#include <polyak/core/error.h>
#include <polyak/core/log.h>
#include <polyak/polyak.h>
#include <polyak/version.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cstdio>
#include <string>

int main() {
  std::string heard;
  polyak::set_log_sink([&](polyak::LogLevel, std::string_view message) { heard = message; });
  polyak::log_info("threads: {}", at::get_num_threads());
  if (heard.rfind("threads: ", 0) != 0) return 1;

  try {
    polyak::fail<polyak::ConfigError>("momentum is {}", at::ones({2}).sum().item<double>());
  } catch (const polyak::Error& error) {
    std::printf("polyak %s with LibTorch %s: %s\n", POLYAK_VERSION, POLYAK_LIBTORCH_VERSION,
                error.what());
    return std::string(error.what()) == "momentum is 2" ? 0 : 2;
  }
  return 3;
}
