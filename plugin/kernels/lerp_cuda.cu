#include "polyak/kernels/lerp_cuda.h"

#include <cuda_runtime.h>

#include "polyak/kernels/lerp_cuda_loops.h"

namespace polyak::kernels {
namespace {

// Four blocks on a multiprocessor leave 64 registers a thread, and then 128 KB are on their way to
// it at any time: more than memory's speed times its delay.
__global__ void __launch_bounds__(kCudaThreads, 4)
    lerp_pieces(const CudaPiece* __restrict__ pieces, uint32_t count, uint32_t for_blocks,
                const double* __restrict__ weight) {
  lerp_thread(pieces, count, for_blocks, weight, blockIdx.x, threadIdx.x);
}

__global__ void store(double* where, double value) {
  *where = value;
}

void check(cudaError_t error, const char* what, int device) {
  if (error != cudaSuccess) fail_on_cuda(what, device, cudaGetErrorString(error));
}

/// Makes a device the current one for as long as this object lives.
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

/// Lets this thread allocate and free while another stream, of any thread, captures a graph.
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
    // Errors mean nothing here: at the program's end the driver may be gone before us.
    const OnDevice scope(device);
    const BesideCaptures beside;
    cudaFree(memory);  // waits for kernels that read it
  }
};

/// Copies through a stream of its own, which no capture of the caller's can be waiting for.
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
  uint32_t count;
  uint32_t for_blocks;
  uint32_t blocks;
  std::unique_ptr<void, FreeOnDevice> memory;  // the weight, in a piece's place, and the pieces

  double* weight() const { return static_cast<double*>(memory.get()); }
  CudaPiece* pieces() const { return static_cast<CudaPiece*>(memory.get()) + 1; }

  State(const std::vector<Span>& spans, int on) : device(on), memory(nullptr, {on}) {
    CudaPieces cut = cut_for_cuda(spans);
    count = static_cast<uint32_t>(cut.all.size());
    for_blocks = static_cast<uint32_t>(cut.for_blocks);
    blocks = static_cast<uint32_t>(cut.blocks());

    const OnDevice scope(device);
    check(scope.error(), "use the device", device);
    const BesideCaptures beside;
    // Loads the code now, since the first launch may be within a capture.
    cudaFuncAttributes unused;
    check(cudaFuncGetAttributes(&unused, lerp_pieces), "load the averaging kernel", device);
    check(cudaFuncGetAttributes(&unused, store), "load the averaging kernel", device);

    cut.all.insert(cut.all.begin(), CudaPiece{});  // zeros: a weight of 0
    const size_t bytes = cut.all.size() * sizeof(CudaPiece);
    void* allocated = nullptr;
    check(cudaMalloc(&allocated, bytes), "allocate the table of what to average", device);
    memory.reset(allocated);
    check(upload(allocated, cut.all.data(), bytes), "upload the table of what to average", device);
  }
};

CudaTable::CudaTable(const std::vector<Span>& spans, int device)
    : state_(std::make_unique<State>(spans, device)) {}
CudaTable::~CudaTable() = default;
CudaTable::CudaTable(CudaTable&&) noexcept = default;
CudaTable& CudaTable::operator=(CudaTable&&) noexcept = default;

int CudaTable::device() const {
  return state_->device;
}

void CudaTable::set_weight(double weight, void* stream) {
  const OnDevice scope(state_->device);
  check(scope.error(), "use the device", state_->device);
  // By a kernel, whose arguments are taken at the launch: a copy would read this variable later.
  double* where = state_->weight();
  void* arguments[] = {&where, &weight};
  check(cudaLaunchKernel(store, dim3(1), dim3(1), arguments, 0, static_cast<cudaStream_t>(stream)),
        "set the averaging weight", state_->device);
}

void CudaTable::lerp(void* stream) const {
  if (state_->count == 0) return;
  const OnDevice scope(state_->device);
  check(scope.error(), "use the device", state_->device);
  const CudaPiece* pieces = state_->pieces();
  const double* weight = state_->weight();
  void* arguments[] = {&pieces, &state_->count, &state_->for_blocks, &weight};
  check(cudaLaunchKernel(lerp_pieces, dim3(state_->blocks), dim3(uint32_t(kCudaThreads)), arguments,
                         0, static_cast<cudaStream_t>(stream)),
        "launch the averaging kernel", state_->device);
}

}  // namespace polyak::kernels
