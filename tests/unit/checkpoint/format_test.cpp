// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/format.h"

#include <ATen/Functions.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "polyak/checkpoint/pth.h"
#include "support/own_folder.h"

namespace polyak {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class CheckpointFormats : public testing::Test {
 protected:
  std::string file(const std::string& name) const { return folder_.path() + "/" + name; }

  /// A file of torch.save's form under another name.
  std::string saved_as(const std::string& name) const {
    write_pth(file("saved.pth"), Value::dict({{"state_dict", Value::dict({{"w", at::ones(2)}})}}));
    fs::rename(file("saved.pth"), file(name));
    return file(name);
  }
  std::string text_as(const std::string& name) const {
    std::ofstream(file(name)) << "model: LeNet\n";
    return file(name);
  }
  static std::string error_of(const std::function<void()>& action) {
    try {
      action();
    } catch (const CheckpointError& error) {
      return error.what();
    }
    return "";
  }

  test::OwnFolder folder_;
};

TEST_F(CheckpointFormats, TheExtensionDecides) {
  EXPECT_EQ(checkpoint_format("run/epoch_3.pth"), CheckpointFormat::pth);
  EXPECT_EQ(checkpoint_format("run.pth/epoch_3.npz"), std::nullopt);
  EXPECT_EQ(checkpoint_format("epoch_3.PTH"), std::nullopt);
  EXPECT_EQ(checkpoint_format(".pth"), std::nullopt) << "a hidden file without an extension";
  write_checkpoint_file(file("a.pth"), Value::dict({{"epoch", 3}}));
  EXPECT_EQ(read_pth(file("a.pth")).at("epoch").as_int(), 3);
  EXPECT_EQ(read_checkpoint_file(file("a.pth")).at("epoch").as_int(), 3);
}

TEST_F(CheckpointFormats, AnUnknownExtensionIsRefusedWithTheListOfThoseThereAre) {
  const std::string written = file("a.npz");
  EXPECT_EQ(error_of([&] { write_checkpoint_file(written, Value::dict()); }),
            written + ": unknown checkpoint format '.npz'; Polyak writes .pth, .safetensors");
  EXPECT_FALSE(fs::exists(written));
  EXPECT_EQ(error_of([&] { write_checkpoint_file(file("a"), Value::dict()); }),
            file("a") +
                ": the name has no extension, so the format is unknown; Polyak writes .pth, "
                ".safetensors");
  const std::string text = text_as("model.h5");
  EXPECT_EQ(error_of([&] { read_checkpoint_file(text); }),
            text + ": unknown checkpoint format '.h5'; Polyak reads .pth, .safetensors");
}

TEST_F(CheckpointFormats, TorchSavesFilesAreReadUnderAnyName) {
  for (const char* name : {"model.pt", "model.pth.tar", "model.ckpt", "model"}) {
    const Value value = read_checkpoint_file(saved_as(name));
    EXPECT_TRUE(value.at("state_dict").at("w").as_tensor().equal(at::ones(2))) << name;
  }
}

TEST_F(CheckpointFormats, AFileThatCannotBeReadSaysWhyWhateverItsName) {
  EXPECT_EQ(error_of([&] { read_checkpoint_file(file("none.h5")); }),
            file("none.h5") + ": cannot be read: No such file or directory");
  std::ofstream(file("empty.h5")).close();
  EXPECT_EQ(error_of([&] { read_checkpoint_file(file("empty.h5")); }),
            file("empty.h5") + ": is empty");
  fs::create_directory(file("folder.h5"));
  EXPECT_THAT(error_of([&] { read_checkpoint_file(file("folder.h5")); }), HasSubstr("is a folder"));
  EXPECT_THAT(error_of([&] { read_checkpoint_file(text_as("text.pth")); }),
              HasSubstr("is a text file"));
}

}  // namespace
}  // namespace polyak
