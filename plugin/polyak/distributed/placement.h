// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "polyak/core/export.h"

namespace polyak {

/// What started the processes of a run, and so how each of them finds its rank: MMEngine's names.
enum class Launcher {
  none,     // one process
  pytorch,  // torchrun, or by hand: RANK, LOCAL_RANK, WORLD_SIZE
  mpi,      // Open MPI's mpirun (OMPI_COMM_WORLD_*), or MPICH's and Intel's (PMI_*)
  slurm,    // srun: SLURM_PROCID, SLURM_LOCALID, SLURM_NTASKS
};

POLYAK_API const std::vector<std::string>& launcher_names();
POLYAK_API const char* launcher_name(Launcher launcher);
/// @throws ConfigError for another name
POLYAK_API Launcher launcher_of(const std::string& name);

/// The place of this process among those of a run.
struct Placement {
  int64_t rank = 0;         // from 0
  int64_t local_rank = 0;   // among those of this machine
  int64_t size = 1;         // of all of them
  std::string address;      // where process 0 listens: a name or an address
  int64_t port = 0;         // of that
  bool has_server = false;  // torchrun listens there itself, so process 0 does not
  std::string prefix;       // of the keys there: the attempt, when torchrun has restarted the run
};

/// Reads the environment. Without MASTER_ADDR and MASTER_PORT, processes of mpi and slurm meet on
/// 127.0.0.1:29500 if all of them are on this machine.
/// @throws ConfigError naming the variable that is missing or wrong, and what sets it
POLYAK_API Placement find_placement(Launcher launcher);

/// The rank that a launcher gave this process, by whatever it is; 0 without any. For programs that
/// do not say what starts them.
POLYAK_API int64_t rank_in_environment();

}  // namespace polyak
