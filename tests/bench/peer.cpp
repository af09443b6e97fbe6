// SPDX-License-Identifier: Apache-2.0
// Our average for Python's ctypes: peers.py loads this beside Python's torch, so that ours and
// Python's ways share one LibTorch, its threads and the model's memory. ctypes knows no exceptions:
// one ends the process and says why.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "bench/shapes.h"
#include "polyak/averaging/averages.h"
#include "polyak/core/export.h"
#include "polyak/kernels/lerp.h"

using polyak::ExponentialMovingAverage;
using polyak::ExponentialMovingAverageOptions;
using polyak::bench::Parameters;

struct Peer {
  Peer(std::shared_ptr<Parameters> of, double momentum)
      : model(std::move(of)), ema(model, ExponentialMovingAverageOptions().momentum(momentum)) {}
  std::shared_ptr<Parameters> model;
  ExponentialMovingAverage ema;
  std::vector<float*> averages;
};

extern "C" {

POLYAK_API const char* polyak_peer_instruction_set() noexcept {
  return polyak::kernels::chosen_variant().name;
}

/// Of LibTorch's pool: shows that it is the same as Python's.
POLYAK_API int polyak_peer_threads() noexcept {
  return at::get_num_threads();
}

/// "64,3,7,7;64;64;..."; valid until the next call.
POLYAK_API const char* polyak_peer_shapes(const char* name, int64_t shrink) noexcept {
  static std::string text;
  text.clear();
  for (const auto& shape : polyak::bench::shapes_of(name, shrink)) {
    text += fmt::format("{}{}", text.empty() ? "" : ";", fmt::join(shape, ","));
  }
  return text.c_str();
}

/// An average over tensors that the caller owns and keeps; it has copied them already.
POLYAK_API Peer* polyak_peer_create(int64_t count, void* const* data, const int64_t* sizes,
                                    bool bfloat16, double momentum) noexcept {
  std::vector<at::Tensor> tensors;
  for (int64_t i = 0; i < count; ++i) {
    tensors.push_back(at::from_blob(data[i], {sizes[i]}, bfloat16 ? at::kBFloat16 : at::kFloat));
  }
  auto peer = std::make_unique<Peer>(std::make_shared<Parameters>(tensors), momentum);
  peer->ema.update_parameters(peer->model);
  for (const auto& item : peer->ema.named_averages()) {
    peer->averages.push_back(item.value().data_ptr<float>());
  }
  return peer.release();
}

POLYAK_API void polyak_peer_update(Peer* peer) noexcept {
  peer->ema.update_parameters(peer->model);
}

/// The float32 values of average i.
POLYAK_API float* polyak_peer_average(Peer* peer, int64_t i) noexcept {
  return peer->averages.at(size_t(i));
}

POLYAK_API void polyak_peer_destroy(Peer* peer) noexcept {
  delete peer;
}

}  // extern "C"
