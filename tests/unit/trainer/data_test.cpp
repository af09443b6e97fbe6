// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <unistd.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>

#include "polyak/config/load.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/data_loader.h"
#include "polyak/trainer/image_files.h"
#include "polyak/trainer/random_stream.h"
#include "polyak/trainer/register_trainer.h"

namespace polyak {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

std::string bytes(std::initializer_list<int> values) {
  std::string text;
  for (int value : values) text.push_back(static_cast<char>(value));
  return text;
}

/// Two images of 2 x 3 with the bytes 0 to 11, and their labels 7 and 1.
const std::string kImages =
    bytes({0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
const std::string kLabels = bytes({0, 0, 8, 1, 0, 0, 0, 2, 7, 1});

class ImageFiles : public ::testing::Test {
 protected:
  ImageFiles() {
    folder_ = std::filesystem::temp_directory_path() / fmt::format("polyak_data_{}", getpid());
    std::filesystem::create_directories(folder_);
  }
  ~ImageFiles() override { std::filesystem::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }
  std::string write_gz(const std::string& name, const std::string& text) {
    std::string path = (folder_ / name).string();
    gzFile file = gzopen(path.c_str(), "wb");
    gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
    gzclose(file);
    return path;
  }
  LabelledImages read_pair() { return read_idx_pair(folder_.string(), "images", "labels", 10); }

  std::filesystem::path folder_;
};

TEST_F(ImageFiles, ReadsIdxPlainAndCompressed) {
  const at::Tensor expected = at::arange(12, at::kByte).view({2, 2, 3});
  EXPECT_TRUE(at::equal(read_idx(write("plain", kImages), 3), expected));
  EXPECT_TRUE(at::equal(read_idx(write_gz("packed.gz", kImages), 3), expected));
  write_gz("images.gz", kImages);
  write("labels", kLabels);
  const LabelledImages pair = read_pair();
  EXPECT_TRUE(at::equal(pair.images, expected.unsqueeze(1)));
  EXPECT_EQ(pair.labels[0].item<int64_t>(), 7);
  EXPECT_EQ(pair.labels.scalar_type(), at::kLong);
}

TEST_F(ImageFiles, NamesTheFileAndWhatIsWrongWithIt) {
  auto expect = [&](const std::string& text, int dimensions, const char* message) {
    const std::string path = write("bad", text);
    EXPECT_THAT([&] { read_idx(path, dimensions); },
                ThrowsMessage<DataError>(AllOf(HasSubstr(path), HasSubstr(message))));
  };
  expect("", 3, "shorter than the 4-byte magic number");
  expect("PK\x08\x03", 3, "starts with bytes 50 4b");
  expect(bytes({0, 0, 13, 3}), 3, "idx type 0x0d");
  expect(kLabels, 3, "has 1 dimensions, expected 3");
  expect(kImages.substr(0, 10), 3, "ends inside its header, after 1 of 3");
  expect(kImages.substr(0, kImages.size() - 4), 3,
         "expected 12 bytes of data according to the header, found 8");
  expect(kImages + "x", 3, "more data than the 12 bytes");
  expect(bytes({0, 0, 8, 1, 0, 0, 0, 0}), 1, "dimension 0 is 0");
  expect(bytes({0, 0, 8, 3, 255, 0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0}), 3, "the file is damaged");
  // A header that claims 2 GB takes no memory.
  const std::string claim = bytes({0, 0, 8, 1, 127, 255, 255, 255});
  expect(claim, 1, "expected 2147483647 bytes of data according to the header, found 0");
  EXPECT_THAT([&] { read_idx(write_gz("bad.gz", claim), 1); },
              ThrowsMessage<DataError>(HasSubstr("need 2147483647 bytes, and a compressed file of "
                                                 "this size holds at most")));
  EXPECT_THAT([&] { read_idx((folder_ / "none").string(), 1); },
              ThrowsMessage<DataError>(HasSubstr("No such file")));
}

TEST_F(ImageFiles, NoticesATruncatedCompressedFile) {
  std::string large = bytes({0, 0, 8, 1, 0, 1, 0, 0});
  for (int i = 0; i < 65536; ++i) large.push_back(static_cast<char>((i * 7919) >> 3));
  const std::string path = write_gz("cut.gz", large);
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  EXPECT_THAT([&] { read_idx(path, 1); }, ThrowsMessage<DataError>(HasSubstr(path)));
}

TEST_F(ImageFiles, ChecksThatLabelsBelongToTheImages) {
  write("images", kImages);
  EXPECT_THAT([&] { read_pair(); }, ThrowsMessage<DataError>(HasSubstr("labels.gz")));
  write("labels", bytes({0, 0, 8, 1, 0, 0, 0, 1, 7}));
  EXPECT_THAT([&] { read_pair(); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("holds 1 labels"), HasSubstr("2 images"))));
  write("labels", bytes({0, 0, 8, 1, 0, 0, 0, 2, 7, 10}));
  EXPECT_THAT([&] { read_pair(); },
              ThrowsMessage<DataError>(HasSubstr("label 10 of sample 1 is out of range")));
}

TEST_F(ImageFiles, ReadsCifar10) {
  std::string records(size_t{2} * 3073, '\0');
  records[0] = 3;
  records[1 + 1024 + 32] = 9;  // green, second row
  records[3073] = 5;
  const std::string path = write("test_batch.bin", records);
  const LabelledImages set = read_cifar10({path});
  EXPECT_EQ(set.images.sizes(), (std::vector<int64_t>{2, 3, 32, 32}));
  EXPECT_EQ(set.images[0][1][1][0].item<int64_t>(), 9);
  EXPECT_EQ(set.labels[1].item<int64_t>(), 5);
  write("test_batch.bin", records + "x");
  EXPECT_THAT([&] { read_cifar10({path}); }, ThrowsMessage<DataError>(HasSubstr("6147 bytes")));
}

class Loading : public ::testing::Test {
 protected:
  Loading() { register_trainer(catalog_); }
  DataLoader loader(const std::string& text, bool shuffle = true, uint64_t seed = 1) {
    return DataLoader(parse_config(text), catalog_, shuffle, seed);
  }
  Catalog catalog_;
};

TEST_F(Loading, CutsAnEpochIntoBatches) {
  DataLoader all = loader("{batch_size: 4, dataset: {type: RandomImages, size: 10}}");
  EXPECT_EQ(all.size(), 3);
  EXPECT_EQ(all.batch(0, 2).labels.size(0), 2);
  EXPECT_EQ(all.batch(0, 0).images().scalar_type(), at::kFloat);
  EXPECT_LE(all.batch(0, 0).images().max().item<double>(), 1.0);
  DataLoader full =
      loader("{batch_size: 4, drop_last: true, dataset: {type: RandomImages, limit: 9}}");
  EXPECT_EQ(full.size(), 2);
  EXPECT_THAT(
      [&] { loader("{batch_size: 4, drop_last: true, dataset: {type: RandomImages, size: 3}}"); },
      ThrowsMessage<ConfigError>(HasSubstr("yields no batch")));
}

TEST_F(Loading, OnlyTheFirstSamplesKeepTheirLabels) {
  DataLoader some = loader("{batch_size: 6, dataset: {type: RandomImages, size: 6, labelled: 2}}",
                           /*shuffle=*/false);
  const at::Tensor has_label = some.batch(0, 0).labels >= 0;
  EXPECT_TRUE(at::equal(has_label, at::tensor({1, 1, 0, 0, 0, 0}).to(at::kBool)));
  EXPECT_TRUE(some.dataset().lacks_labels());
  EXPECT_FALSE(
      loader("{dataset: {type: RandomImages, size: 6, labelled: 6}}").dataset().lacks_labels());
}

/// Two samples that know the names of their classes, and no way to number them anew.
class NamedPair : public InMemoryDataset {
 public:
  explicit NamedPair(const Catalog& catalog)
      : InMemoryDataset({at::zeros({2, 1, 1, 1}, at::kByte), at::arange(2)}, 2, DatasetOptions(),
                        {&catalog}) {}
  std::vector<std::string> classes() const override { return {"x", "y"}; }
};

TEST_F(Loading, ASetThatCannotNumberItsClassesAnewIsRefusedUnlessTheyAreTheSame) {
  NamedPair named(catalog_);
  named.number_classes_by({"x", "y"});
  EXPECT_THAT(
      [&] {
        named.number_classes_by({"y", "x"});
      },
      ThrowsMessage<DataError>(HasSubstr("(x, y) differently from the training data (y, x)")));
  const auto nameless =
      catalog_.of<Dataset>().build(parse_config("{type: RandomImages, size: 2}"), {&catalog_});
  nameless->number_classes_by({"y", "x"});
  EXPECT_TRUE(nameless->classes().empty());
}

TEST_F(Loading, ABatchDependsOnSeedEpochAndNumberAlone) {
  const std::string text =
      "{batch_size: 4, dataset: {type: RandomImages, size: 40, pipeline: ["
      "{type: RandomCrop, crop_size: 8, padding: 2}, {type: RandomFlip}]}}";
  DataLoader first = loader(text), second = loader(text);
  for (int64_t epoch : {0, 1}) {
    for (int64_t index = 0; index < first.size(); ++index) first.batch(epoch, index);
  }
  const Batch expected = first.batch(1, 3);
  at::rand({1});
  const Batch found = second.batch(1, 3);
  EXPECT_TRUE(at::equal(found.images(), expected.images()));
  EXPECT_TRUE(at::equal(found.labels, expected.labels));
  EXPECT_FALSE(at::equal(second.batch(0, 3).images(), expected.images()));
  EXPECT_FALSE(at::equal(loader(text, true, 2).batch(1, 3).images(), expected.images()));
}

TEST_F(Loading, AShuffledEpochHoldsEachSampleOnce) {
  const auto sampler = catalog_.of<Sampler>().build(parse_config("{type: DefaultSampler}"), {7});
  const at::Tensor order = sampler->order(100, 3);
  EXPECT_TRUE(at::equal(std::get<0>(order.sort()), at::arange(100)));
  EXPECT_FALSE(at::equal(order, sampler->order(100, 4)));
  EXPECT_TRUE(at::equal(order, sampler->order(100, 3)));
  const auto plain =
      catalog_.of<Sampler>().build(parse_config("{type: DefaultSampler, shuffle: false}"), {7});
  EXPECT_TRUE(at::equal(plain->order(5, 9), at::arange(5)));
}

class Transforming : public Loading {
 protected:
  at::Tensor apply(const std::string& text, const at::Tensor& images) {
    return catalog_.of<Transform>().build(parse_config(text), {})->apply(images, random_);
  }
  at::Generator random_ = make_random_stream({5});
};

TEST_F(Transforming, NormalizesInUnitsOf255) {
  const at::Tensor images = at::full({1, 2, 1, 1}, 100, at::kByte);
  const at::Tensor result = apply("{type: Normalize, mean: [90, 100], std: [5, 1]}", images);
  EXPECT_FLOAT_EQ(result[0][0][0][0].item<float>(), 2.0F);
  EXPECT_FLOAT_EQ(result[0][1][0][0].item<float>(), 0.0F);
  EXPECT_THAT([&] { apply("{type: Normalize, mean: [90], std: [5]}", images); },
              ThrowsMessage<ConfigError>(HasSubstr("1 channels")));
}

TEST_F(Transforming, FlipsSomeImages) {
  const at::Tensor images = at::arange(6, at::kByte).view({1, 1, 2, 3}).expand({64, 1, 2, 3});
  const at::Tensor result = apply("{type: RandomFlip, prob: 0.5}", images);
  int64_t flipped = 0;
  for (int64_t i = 0; i < 64; ++i) {
    const bool same = at::equal(result[i], images[i]);
    EXPECT_TRUE(same || at::equal(result[i], images[i].flip({2})));
    flipped += same ? 0 : 1;
  }
  EXPECT_GT(flipped, 16);
  EXPECT_LT(flipped, 48);
  EXPECT_TRUE(at::equal(apply("{type: RandomFlip, prob: 1, direction: vertical}", images),
                        images.flip({2})));
}

TEST_F(Transforming, CropsEachImageAtAPlaceOfItsOwn) {
  const at::Tensor images = at::arange(1, 17, at::kByte).view({1, 1, 4, 4}).expand({32, 1, 4, 4});
  const at::Tensor result = apply("{type: RandomCrop, crop_size: 4, padding: 1}", images);
  const at::Tensor padded = at::constant_pad_nd(images[0], {1, 1, 1, 1});
  std::set<int64_t> places;
  for (int64_t i = 0; i < 32; ++i) {
    bool found = false;
    for (int64_t place = 0; place < 9; ++place) {
      const at::Tensor window =
          padded.slice(1, place / 3, place / 3 + 4).slice(2, place % 3, place % 3 + 4);
      if (!at::equal(result[i], window)) continue;
      found = true;
      places.insert(place);
    }
    EXPECT_TRUE(found);
  }
  EXPECT_GT(places.size(), 4U);
  EXPECT_THAT([&] { apply("{type: RandomCrop, crop_size: 9}", images); },
              ThrowsMessage<ConfigError>(HasSubstr("crop_size 9 exceeds")));
}

}  // namespace
}  // namespace polyak
