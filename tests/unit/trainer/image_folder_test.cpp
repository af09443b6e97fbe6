// SPDX-License-Identifier: Apache-2.0
#include "polyak/core/error.h"
#include "polyak/trainer/data_loader.h"
#include "unit/trainer/image_folder_testing.h"

namespace polyak {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::ThrowsMessage;

int count_of(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST_F(Folders, AreClassesInAlphabeticalOrder) {
  write_png("train/b_dogs/1.PNG", plain(16, 12, {10, 200, 30}));
  write_jpeg("train/a_cats/1.JPEG", plain(9, 20, {200, 100, 50}));
  write_jpeg("train/a_cats/0.jpg", plain(8, 8, {0, 0, 0}));
  write_text("train/a_cats/notes.txt", "not an image");
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
              ThrowsMessage<DataError>(AllOf(HasSubstr("/train"), HasSubstr("is not a folder"))));
  path("train/empty/");
  EXPECT_THAT([&] { open(); }, ThrowsMessage<DataError>(HasSubstr("contains no .jpeg")));
  write_text("val/a/bad.jpg", "hello");
  EXPECT_THAT(
      [&] { open(", split: val")->batch(at::zeros({1}, at::kLong), make_random_stream({0})); },
      ThrowsMessage<DataError>(
          AllOf(HasSubstr("bad.jpg"), HasSubstr("is not a JPEG or PNG image"))));
}

TEST_F(Folders, SkipWhatIsHiddenAndNameWhatIsNotRead) {
  const at::Tensor pixels = plain(8, 8, {1, 2, 3});
  write_png("train/.ipynb_checkpoints/0.png", pixels);
  write_png("train/a/0.png", pixels);
  write_png("train/a/._0.png", pixels);
  write_text("train/a/.DS_Store", "x");
  write_text("train/b/0.bmp", "BM");
  write_text("train/b/1.bmp", "BM");
  write_png("train/c/part/0.png", pixels);
  write_png("train/d/0.png", pixels);
  write_text("train/list.txt", "x");
  const auto folder = open();
  EXPECT_THAT(folder->classes(), ElementsAre("a", "b", "c", "d"));
  EXPECT_TRUE(at::equal(labels(*folder), at::tensor({0, 3}, at::kLong)));
  EXPECT_THAT(messages_, HasSubstr("ignored files: 3, such as " + root() + "/train/b/0.bmp"));
  EXPECT_THAT(messages_, HasSubstr("ignored folders inside class folders: 1, such as " + root() +
                                   "/train/c/part"));
  EXPECT_THAT(messages_, HasSubstr("classes without images: 'b', 'c'"));
  EXPECT_THAT(messages_, HasSubstr("2 images in 4 classes\n"));
}

TEST_F(Folders, ALimitKeepsTheWholeListOfClasses) {
  for (const char* name : {"train/a/0.png", "train/b/0.png", "train/c/0.png"}) {
    write_png(name, plain(8, 8, {1, 2, 3}));
  }
  const auto folder = open(", limit: 1");
  EXPECT_EQ(folder->size(), 1);
  EXPECT_EQ(folder->num_classes(), 3);
  EXPECT_THAT(messages_, HasSubstr("3 images in 3 classes; the first 1 are used"));
}

TEST_F(Folders, NumberTheirLabelsByTheNamesOfAnotherSet) {
  for (const char* name : {"val/a/0.png", "val/c/0.png", "val/d/0.png"}) {
    write_png(name, plain(8, 8, {1, 2, 3}));
  }
  path("val/zzz/");  // empty, so no label is missing
  const auto folder = open(", split: val");
  folder->number_classes_by({"d", "b", "c", "a"});
  EXPECT_TRUE(at::equal(labels(*folder), at::tensor({3, 2, 0}, at::kLong)));
  EXPECT_EQ(folder->num_classes(), 4);
  EXPECT_THAT(folder->classes(), ElementsAre("d", "b", "c", "a"));
  EXPECT_THAT(
      [&] {
        open(", split: val")->number_classes_by({"a", "b"});
      },
      ThrowsMessage<DataError>(
          AllOf(HasSubstr("/val: contains classes that the training data does not have: 'c', 'd'"),
                HasSubstr("the training data has 'a', 'b'"), Not(HasSubstr("zzz")))));
}

class BadImages : public Folders {
 protected:
  /// Images 1, 4 and 5 of 7 are bad: empty, cut off, no image.
  BadImages() {
    for (int64_t i = 0; i < 7; ++i) {
      const std::string name = fmt::format("train/{}/{}.jpg", i < 4 ? "a" : "b", i);
      test::Bytes bytes = test::jpeg_of(plain(16, 16, {30 * i, 0, 0}));
      if (i == 1) bytes.clear();
      if (i == 4) bytes.resize(bytes.size() * 2 / 5);
      if (i == 5) bytes = {'h', 'i'};
      test::write_bytes(path(name), bytes);
    }
  }
  DataLoader loader(const std::string& keys, bool training) {
    return DataLoader(
        parse_config("{" + keys + ", sampler: {type: DefaultSampler, shuffle: false}, dataset: " +
                     "{type: ImageNet, size: 8, on_bad_image: skip, data_root: " + root() + "}}"),
        catalog_, training, 0);
  }
  /// Which images a batch holds.
  static std::vector<int64_t> numbers(const Batch& batch) {
    if (batch.labels.numel() == 0) return {};
    const at::Tensor red = (batch.images().select(1, 0).mean({1, 2}) * 255 / 30).round();
    const at::Tensor numbers = red.to(at::kLong).contiguous();
    return {numbers.data_ptr<int64_t>(), numbers.data_ptr<int64_t>() + numbers.numel()};
  }
};

TEST_F(BadImages, AreRefusedByName) {
  EXPECT_THAT([&] { labels(*open()); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("/train/a/1.jpg: is empty"),
                                             HasSubstr("on_bad_image: skip ignores such"))));
}

TEST_F(BadImages, ThatAreSkippedAreLeftOutWhereNothingIsLearned) {
  DataLoader three = loader("batch_size: 3", /*training=*/false);
  EXPECT_THAT(numbers(three.batch(0, 0)), ElementsAre(0, 2));
  EXPECT_THAT(numbers(three.batch(0, 1)), ElementsAre(3));
  EXPECT_THAT(numbers(three.batch(0, 2)), ElementsAre(6));
  DataLoader one = loader("batch_size: 1", /*training=*/false);
  EXPECT_EQ(one.size(), 7);
  EXPECT_EQ(one.batch(0, 1).labels.size(0), 0);
  EXPECT_THAT(numbers(one.batch(0, 2)), ElementsAre(2));
}

TEST_F(BadImages, ThatAreSkippedAreReplacedByTheNextWhereTheModelLearns) {
  DataLoader four = loader("batch_size: 4", /*training=*/true);
  const Batch first = four.batch(0, 0), second = four.batch(0, 1);
  EXPECT_THAT(numbers(first), ElementsAre(0, 2, 2, 3));
  EXPECT_THAT(numbers(second), ElementsAre(6, 6, 6));
  EXPECT_TRUE(at::equal(second.labels, at::ones({3}, at::kLong)));
  DataLoader again = loader("batch_size: 4", /*training=*/true);  // whatever was read before
  EXPECT_TRUE(at::equal(again.batch(0, 1).images(), second.images()));
  test::write_bytes(path("train/b/6.jpg"), {});
  EXPECT_THAT(numbers(four.batch(0, 1)), ElementsAre(0, 0, 0));  // after the last comes the first
}

TEST_F(BadImages, ThatAreSkippedAreNamedOnceAndCounted) {
  DataLoader all = loader("batch_size: 7", /*training=*/false);
  all.batch(0, 0);
  all.batch(0, 0);
  for (const char* says : {"1.jpg: is empty; skipped (1 of 7 images so far)",
                           "4.jpg: contains no complete JPEG image: ",
                           "5.jpg: is not a JPEG or PNG image; skipped (3 of 7 images so far)"}) {
    EXPECT_EQ(count_of(messages_, says), 1) << messages_;
  }
}

TEST_F(BadImages, WithNoOtherAreAnError) {
  for (const char* name : {"train/a/0.jpg", "train/a/2.jpg", "train/a/3.jpg", "train/b/6.jpg"}) {
    test::write_bytes(path(name), {});
  }
  EXPECT_THAT([&] { open(", on_bad_image: skip")->image_shape(); },
              ThrowsMessage<DataError>(HasSubstr("none of the 7 images")));
}

TEST_F(BadImages, ThatVanishAreNotSkipped) {
  DataLoader all = loader("batch_size: 7", /*training=*/false);
  std::filesystem::remove(path("train/a/2.jpg"));
  EXPECT_THAT([&] { all.batch(0, 0); },
              ThrowsMessage<DataError>(HasSubstr("2.jpg: cannot be read: No such file")));
}

TEST_F(Folders, TurnImagesByExifUnlessTold) {
  at::Tensor pixels = plain(8, 8, {0, 0, 0});
  pixels.slice(0, 0, 4).fill_(255);  // white above, black below
  const test::PngChunk upside_down{
      "eXIf", {'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, 3, 0, 0}};
  test::write_bytes(path("train/a/0.png"), test::png_of(pixels, {upside_down}));
  const auto top = [&](const std::string& more) {
    return open(more)
        ->batch(at::zeros({1}, at::kLong), make_random_stream({0}))
        .images()
        .slice(2, 0, 4)
        .mean()
        .item<float>();
  };
  EXPECT_EQ(top(""), 0);
  EXPECT_EQ(top(", exif_orientation: false"), 1);
}

}  // namespace
}  // namespace polyak
