// SPDX-License-Identifier: Apache-2.0
#include "polyak/vis_backends/local_vis_backend.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "polyak/core/error.h"

namespace polyak {

void LocalVisBackendOptions::visit(OptionVisitor& /*visitor*/) {}

LocalVisBackend::LocalVisBackend(const LocalVisBackendOptions& /*options*/) {}

LocalVisBackend::~LocalVisBackend() = default;

void LocalVisBackend::open(const std::string& folder) {
  const auto path = std::filesystem::path(folder) / file();
  file_.reset(std::fopen(path.c_str(), "a"));
  if (!file_) {
    fail<Error>("{} cannot be written: {}", path.string(), std::generic_category().message(errno));
  }
  std::setvbuf(file_.get(), nullptr, _IONBF, 0);  // each line is written in one go
}

void LocalVisBackend::add_scalars(const Scalars& values, int64_t step) {
  nlohmann::ordered_json line;
  for (const auto& [name, value] : values) {
    const bool whole = name == "epoch" || name == "iter";
    whole ? line[name] = static_cast<int64_t>(value) : line[name] = value;
  }
  line["step"] = step;
  const std::string text = line.dump() + "\n";
  const off_t size = ::lseek(fileno(file_.get()), 0, SEEK_END);
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) == text.size()) return;
  const std::string reason = std::generic_category().message(errno);
  // An incomplete line would be invalid JSON.
  const bool is_whole = ::ftruncate(fileno(file_.get()), size) == 0;
  fail<Error>("{} cannot be written: {}{}", file(), reason,
              is_whole ? "" : "; its last line is incomplete");
}

}  // namespace polyak
