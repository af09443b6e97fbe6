// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "polyak/checkpoint/safetensors.h"
#include "unit/checkpoint/checkpoint_testing.h"

namespace polyak {

/// A file's bytes: the length of the header, the header, the data.
inline std::string safetensors_bytes(const std::string& header, const std::string& data = "") {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header + data;
}

/// A header's entry, such as `"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}`.
inline std::string entry(const std::string& name, const std::string& dtype,
                         const std::string& shape, const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape +
         "],\"data_offsets\":[" + offsets + "]}";
}

/// For tests of .safetensors files.
class SafetensorsTest : public CheckpointTest {
 protected:
  std::string file(const std::string& name = "a.safetensors") const {
    return CheckpointTest::file(name);
  }

  Value round_trip(const Value& tensors) const {
    write_safetensors(file(), tensors);
    return read_safetensors(file());
  }

  Value read_header(const std::string& header, const std::string& data = "") const {
    write_bytes(file(), safetensors_bytes(header, data));
    return read_safetensors(file());
  }

  std::string write_error(const Value& tensors, const SafetensorsMetadata& metadata = {}) const {
    return error_of([&] { write_safetensors(file(), tensors, metadata); });
  }
};

}  // namespace polyak
