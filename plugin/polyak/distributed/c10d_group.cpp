// SPDX-License-Identifier: Apache-2.0
#include "polyak/distributed/c10d_group.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "polyak/core/error.h"
#include "polyak/distributed/c10d.h"
#include "polyak/distributed/process_group.h"

namespace polyak {
namespace {

constexpr std::chrono::milliseconds kPause{50};

/// A contiguous tensor's memory: Gloo knows neither int16 nor bfloat16.
at::Tensor bytes_of(const at::Tensor& tensor) {
  return tensor.detach().view({-1}).view(at::kByte);
}

}  // namespace

void C10dGroup::guard(const char* what, const std::function<void()>& function) {
  try {
    function();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    // c10d and Gloo have no exceptions of their own for this in all versions of LibTorch.
    const std::string text = error.what();
    const auto has = [&](const char* part) { return text.find(part) != std::string::npos; };
    if (has("finished reduction in the prior iteration")) {
      fail<ProcessGroupError>(
          "rank {}: {}: some parameters got no gradient in the iteration before; set "
          "find_unused_parameters: true if that is intended",
          rank(), what);
    }
    const bool by_peer = has("gloo") || has("onnect") || has("imed out") || has("imeout") ||
                         has("ocket") || has("roken pipe");
    if (!by_peer) throw;
    fail<ProcessGroupError>("rank {}: {} failed: {} ({})", rank(), what, find_missing(),
                            first_line(error));
  }
}

C10dGroup::~C10dGroup() {
  if (!failed_ || !store_ || rank() != 0) return;
  // The meeting place goes with this process. Closing the connections lets the others fail too;
  // they look there for who is missing.
  const int64_t others = size();
  processes_.reset();
  try {
    const auto until = std::chrono::steady_clock::now() + kPatience;
    const auto has_asked = [&](int64_t other) {
      return std::count(missing_.begin(), missing_.end(), other) > 0 ||
             store_->check({fmt::format("asked/{}", other)});
    };
    for (int64_t other = 1; other < others; ++other) {
      while (!has_asked(other) && std::chrono::steady_clock::now() < until) {
        std::this_thread::sleep_for(kPause);
      }
    }
  } catch (const std::exception&) {
    // Nobody is there to tell.
  }
}

/// Every process that failed says so at the meeting place; who does not is what the others wait
/// for. Process 0 writes down what it found, as the place goes with it.
std::string C10dGroup::find_missing() {
  if (!store_) return "another process ended or cannot be reached";
  failed_ = true;
  try {
    store_->setTimeout(kPatience);
    store_->set(fmt::format("failed/{}", rank()), std::vector<uint8_t>{1});
    const auto until = std::chrono::steady_clock::now() + kPatience;
    do {
      std::this_thread::sleep_for(kPause);
      missing_.clear();
      for (int64_t other = 0; other < size(); ++other) {
        if (!store_->check({fmt::format("failed/{}", other)})) missing_.push_back(other);
      }
      if (rank() != 0 && store_->check({"found"})) break;
    } while (!missing_.empty() && std::chrono::steady_clock::now() < until);
    std::string found = missing_.empty() ? "the connection between two processes broke"
                                         : fmt::format("rank {} ended or does not answer",
                                                       fmt::join(missing_, ", rank "));
    if (rank() == 0) {
      store_->set("found", std::vector<uint8_t>(found.begin(), found.end()));
      return found;
    }
    if (store_->check({"found"})) {
      const std::vector<uint8_t> text = store_->get("found");
      found.assign(text.begin(), text.end());
    }
    store_->set(fmt::format("asked/{}", rank()), std::vector<uint8_t>{1});
    return found;
  } catch (const std::exception&) {
    return "rank 0, where the processes meet, ended or cannot be reached";
  }
}

std::shared_ptr<C10dGroup> C10dGroup::duplicate() const {
  return maker_ ? maker_(++duplicates_) : nullptr;
}

void C10dGroup::do_all_reduce(const at::Tensor& tensor, const char* what) {
  guard(what, [&] {
    std::vector<at::Tensor> tensors{tensor};
    processes_->allreduce(tensors)->wait();
  });
}

void C10dGroup::do_broadcast(const at::Tensor& tensor, int64_t root, const char* what) {
  guard(what, [&] {
    std::vector<at::Tensor> tensors{bytes_of(tensor)};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    processes_->broadcast(tensors, options)->wait();
  });
}

void C10dGroup::do_all_gather(const std::vector<at::Tensor>& all, const at::Tensor& tensor,
                              const char* what) {
  guard(what, [&] {
    std::vector<std::vector<at::Tensor>> outputs(1);
    for (const at::Tensor& item : all) outputs[0].push_back(bytes_of(item));
    std::vector<at::Tensor> inputs{bytes_of(tensor)};
    processes_->allgather(outputs, inputs)->wait();
  });
}

std::shared_ptr<ProcessGroup> duplicate(const ProcessGroup& processes) {
  const auto* group = dynamic_cast<const C10dGroup*>(&processes);
  std::shared_ptr<ProcessGroup> other = group ? group->duplicate() : nullptr;
  if (!other) fail<Error>("duplicate: only a group of join_processes() can be duplicated");
  return other;
}

std::shared_ptr<ProcessGroup> wrap_c10d(c10::intrusive_ptr<c10d::ProcessGroup> processes) {
  if (!processes) fail<Error>("wrap_c10d: the pointer is null");
  return std::make_shared<C10dGroup>(std::move(processes), c10::intrusive_ptr<c10d::Store>());
}

c10::intrusive_ptr<c10d::ProcessGroup> c10d_group(const ProcessGroup& processes) {
  const auto* group = dynamic_cast<const C10dGroup*>(&processes);
  return group ? group->c10d() : c10::intrusive_ptr<c10d::ProcessGroup>();
}

}  // namespace polyak
