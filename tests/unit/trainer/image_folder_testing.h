// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "polyak/config/load.h"
#include "polyak/core/log.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/dataset.h"
#include "polyak/trainer/random_stream.h"
#include "polyak/trainer/register_trainer.h"
#include "support/image_writer.h"
#include "support/own_folder.h"

namespace polyak {

/// uint8 [height, width, 3] in one colour.
inline at::Tensor plain(int64_t height, int64_t width, const std::vector<int64_t>& colour) {
  return at::tensor(colour, at::kByte).expand({height, width, 3}).contiguous();
}

/// A folder to write images to, and what the log says.
class Folders : public ::testing::Test {
 protected:
  Folders() {
    register_trainer(catalog_);
    previous_ = set_log_sink(
        [this](LogLevel, std::string_view line) { messages_ += fmt::format("{}\n", line); });
  }
  ~Folders() override { set_log_sink(previous_); }

  std::string root() const { return folder_.path(); }
  std::string path(const std::string& name) const {
    const std::filesystem::path path = std::filesystem::path(root()) / name;
    std::filesystem::create_directories(path.parent_path());
    return path.string();
  }
  void write_text(const std::string& name, const std::string& text) const {
    std::ofstream(path(name)) << text;
  }
  void write_png(const std::string& name, const at::Tensor& pixels) const {
    test::write_bytes(path(name), test::png_of(pixels));
  }
  void write_jpeg(const std::string& name, const at::Tensor& pixels) const {
    test::write_bytes(path(name), test::jpeg_of(pixels));
  }
  std::shared_ptr<Dataset> open(const std::string& more = "") const {
    return catalog_.of<Dataset>().build(
        parse_config("{type: ImageNet, size: 8, data_root: " + root() + more + "}"), {&catalog_});
  }
  static at::Tensor labels(const Dataset& dataset) {
    return dataset.batch(at::arange(dataset.size()), make_random_stream({0})).labels;
  }

  Catalog catalog_;
  test::OwnFolder folder_;
  std::string messages_;
  LogSink previous_;
};

}  // namespace polyak
