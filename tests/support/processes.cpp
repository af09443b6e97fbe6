// SPDX-License-Identifier: Apache-2.0
#include "support/processes.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "polyak/distributed/placement.h"
#include "polyak/distributed/process_group.h"

extern char** environ;

namespace polyak::testing {
namespace {

constexpr const char* kWorker = "POLYAK_TEST_WORKER";
constexpr const char* kTimeout = "POLYAK_TEST_TIMEOUT_MS";

pid_t start(const std::string& output, const Environment& environment) {
  std::vector<std::string> texts;
  for (char** item = environ; *item; ++item) {
    const std::string text = *item;
    if (!environment.count(text.substr(0, text.find('=')))) texts.push_back(text);
  }
  for (const auto& [name, value] : environment) texts.push_back(name + "=" + value);
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  const std::string program = std::filesystem::read_symlink("/proc/self/exe");
  char* arguments[] = {const_cast<char*>(program.c_str()), nullptr};
  const int file = open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  const pid_t child = fork();
  if (child != 0) {
    close(file);
    return child;
  }
  dup2(file, STDOUT_FILENO);
  dup2(file, STDERR_FILENO);
  execve(program.c_str(), arguments, pointers.data());
  _exit(127);
}

}  // namespace

std::map<std::string, Worker>& workers() {
  static std::map<std::string, Worker> all;
  return all;
}

void require(bool condition, const char* what) {
  if (!condition) fail<Error>("not so: {}", what);
}

int run_worker() {
  const char* const name = std::getenv(kWorker);
  if (!name) return -1;
  try {
    const char* const timeout = std::getenv(kTimeout);
    const auto processes =
        join_processes(find_placement(Launcher::pytorch),
                       std::chrono::milliseconds(timeout ? atoi(timeout) : 60000));
    workers().at(name)(processes);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

TakenPort::TakenPort() : socket_(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in6 name{};
  name.sin6_family = AF_INET6;
  socklen_t length = sizeof(name);
  auto* const generic = reinterpret_cast<sockaddr*>(&name);
  if (bind(socket_, generic, length) != 0 || listen(socket_, 1) != 0 ||
      getsockname(socket_, generic, &length) != 0) {
    throw std::runtime_error("no free port");
  }
  number_ = ntohs(name.sin6_port);
}

TakenPort::~TakenPort() {
  close(socket_);
}

std::vector<Ended> run_processes(int64_t size, const std::string& worker,
                                 const Environment& environment, std::vector<int64_t> ranks) {
  Environment all{{kWorker, worker},
                  {"WORLD_SIZE", std::to_string(size)},
                  {"MASTER_ADDR", "127.0.0.1"},
                  {"MASTER_PORT", std::to_string(free_port())},
                  {"OMP_NUM_THREADS", "1"}};
  for (const auto& [name, value] : environment) all[name] = value;
  if (ranks.empty()) {
    for (int64_t rank = 0; rank < size; ++rank) ranks.push_back(rank);
  }
  std::string folder = std::filesystem::temp_directory_path() / "polyak_processes_XXXXXX";
  if (!mkdtemp(folder.data())) throw std::runtime_error("no folder for outputs");
  struct Started {
    pid_t process;
    std::string output;
  };
  const auto begin = std::chrono::steady_clock::now();
  std::vector<Started> started;
  for (const int64_t rank : ranks) {
    all["RANK"] = all["LOCAL_RANK"] = std::to_string(rank);
    const std::string output = folder + "/" + std::to_string(started.size());
    started.push_back({start(output, all), output});
  }
  std::vector<Ended> ended;
  for (const Started& item : started) {
    int status = 0;
    waitpid(item.process, &status, 0);
    std::ostringstream text;
    text << std::ifstream(item.output).rdbuf();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
    ended.push_back({WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), text.str(),
                     time.count()});
  }
  std::filesystem::remove_all(folder);
  return ended;
}

}  // namespace polyak::testing
