#pragma once

#include <memory>
#include <utility>

#include "polyak/core/export.h"

namespace polyak {

/// How averaged weights get into the model.
enum class SwapMode {
  exchange,  // by pointers, at once whatever the size: the tensors' addresses change meanwhile
  copy,      // by values: addresses stay, as a captured CUDA graph or a cached pointer needs it;
             // takes memory for the raw weights
};

/// Averaged weights are in the model until this object goes, whatever is thrown meanwhile. Movable.
class POLYAK_API SwapGuard {
 public:
  SwapGuard() = default;  // guards nothing
  SwapGuard(SwapGuard&&) noexcept = default;
  SwapGuard& operator=(SwapGuard&& other) noexcept;
  ~SwapGuard();
  /// Puts the raw weights back now.
  void release() noexcept;

 private:
  friend class AveragedModel;
  struct State;
  explicit SwapGuard(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

}  // namespace polyak
