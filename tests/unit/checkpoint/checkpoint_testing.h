// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <caffe2/serialize/inline_container.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "polyak/checkpoint/pth.h"
#include "polyak/checkpoint/value.h"
#include "support/own_folder.h"

namespace polyak {

/// The message of the CheckpointError that an action must throw.
inline std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const CheckpointError& error) {
    EXPECT_THAT(error.what(), testing::Not(testing::HasSubstr("\n"))) << "a message is one line";
    return error.what();
  }
  return "no CheckpointError";
}

inline std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

inline void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// A folder of its own for each test.
class CheckpointTest : public testing::Test {
 protected:
  std::string file(const std::string& name = "a.pth") const { return (folder_ / name).string(); }

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_))
      names.push_back(entry.path().filename());
    return names;
  }

  Value round_trip(const Value& value) const {
    write_pth(file(), value);
    return read_pth(file());
  }

  at::Tensor round_trip_tensor(const at::Tensor& tensor) const {
    return round_trip(Value::dict({{"t", tensor}})).at("t").as_tensor();
  }

  /// An archive as torch.save lays it out, around a pickle of any bytes.
  Value read_pickle(const std::string& pickle, const std::string& data = "") const {
    {
      caffe2::serialize::PyTorchStreamWriter writer(file());
      writer.writeRecord("data.pkl", pickle.data(), pickle.size());
      writer.writeRecord("data/0", data.data(), data.size());
      writer.writeEndOfFile();
    }
    return read_pth(file());
  }

  std::string pickle_error(const std::string& pickle, const std::string& data = "") const {
    return error_of([&] { read_pickle(pickle, data); });
  }

  test::OwnFolder own_folder_;
  std::filesystem::path folder_ = own_folder_.path();
};

}  // namespace polyak
