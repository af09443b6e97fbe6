#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <png.h>
#include <turbojpeg.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "polyak/config/load.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/image_folder.h"
#include "polyak/trainer/random_stream.h"
#include "polyak/trainer/register_trainer.h"

namespace polyak {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

/// uint8 [height, width, 3] in one colour.
at::Tensor plain(int64_t height, int64_t width, std::vector<int64_t> colour) {
  return at::tensor(colour, at::kByte).expand({height, width, 3}).contiguous();
}

class Folders : public ::testing::Test {
 protected:
  Folders() : root_(fs::temp_directory_path() / fmt::format("polyak_folder_{}", getpid())) {
    register_trainer(catalog_);
  }
  ~Folders() override { fs::remove_all(root_); }

  std::string path(const std::string& name) {
    fs::create_directories((root_ / name).parent_path());
    return (root_ / name).string();
  }
  void write_png(const std::string& name, const at::Tensor& pixels) {
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    image.format = PNG_FORMAT_RGB;
    image.height = static_cast<png_uint_32>(pixels.size(0));
    image.width = static_cast<png_uint_32>(pixels.size(1));
    ASSERT_NE(png_image_write_to_file(&image, path(name).c_str(), 0, pixels.data_ptr(), 0, nullptr),
              0);
  }
  void write_jpeg(const std::string& name, const at::Tensor& pixels) {
    unsigned char* bytes = nullptr;
    unsigned long size = 0;
    const std::unique_ptr<void, int (*)(tjhandle)> encoder(tjInitCompress(), tjDestroy);
    ASSERT_EQ(
        tjCompress2(encoder.get(), pixels.data_ptr<uint8_t>(), static_cast<int>(pixels.size(1)), 0,
                    static_cast<int>(pixels.size(0)), TJPF_RGB, &bytes, &size, TJSAMP_444, 100, 0),
        0);
    std::ofstream(path(name), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes), static_cast<std::streamsize>(size));
    tjFree(bytes);
  }
  std::shared_ptr<Dataset> open(const std::string& more = "") {
    return catalog_.of<Dataset>().build(
        parse_config("{type: ImageNet, size: 8, data_root: " + root_.string() + more + "}"),
        {&catalog_});
  }

  Catalog catalog_;
  fs::path root_;
};

TEST_F(Folders, AreClassesInAlphabeticalOrder) {
  write_png("train/b_dogs/1.PNG", plain(16, 12, {10, 200, 30}));
  write_jpeg("train/a_cats/1.JPEG", plain(9, 20, {200, 100, 50}));
  write_jpeg("train/a_cats/0.jpg", plain(8, 8, {0, 0, 0}));
  std::ofstream(path("train/a_cats/notes.txt")) << "not an image";
  const auto folder = open();
  ASSERT_EQ(folder->size(), 3);
  EXPECT_EQ(folder->num_classes(), 2);
  const Batch batch = folder->batch(at::tensor({0, 1, 2}, at::kLong), make_random_stream({0}));
  EXPECT_TRUE(at::equal(batch.labels, at::tensor({0, 0, 1}, at::kLong)));
  EXPECT_EQ(batch.images().sizes(), (std::vector<int64_t>{3, 3, 8, 8}));
  // JPEG at the highest quality is off by a few units at most.
  const at::Tensor middles = batch.images().select(3, 4).select(2, 4) * 255;
  EXPECT_TRUE(at::allclose(middles[1], at::tensor({200.0F, 100.0F, 50.0F}), 0, 3));
  EXPECT_TRUE(at::allclose(middles[2], at::tensor({10.0F, 200.0F, 30.0F}), 0, 0.01));
}

TEST_F(Folders, AreScaledToTheMiddleSquare) {
  // Left half black, right half white, twice as wide as high: the square's middle is the border.
  at::Tensor pixels = at::zeros({16, 32, 3}, at::kByte);
  pixels.slice(1, 16).fill_(255);
  write_png("train/a/wide.png", pixels);
  const Batch batch = open()->batch(at::zeros({1}, at::kLong), make_random_stream({0}));
  EXPECT_LT(batch.images().slice(3, 0, 3).max().item<float>(), 0.01);
  EXPECT_GT(batch.images().slice(3, 5, 8).min().item<float>(), 0.99);
}

TEST_F(Folders, ThatAreMissingEmptyOrDamagedAreNamed) {
  EXPECT_THAT([&] { open(); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("/train"), HasSubstr("is no folder"))));
  fs::create_directories(root_ / "train" / "empty");
  EXPECT_THAT([&] { open(); }, ThrowsMessage<DataError>(HasSubstr("holds no .jpeg")));
  std::ofstream(path("val/a/bad.jpg")) << "hello";
  EXPECT_THAT(
      [&] { open(", split: val")->batch(at::zeros({1}, at::kLong), make_random_stream({0})); },
      ThrowsMessage<DataError>(AllOf(HasSubstr("bad.jpg"), HasSubstr("is no JPEG image"))));
}

}  // namespace
}  // namespace polyak
