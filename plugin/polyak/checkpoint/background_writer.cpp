// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/background_writer.h"

#include <atomic>
#include <exception>
#include <system_error>
#include <utility>

#include "polyak/checkpoint/snapshot.h"

namespace polyak {

struct BackgroundWriter::State {
  Value value;
  std::exception_ptr error;
  std::atomic<bool> done{false};
};

BackgroundWriter::~BackgroundWriter() {
  if (thread_.joinable()) thread_.join();
}

void BackgroundWriter::start(const Value& value, std::function<void(const Value&)> write) {
  state_ = std::make_shared<State>();
  state_->value = snapshot(value);
  const auto run = [state = state_, write = std::move(write)] {
    try {
      write(state->value);
    } catch (...) {
      state->error = std::current_exception();
    }
    state->value = Value();  // its memory is not needed any more
    state->done = true;
  };
  try {
    thread_ = std::thread(run);
  } catch (const std::system_error&) {  // the process may have no more threads
    run();
  }
}

bool BackgroundWriter::done() const {
  return !state_ || state_->done;
}

void BackgroundWriter::finish() {
  if (thread_.joinable()) thread_.join();
  const std::shared_ptr<State> state = std::exchange(state_, nullptr);
  if (state && state->error) std::rethrow_exception(state->error);
}

}  // namespace polyak
