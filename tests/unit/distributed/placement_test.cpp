// SPDX-License-Identifier: Apache-2.0
#include "polyak/distributed/placement.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "polyak/core/error.h"

namespace polyak {
namespace {

using ::testing::HasSubstr;

/// The environment of a test: these variables, and no other that a launcher sets.
class Placed : public ::testing::Test {
 protected:
  ~Placed() override { set({}); }
  static void set(const std::map<std::string, std::string>& values) {
    for (const char* name :
         {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMPI_COMM_WORLD_RANK",
          "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE",
          "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "SLURM_PROCID", "SLURM_LOCALID",
          "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NNODES", "TORCHELASTIC_USE_AGENT_STORE",
          "TORCHELASTIC_RESTART_COUNT"}) {
      unsetenv(name);
    }
    for (const auto& [name, value] : values) setenv(name.c_str(), value.c_str(), 1);
  }
  static std::string error_of(Launcher launcher) {
    try {
      find_placement(launcher);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  }
};

TEST_F(Placed, ByTorchrunOrByHand) {
  set({{"RANK", "3"},
       {"LOCAL_RANK", "1"},
       {"WORLD_SIZE", "4"},
       {"MASTER_ADDR", "node0"},
       {"MASTER_PORT", "1234"}});
  Placement place = find_placement(Launcher::pytorch);
  EXPECT_EQ(place.rank, 3);
  EXPECT_EQ(place.local_rank, 1);
  EXPECT_EQ(place.size, 4);
  EXPECT_EQ(place.address, "node0");
  EXPECT_EQ(place.port, 1234);
  EXPECT_FALSE(place.has_server);
  EXPECT_EQ(rank_in_environment(), 3);
  setenv("TORCHELASTIC_USE_AGENT_STORE", "True", 1);
  setenv("TORCHELASTIC_RESTART_COUNT", "2", 1);
  place = find_placement(Launcher::pytorch);
  EXPECT_TRUE(place.has_server);
  EXPECT_EQ(place.prefix, "/worker/attempt_2");
}

TEST_F(Placed, ByMpirun) {
  set({{"OMPI_COMM_WORLD_RANK", "1"},
       {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
       {"OMPI_COMM_WORLD_SIZE", "2"},
       {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}});
  const Placement place = find_placement(Launcher::mpi);
  EXPECT_EQ(place.rank, 1);
  EXPECT_EQ(place.size, 2);
  EXPECT_EQ(place.address, "127.0.0.1");
  EXPECT_EQ(place.port, 29500);
  EXPECT_EQ(rank_in_environment(), 1);
  set({{"OMPI_COMM_WORLD_RANK", "1"},
       {"OMPI_COMM_WORLD_SIZE", "4"},
       {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}});
  EXPECT_THAT(error_of(Launcher::mpi), HasSubstr("MASTER_ADDR"));
}

TEST_F(Placed, BySlurm) {
  set({{"SLURM_PROCID", "5"},
       {"SLURM_LOCALID", "1"},
       {"SLURM_NTASKS", "8"},
       {"SLURM_NNODES", "2"},
       {"MASTER_ADDR", "n1"}});
  const Placement place = find_placement(Launcher::slurm);
  EXPECT_EQ(place.rank, 5);
  EXPECT_EQ(place.size, 8);
  EXPECT_EQ(place.address, "n1");
  unsetenv("MASTER_ADDR");
  EXPECT_THAT(error_of(Launcher::slurm), HasSubstr("MASTER_ADDR"));
}

TEST_F(Placed, NamesWhatIsMissingOrWrong) {
  set({});
  EXPECT_THAT(
      error_of(Launcher::pytorch),
      HasSubstr("launcher: pytorch needs the environment variable WORLD_SIZE, which torchrun"));
  EXPECT_EQ(rank_in_environment(), 0);
  set({{"RANK", "two"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "x"}, {"MASTER_PORT", "1"}});
  EXPECT_EQ(error_of(Launcher::pytorch),
            "the environment variable RANK must be an integer from 0 to 1, not 'two'");
  set({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "x"}});
  EXPECT_THAT(error_of(Launcher::pytorch), HasSubstr("MASTER_PORT is not set"));
  EXPECT_THAT(error_of(Launcher::mpi), HasSubstr("OMPI_COMM_WORLD_SIZE or PMI_SIZE"));
  EXPECT_EQ(find_placement(Launcher::none).size, 1);
  EXPECT_THROW(launcher_of("torchrun"), ConfigError);
  EXPECT_EQ(launcher_of("slurm"), Launcher::slurm);
}

}  // namespace
}  // namespace polyak
