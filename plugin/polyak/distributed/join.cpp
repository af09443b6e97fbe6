// SPDX-License-Identifier: Apache-2.0
#include <arpa/inet.h>
#include <fmt/ranges.h>
#include <netdb.h>
#include <sys/socket.h>
#include <torch/version.h>
#include <unistd.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>
#include <type_traits>

#include "polyak/core/error.h"
#include "polyak/distributed/c10d_group.h"
#include "polyak/distributed/process_group.h"

namespace polyak {
namespace {

namespace fs = std::filesystem;
using Milliseconds = std::chrono::milliseconds;

/// The part of the time-out in which a process waits for others. In the rest, it finds out and says
/// who is missing, and ends.
Milliseconds waiting_part(Milliseconds timeout) {
  return std::max(timeout - 2 * kPatience - Milliseconds(1000), timeout / 2);
}

/// The address of this machine from which it reaches another, "" if unknown. Gloo would take the
/// address of the host's own name, which need not be one that the others reach.
std::string own_address_towards(const std::string& address) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(address.c_str(), "9", &hints, &found) != 0) return "";
  std::string own;
  for (const addrinfo* item = found; item && own.empty(); item = item->ai_next) {
    // Connecting a datagram socket sends nothing; it only chooses the way.
    const int socket = ::socket(item->ai_family, item->ai_socktype, item->ai_protocol);
    if (socket < 0) continue;
    sockaddr_storage name{};
    socklen_t length = sizeof(name);
    auto* const generic = reinterpret_cast<sockaddr*>(&name);
    char text[NI_MAXHOST] = "";
    if (connect(socket, item->ai_addr, item->ai_addrlen) == 0 &&
        getsockname(socket, generic, &length) == 0 &&
        getnameinfo(generic, length, text, sizeof(text), nullptr, 0, NI_NUMERICHOST) == 0) {
      own = text;
    }
    close(socket);
  }
  freeaddrinfo(found);
  return own;
}

std::string number_after(const std::string& text, const std::string& mark) {
  const size_t at = text.find(mark);
  if (at == std::string::npos) return "";
  const size_t begin = text.find_first_of("0123456789", at + mark.size());
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_first_not_of("0123456789.", begin) - begin);
}

/// The version of PyTorch that torchrun, which started this process, uses; "" if unknown.
std::string torchrun_version() {
  std::ifstream maps(fmt::format("/proc/{}/maps", getppid()));
  for (std::string line; std::getline(maps, line);) {
    const size_t path = line.find('/');
    if (path == std::string::npos || line.find("/libtorch_cpu.so") == std::string::npos) continue;
    const fs::path library = line.substr(path);
    std::ifstream file(library.parent_path().parent_path() / "version.py");
    for (std::string text; std::getline(file, text);) {
      if (text.rfind("__version__", 0) == 0) return number_after(text, "=");
    }
  }
  return "";
}

void check_torchrun(const Placement& place) {
  if (!place.has_server) return;
  const std::string version = torchrun_version();
  if (version.empty() || version == number_after(TORCH_VERSION, "")) return;
  fail<ConfigError>(
      "launcher: this torchrun is of PyTorch {}, and Polyak was built with LibTorch {}; processes "
      "of "
      "both cannot talk to each other. Use the torchrun of PyTorch {}",
      version, TORCH_VERSION, TORCH_VERSION);
}

std::string meeting_place(const Placement& place) {
  return fmt::format("{}:{}", place.address, place.port);
}

c10::intrusive_ptr<c10d::Store> open_store(const Placement& place, Milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(place.port);
  options.isServer = place.rank == 0 && !place.has_server;
  options.waitWorkers = false;
  options.timeout = waiting_part(timeout);
  c10::intrusive_ptr<c10d::Store> store;
  try {
    store = c10::make_intrusive<c10d::TCPStore>(place.address, options);
  } catch (const std::exception& error) {
    const std::string text = error.what();
    if (text.find("EADDRINUSE") != std::string::npos ||
        text.find("already in use") != std::string::npos) {
      fail<ProcessGroupError>(
          "rank 0 cannot listen on port {}: another program uses it; set the environment variable "
          "MASTER_PORT to a free one for all processes",
          place.port);
    }
    fail<ProcessGroupError>(
        "rank {} cannot reach process 0 at {} within {:g} s; is it running, and are MASTER_ADDR "
        "and "
        "MASTER_PORT the same for all processes? ({})",
        place.rank, meeting_place(place), 1e-3 * static_cast<double>(timeout.count()),
        first_line(error));
  }
  return c10::make_intrusive<c10d::PrefixStore>(place.prefix + "/polyak", store);
}

/// Returns when all processes have come.
void wait_for_all(c10d::Store& store, const Placement& place, Milliseconds timeout) {
  const auto key = [](int64_t rank) { return fmt::format("here/{}", rank); };
  std::vector<std::string> keys;
  for (int64_t rank = 0; rank < place.size; ++rank) keys.push_back(key(rank));
  try {
    if (store.add(key(place.rank), 1) > 1) {
      fail<ProcessGroupError>(
          "two processes with rank {} came to {}: each needs a rank of its own, and a run that has "
          "ended must be gone before the next one uses the same port",
          place.rank, meeting_place(place));
    }
    store.wait(keys, waiting_part(timeout));
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    std::vector<int64_t> missing;
    try {
      for (int64_t rank = 0; rank < place.size; ++rank) {
        if (!store.check({key(rank)})) missing.push_back(rank);
      }
    } catch (const std::exception&) {
      missing = {0};
    }
    // The others look at the meeting place too, and it goes with this process.
    if (place.rank == 0) std::this_thread::sleep_for(kPatience);
    fail<ProcessGroupError>("rank {} of {} did not come to {} within {:g} s{}",
                            fmt::join(missing, ", rank "), place.size, meeting_place(place),
                            1e-3 * static_cast<double>(timeout.count()),
                            missing.empty() ? fmt::format(" ({})", first_line(error)) : "");
  }
}

/// LibTorch 2 has groups of several backends, where 1.13's ProcessGroupGloo is itself the group.
template <class Gloo>
c10::intrusive_ptr<c10d::ProcessGroup> group_of(const c10::intrusive_ptr<Gloo>& gloo,
                                                const Placement& place) {
  if constexpr (std::is_base_of_v<c10d::ProcessGroup, Gloo>) {
    return gloo;
  } else {
    using Group = std::conditional_t<true, c10d::ProcessGroup, Gloo>;
    auto group =
        c10::make_intrusive<Group>(static_cast<int>(place.rank), static_cast<int>(place.size));
    group->setBackend(c10::kCPU, Group::BackendType::GLOO, gloo);
    group->setDefaultBackend(Group::BackendType::GLOO);
    return group;
  }
}

/// Connects processes that have all come.
/// @param names where they exchange addresses
/// @param store where they tell each other of failures
std::shared_ptr<C10dGroup> connect_all(const c10::intrusive_ptr<c10d::Store>& names,
                                       const c10::intrusive_ptr<c10d::Store>& store,
                                       const Placement& place, Milliseconds timeout) {
  auto options = c10d::ProcessGroupGloo::Options::create(waiting_part(timeout));
  try {
    const char* const interface = std::getenv("GLOO_SOCKET_IFNAME");
    const std::string own = own_address_towards(place.address);
    options->devices.push_back(
        interface && *interface ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
        : own.empty()           ? c10d::ProcessGroupGloo::createDefaultDevice()
                                : c10d::ProcessGroupGloo::createDeviceForHostname(own));
    auto gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(names, static_cast<int>(place.rank),
                                                            static_cast<int>(place.size), options);
    return std::make_shared<C10dGroup>(group_of(gloo, place), store);
  } catch (const std::exception& error) {
    fail<ProcessGroupError>(
        "rank {} cannot connect to the other processes ({}); a firewall must let them use any "
        "port, and GLOO_SOCKET_IFNAME names the network interface if there are several",
        place.rank, first_line(error));
  }
}

}  // namespace

std::string why_not_distributed() {
  return "";
}

std::shared_ptr<ProcessGroup> join_processes(const Placement& place, Milliseconds timeout) {
  check_torchrun(place);
  const c10::intrusive_ptr<c10d::Store> store = open_store(place, timeout);
  wait_for_all(*store, place, timeout);
  auto group = connect_all(store, store, place, timeout);
  group->set_maker([store, place, timeout](int64_t number) {
    const auto names =
        c10::make_intrusive<c10d::PrefixStore>(fmt::format("group {}", number), store);
    return connect_all(names, store, place, timeout);
  });
  return group;
}

}  // namespace polyak
