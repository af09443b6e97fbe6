// SPDX-License-Identifier: Apache-2.0
#include "polyak/distributed/placement.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "polyak/core/error.h"

namespace polyak {
namespace {

constexpr int64_t kDefaultPort = 29500;
constexpr int64_t kMostProcesses = 1 << 20;

struct Variables {
  std::vector<const char*> rank, local_rank, size;  // the first one that is set counts
  const char* starter;                              // for messages
};

const Variables& variables_of(Launcher launcher) {
  static const Variables pytorch{
      {"RANK"}, {"LOCAL_RANK"}, {"WORLD_SIZE"}, "torchrun, or the script that starts each process"};
  static const Variables mpi{{"OMPI_COMM_WORLD_RANK", "PMI_RANK"},
                             {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"},
                             {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"},
                             "mpirun"};
  static const Variables slurm{
      {"SLURM_PROCID"}, {"SLURM_LOCALID"}, {"SLURM_NTASKS", "SLURM_NPROCS"}, "srun"};
  return launcher == Launcher::mpi ? mpi : launcher == Launcher::slurm ? slurm : pytorch;
}

std::string text_of(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

const char* first_set(const std::vector<const char*>& names) {
  for (const char* name : names) {
    if (!text_of(name).empty()) return name;
  }
  return nullptr;
}

int64_t number_of(const char* name, int64_t least, int64_t most) {
  const std::string text = text_of(name);
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < least || number > most) {
    fail<ConfigError>("the environment variable {} must be an integer from {} to {}, not '{}'",
                      name, least, most, text);
  }
  return number;
}

int64_t required(Launcher launcher, const std::vector<const char*>& names, int64_t least,
                 int64_t most) {
  const char* name = first_set(names);
  if (name) return number_of(name, least, most);
  fail<ConfigError>(
      "launcher: {} needs the environment variable {}, which {} sets; start the processes by it, "
      "or "
      "leave the launcher out for one process",
      launcher_name(launcher), fmt::join(names, " or "), variables_of(launcher).starter);
}

}  // namespace

const std::vector<std::string>& launcher_names() {
  static const std::vector<std::string> names{"none", "pytorch", "mpi", "slurm"};
  return names;
}

const char* launcher_name(Launcher launcher) {
  return launcher_names()[static_cast<size_t>(launcher)].c_str();
}

Launcher launcher_of(const std::string& name) {
  const auto& names = launcher_names();
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) {
    fail<ConfigError>("launcher: must be one of {}; got '{}'", fmt::join(names, ", "), name);
  }
  return static_cast<Launcher>(found - names.begin());
}

Placement find_placement(Launcher launcher) {
  Placement place;
  if (launcher == Launcher::none) return place;
  const Variables& variables = variables_of(launcher);
  place.size = required(launcher, variables.size, 1, kMostProcesses);
  place.rank = required(launcher, variables.rank, 0, place.size - 1);
  if (const char* local = first_set(variables.local_rank)) {
    place.local_rank = number_of(local, 0, place.size - 1);
  } else {
    place.local_rank = place.rank;
  }

  place.address = text_of("MASTER_ADDR");
  const bool has_port = !text_of("MASTER_PORT").empty();
  place.port = has_port ? number_of("MASTER_PORT", 1, 65535) : kDefaultPort;
  if (place.address.empty() || (launcher == Launcher::pytorch && !has_port)) {
    const std::string nodes = text_of("SLURM_NNODES");
    const std::string on_node = text_of("OMPI_COMM_WORLD_LOCAL_SIZE");
    const bool one_machine = launcher == Launcher::slurm ? nodes.empty() || nodes == "1"
                             : launcher == Launcher::mpi
                                 ? on_node.empty() || on_node == std::to_string(place.size)
                                 : false;
    if (!one_machine && place.size > 1) {
      fail<ConfigError>(
          "launcher: {} needs the environment variables MASTER_ADDR, the name or address of the "
          "machine of process 0, and MASTER_PORT, a free port there; {} not set",
          launcher_name(launcher),
          place.address.empty() && !has_port ? "both are"
          : place.address.empty()            ? "MASTER_ADDR is"
                                             : "MASTER_PORT is");
    }
    if (place.address.empty()) place.address = "127.0.0.1";
  }
  if (launcher == Launcher::pytorch && text_of("TORCHELASTIC_USE_AGENT_STORE") == "True") {
    place.has_server = true;
    const std::string attempt = text_of("TORCHELASTIC_RESTART_COUNT");
    place.prefix = fmt::format("/worker/attempt_{}", attempt.empty() ? "0" : attempt);
  }
  return place;
}

int64_t rank_in_environment() {
  for (const Launcher launcher : {Launcher::pytorch, Launcher::mpi, Launcher::slurm}) {
    const Variables& variables = variables_of(launcher);
    const char* rank = first_set(variables.rank);
    // SLURM_PROCID is also set in a job's script, where nothing was started by srun.
    if (!rank || !first_set(variables.size)) continue;
    int32_t number = 0;  // a program may have variables of these names for something else
    const std::string text = text_of(rank);
    std::from_chars(text.data(), text.data() + text.size(), number);
    return std::max(number, 0);
  }
  return 0;
}

}  // namespace polyak
