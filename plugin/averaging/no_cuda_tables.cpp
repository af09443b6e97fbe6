#include "polyak/averaging/device_tables.h"

// A build without our CUDA kernel: LibTorch's operations average on GPUs.
namespace polyak {

bool DeviceTables::has_kernel(c10::Device /*device*/) {
  return false;
}
void DeviceTables::build() {}
bool DeviceTables::is_capturing() {
  return false;
}
void DeviceTables::set_weight(double /*weight*/) const {}
void DeviceTables::lerp() const {}

}  // namespace polyak
