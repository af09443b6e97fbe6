// Our average for Python's ctypes: peers.py loads this beside Python's torch, so that ours and
// Python's ways share one LibTorch, its threads and the model's memory.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <exception>

#include "bench/shapes.h"
#include "polyak/averaging/exponential_moving_average.h"
#include "polyak/core/export.h"
#include "polyak/kernels/lerp.h"

namespace {

using polyak::ExponentialMovingAverage;
using polyak::ExponentialMovingAverageOptions;
using polyak::bench::Parameters;

struct Peer {
  std::shared_ptr<Parameters> model;
  std::unique_ptr<ExponentialMovingAverage> ema;
  std::vector<float*> averages;
};

thread_local std::string last_error;

/// ctypes knows no exceptions: what `work` gives, or `failed` and a text for polyak_peer_error().
template <class Result, class Work>
Result guarded(Result failed, Work work) {
  try {
    return work();
  } catch (const std::exception& error) {
    last_error = error.what();
    return failed;
  }
}

}  // namespace

extern "C" {

POLYAK_API const char* polyak_peer_error() {
  return last_error.c_str();
}

POLYAK_API const char* polyak_peer_instruction_set() {
  return polyak::kernels::chosen_path().name;
}

/// Of LibTorch's pool: shows that it is the same as Python's.
POLYAK_API int polyak_peer_threads() {
  return at::get_num_threads();
}

/// "64,3,7,7;64;64;..." or null; valid until the next call.
POLYAK_API const char* polyak_peer_shapes(const char* name, int64_t shrink) {
  static std::string text;
  return guarded<const char*>(nullptr, [&] {
    text.clear();
    for (const auto& shape : polyak::bench::shapes_of(name, shrink)) {
      if (!text.empty()) text += ';';
      text += fmt::format("{}", fmt::join(shape, ","));
    }
    return text.c_str();
  });
}

/// An average over tensors that the caller owns and keeps; it has copied them already.
POLYAK_API void* polyak_peer_create(int64_t count, void* const* data, const int64_t* sizes,
                                    int bfloat16, double momentum) {
  return guarded<void*>(nullptr, [&] {
    std::vector<at::Tensor> tensors;
    for (int64_t i = 0; i < count; ++i) {
      tensors.push_back(at::from_blob(data[i], {sizes[i]}, bfloat16 ? at::kBFloat16 : at::kFloat));
    }
    auto peer = std::make_unique<Peer>();
    peer->model = std::make_shared<Parameters>(tensors);
    peer->ema = std::make_unique<ExponentialMovingAverage>(
        peer->model, ExponentialMovingAverageOptions().momentum(momentum));
    peer->ema->update_parameters(peer->model);
    for (const auto& item : peer->ema->named_averages()) {
      peer->averages.push_back(item.value().data_ptr<float>());
    }
    return peer.release();
  });
}

POLYAK_API int polyak_peer_update(void* peer) {
  return guarded(-1, [&] {
    auto* self = static_cast<Peer*>(peer);
    self->ema->update_parameters(self->model);
    return 0;
  });
}

/// The float32 values of average i.
POLYAK_API float* polyak_peer_average(void* peer, int64_t i) {
  return static_cast<Peer*>(peer)->averages.at(size_t(i));
}

POLYAK_API void polyak_peer_destroy(void* peer) {
  delete static_cast<Peer*>(peer);
}

}  // extern "C"
