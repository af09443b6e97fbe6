// SPDX-License-Identifier: Apache-2.0
#include "polyak/kernels/lerp_cuda.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "polyak/kernels/lerp_cuda_loops.h"

namespace polyak::kernels {
namespace {

// Four blocks on a multiprocessor leave 64 registers per thread and keep 128 KB of loads in flight:
// more than memory bandwidth times latency.
__global__ void __launch_bounds__(kCudaThreads, 4) lerp_pieces(const CudaLaunch launch) {
  lerp_thread(launch, blockIdx.x, threadIdx.x);
}

/// Turns are passed as launch arguments, which are read at the call: a copy would read the caller's
/// memory later.
struct Turns {
  static constexpr size_t kMost = 32;
  CudaTurn at[kMost];
};

__global__ void store(CudaTurn* where, const Turns turns, uint32_t count) {
  if (threadIdx.x < count) where[threadIdx.x] = turns.at[threadIdx.x];
}

void check(cudaError_t error, const char* what, int device) {
  if (error != cudaSuccess) fail_on_cuda(what, device, cudaGetErrorString(error));
}

/// Makes a device current for the lifetime of this object.
class OnDevice {
 public:
  explicit OnDevice(int device) : error_(cudaGetDevice(&before_)) {
    if (error_ != cudaSuccess || before_ == device) return;
    error_ = cudaSetDevice(device);
    changed_ = error_ == cudaSuccess;
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  cudaError_t error() const { return error_; }

 private:
  int before_ = 0;
  bool changed_ = false;
  cudaError_t error_;
};

/// Allows this thread to allocate and free memory while any stream captures a graph.
class BesideCaptures {
 public:
  BesideCaptures() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~BesideCaptures() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  BesideCaptures(const BesideCaptures&) = delete;
  BesideCaptures& operator=(const BesideCaptures&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

struct FreeOnDevice {
  int device;
  void operator()(void* memory) const {
    // Errors are ignored: at program exit the driver may be unloaded before us.
    const OnDevice scope(device);
    const BesideCaptures beside;
    cudaFree(memory);  // waits for kernels that read it
  }
};

/// Copies in a new stream, which is not part of a capture of the caller.
cudaError_t upload(void* to, const void* from, size_t bytes) {
  cudaStream_t stream = nullptr;
  cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error != cudaSuccess) return error;
  error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream);
  const cudaError_t waited = cudaStreamSynchronize(stream);
  cudaStreamDestroy(stream);
  return error != cudaSuccess ? error : waited;
}

}  // namespace

struct CudaTable::State {
  int device;
  CudaLaunch launch{};
  uint32_t blocks;
  std::unique_ptr<void, FreeOnDevice> memory;  // the rows' turns, then the pieces

  CudaTurn* turns() const { return static_cast<CudaTurn*>(memory.get()); }

  State(const std::vector<CudaRow>& rows, int on) : device(on), memory(nullptr, {on}) {
    const CudaPieces pieces = split_for_cuda(rows);
    launch.rows = static_cast<uint32_t>(pieces.rows);
    launch.columns = static_cast<uint32_t>(pieces.columns);
    launch.for_blocks = static_cast<uint32_t>(pieces.for_blocks);
    launch.copies_from = static_cast<uint32_t>(pieces.copies_from);
    blocks = static_cast<uint32_t>(pieces.blocks());

    const OnDevice scope(device);
    check(scope.error(), "use the device", device);
    const BesideCaptures beside;
    // Loads the code now, since the first launch may be inside a capture.
    cudaFuncAttributes unused;
    check(cudaFuncGetAttributes(&unused, lerp_pieces), "load the averaging kernel", device);
    check(cudaFuncGetAttributes(&unused, store), "load the averaging kernel", device);

    // The turns take up whole pieces, so that the pieces after them are aligned.
    const size_t places =
        (pieces.rows * sizeof(CudaTurn) + sizeof(CudaPiece) - 1) / sizeof(CudaPiece);
    std::vector<CudaPiece> content(places);  // zeros: turns that do nothing
    content.insert(content.end(), pieces.all.begin(), pieces.all.end());
    const size_t bytes = content.size() * sizeof(CudaPiece);
    if (bytes == 0) return;
    void* allocated = nullptr;
    check(cudaMalloc(&allocated, bytes), "allocate the averaging table", device);
    memory.reset(allocated);
    check(upload(allocated, content.data(), bytes), "upload the averaging table", device);
    launch.pieces = static_cast<const CudaPiece*>(allocated) + places;
    launch.turns = turns();
  }
};

CudaTable::CudaTable(const std::vector<CudaRow>& rows, int device)
    : state_(std::make_unique<State>(rows, device)) {}
CudaTable::~CudaTable() = default;
CudaTable::CudaTable(CudaTable&&) noexcept = default;
CudaTable& CudaTable::operator=(CudaTable&&) noexcept = default;

int CudaTable::device() const {
  return state_->device;
}

void CudaTable::set_turns(size_t first_row, const CudaTurn* turns, size_t count, void* stream) {
  const OnDevice scope(state_->device);
  check(scope.error(), "use the device", state_->device);
  if (first_row + count > state_->launch.rows) {
    fail_on_cuda("set the turns", state_->device, "the table has fewer rows");
  }
  for (size_t done = 0; done < count; done += Turns::kMost) {
    CudaTurn* where = state_->turns() + first_row + done;
    Turns batch;
    auto size = static_cast<uint32_t>(std::min(count - done, Turns::kMost));
    std::copy_n(turns + done, size, batch.at);
    void* arguments[] = {&where, &batch, &size};
    check(cudaLaunchKernel(store, dim3(1), dim3(uint32_t(Turns::kMost)), arguments, 0,
                           static_cast<cudaStream_t>(stream)),
          "set the averaging weights", state_->device);
  }
}

void CudaTable::update(void* stream) const {
  if (state_->blocks == 0) return;
  const OnDevice scope(state_->device);
  check(scope.error(), "use the device", state_->device);
  void* arguments[] = {&state_->launch};
  check(cudaLaunchKernel(lerp_pieces, dim3(state_->blocks), dim3(uint32_t(kCudaThreads)), arguments,
                         0, static_cast<cudaStream_t>(stream)),
        "launch the averaging kernel", state_->device);
}

}  // namespace polyak::kernels
