// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <memory>
#include <random>

#include "polyak/core/error.h"
#include "polyak/trainer/exif.h"
#include "polyak/trainer/read_image.h"
#include "support/image_writer.h"

// Every kind of PNG and JPEG against PIL: tests/interop/images.py.
namespace polyak {
namespace {

using test::Bytes;
using test::jpeg_of;
using test::png_of;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

at::Tensor noise(int64_t height, int64_t width, int64_t channels) {
  return at::randint(256, {height, width, channels}, at::kByte);
}

at::Tensor decode(const Bytes& bytes, bool orientation = true) {
  return decode_image(bytes, "given.image", orientation).permute({1, 2, 0});
}

/// An EXIF block whose only entry is the orientation.
Bytes exif(int orientation, bool big_endian, int type = 3, int count = 1) {
  Bytes block = big_endian ? Bytes{'M', 'M'} : Bytes{'I', 'I'};
  const auto add = [&](int value, int bytes) {
    for (int i = 0; i < bytes; ++i) {
      const int shift = 8 * (big_endian ? bytes - 1 - i : i);
      block.push_back(static_cast<unsigned char>(value >> shift & 255));
    }
  };
  add(42, 2), add(8, 4), add(1, 2);
  add(0x0112, 2), add(type, 2), add(count, 4);
  type == 3 ? (add(orientation, 2), add(0, 2)) : add(orientation, 4);
  add(0, 4);
  return block;
}

/// The JPEG with this block as its APP1.
Bytes with_exif(const Bytes& jpeg, const Bytes& block) {
  const size_t size = block.size() + 8;
  Bytes out{0xFF,
            0xD8,
            0xFF,
            0xE1,
            static_cast<unsigned char>(size >> 8),
            static_cast<unsigned char>(size & 255),
            'E',
            'x',
            'i',
            'f',
            0,
            0};
  out.insert(out.end(), block.begin(), block.end());
  out.insert(out.end(), jpeg.begin() + 2, jpeg.end());
  return out;
}

/// orientation() of a block behind whose end nothing may be read.
int orientation_of(const Bytes& block) {
  const std::unique_ptr<unsigned char[]> exact(new unsigned char[block.size()]);
  std::copy(block.begin(), block.end(), exact.get());
  return exif_orientation(exact.get(), block.size());
}

TEST(ReadImage, TakesTheHigherByteOfChannelsOf16Bits) {
  const at::Tensor ramp = at::tensor({0, 16, 32, 64, 96, 128}, at::kInt).view({1, 6, 1});
  const at::Tensor found = decode(png_of(ramp * 256 + 77));
  EXPECT_TRUE(at::equal(found, ramp.expand({1, 6, 3}).to(at::kByte))) << found;
  const at::Tensor colours = at::randint(65536, {4, 5, 4}, at::kInt);
  EXPECT_TRUE(at::equal(decode(png_of(colours)), (colours.slice(2, 0, 3) / 256).to(at::kByte)));
}

TEST(ReadImage, IgnoresGammaAndDropsAlpha) {
  const at::Tensor pixels = noise(7, 9, 4);
  const test::PngChunk linear{"gAMA", {0, 1, 0x86, 0xA0}};  // 1.0
  for (const bool interlaced : {false, true}) {
    EXPECT_TRUE(at::equal(decode(png_of(pixels, {linear}, interlaced)), pixels.slice(2, 0, 3)));
    const at::Tensor grey = pixels.slice(2, 0, 2);
    EXPECT_TRUE(at::equal(decode(png_of(grey, {linear}, interlaced)),
                          grey.slice(2, 0, 1).expand({7, 9, 3})));
  }
}

TEST(ReadImage, RefusesFilesThatAreCutOffAnywhereByName) {
  const at::Tensor pixels = noise(20, 30, 3);
  const std::vector<Bytes> files{jpeg_of(pixels), jpeg_of(pixels, /*progressive=*/true),
                                 png_of(pixels), png_of(pixels, {}, /*interlaced=*/true)};
  for (const Bytes& file : files) {
    EXPECT_EQ(decode(file).sizes(), pixels.sizes());
    for (size_t size = 0; size < file.size(); size += size + 40 < file.size() ? 17 : 1) {
      const Bytes cut(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size));
      EXPECT_THAT([&] { decode(cut); }, ThrowsMessage<DataError>(HasSubstr("given.image")))
          << size << " of " << file.size();
    }
  }
}

TEST(ReadImage, SaysWhatIsWrongWithAFile) {
  const auto expect = [](const Bytes& bytes, const char* says) {
    EXPECT_THAT([&] { decode(bytes); },
                ThrowsMessage<DataError>(AllOf(HasSubstr("given.image: "), HasSubstr(says))));
  };
  expect({}, "is empty");
  expect({'h', 'e', 'l', 'l', 'o'}, "is not a JPEG or PNG image");
  expect({'G', 'I', 'F', '8', '9', 'a'}, "is not a JPEG or PNG image");
  const Bytes jpeg = jpeg_of(noise(20, 30, 3));
  expect(Bytes(jpeg.begin(), jpeg.begin() + static_cast<std::ptrdiff_t>(jpeg.size() * 2 / 5)),
         "contains no complete JPEG image");
  Bytes png = png_of(noise(20, 30, 3));
  png[png.size() / 2] ^= 1;
  expect(png, "contains no complete PNG image");
  // A header of 100,000 x 100,000 pixels, with a right checksum.
  Bytes huge{0x89, 'P',  'N',  'G', '\r', '\n', 0x1A, '\n', 0, 0, 0, 13, 'I',  'H',  'D',  'R', 0,
             1,    0x86, 0xA0, 0,   1,    0x86, 0xA0, 8,    2, 0, 0, 0,  0xC1, 0x98, 0x0D, 0x6C};
  png_uint_32 crc = 0xFFFFFFFF;
  for (size_t i = 12; i < 29; ++i) {
    crc ^= huge[i];
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0xEDB88320 : crc >> 1;
  }
  for (size_t i = 0; i < 4; ++i) {
    huge[29 + i] = static_cast<unsigned char>(~crc >> (24 - 8 * i) & 255);
  }
  const Bytes body = png_of(noise(2, 2, 3));
  huge.insert(huge.end(), body.begin() + 33, body.end());
  expect(huge, "has 100000 x 100000 pixels");
}

TEST(ReadImage, OfDamagedBytesNeverCrashes) {
  std::mt19937 random(0);
  const at::Tensor pixels = noise(12, 17, 3);
  for (const Bytes& file : {jpeg_of(pixels), jpeg_of(pixels, true), png_of(pixels, {}, true),
                            with_exif(jpeg_of(pixels), exif(6, true))}) {
    for (int round = 0; round < 300; ++round) {
      Bytes damaged = file;
      for (int i = 0; i < 3; ++i) {
        damaged[random() % damaged.size()] = static_cast<unsigned char>(random());
      }
      try {
        EXPECT_EQ(decode(damaged).size(2), 3);
      } catch (const DataError&) {
      }
    }
  }
}

TEST(ReadImage, TurnsImagesUprightAsExifSays) {
  // What PIL's ImageOps.exif_transpose makes of [[1, 2], [3, 4], [5, 6]].
  const std::vector<std::vector<int64_t>> upright{
      {1, 2, 3, 4, 5, 6}, {2, 1, 4, 3, 6, 5}, {6, 5, 4, 3, 2, 1}, {5, 6, 3, 4, 1, 2},
      {1, 3, 5, 2, 4, 6}, {5, 3, 1, 6, 4, 2}, {6, 4, 2, 5, 3, 1}, {2, 4, 6, 1, 3, 5}};
  const at::Tensor pixels = at::arange(1, 7).to(at::kByte).view({3, 2, 1});
  const at::Tensor blocks = at::kron(pixels.select(2, 0), at::full({8, 8}, 40, at::kByte));
  for (int orientation = 1; orientation <= 8; ++orientation) {
    const at::Tensor expected =
        at::tensor(upright[static_cast<size_t>(orientation - 1)], at::kByte)
            .view(orientation < 5 ? at::IntArrayRef{3, 2} : at::IntArrayRef{2, 3});
    for (const bool big_endian : {false, true}) {
      for (const int type : {3, 4}) {
        const Bytes block = exif(orientation, big_endian, type);
        const Bytes png = png_of(pixels, {{"eXIf", block}});
        EXPECT_TRUE(at::equal(decode(png).select(2, 0), expected)) << orientation;
        EXPECT_TRUE(at::equal(decode(png, false).slice(2, 0, 1), pixels));
        const Bytes jpeg = with_exif(jpeg_of(blocks.unsqueeze(2).expand({24, 16, 3})), block);
        const at::Tensor middles = decode(jpeg).select(2, 0).slice(0, 4, {}, 8).slice(1, 4, {}, 8);
        EXPECT_TRUE(at::allclose(middles.to(at::kInt), expected.to(at::kInt) * 40, 0, 3));
        EXPECT_EQ(decode(jpeg, false).size(0), 24);
      }
    }
  }
}

TEST(Exif, ABlockThatIsDamagedMeansUpright) {
  EXPECT_EQ(orientation_of(exif(6, true)), 6);
  for (const int wrong : {0, 9, 255, 65535, -1}) EXPECT_EQ(orientation_of(exif(wrong, false)), 1);
  EXPECT_EQ(orientation_of(exif(6, false, /*type=*/2)), 1);
  EXPECT_EQ(orientation_of(exif(6, false, 3, /*count=*/2)), 1);
  for (const bool big_endian : {false, true}) {
    const Bytes whole = exif(6, big_endian);
    for (size_t size = 0; size < 22; ++size) {  // before the entry's end
      EXPECT_EQ(orientation_of(Bytes(whole.begin(), whole.begin() + static_cast<int>(size))), 1);
    }
  }
}

TEST(Exif, NothingIsReadBehindABlocksEnd) {  // which address sanitizers see
  std::mt19937 random(1);
  for (int round = 0; round < 20000; ++round) {
    Bytes block = exif(6, round % 2 == 0);
    if (round % 3 == 0) {
      for (unsigned char& byte : block) byte = static_cast<unsigned char>(random());
      std::copy_n(round % 2 == 0 ? "MM\0*" : "II*\0", 4, block.begin());
    }
    for (int i = 0; i < 3; ++i) {
      block[random() % block.size()] = static_cast<unsigned char>(random());
    }
    block.resize(random() % (block.size() + 1));
    const int found = orientation_of(block);
    EXPECT_TRUE(found >= 1 && found <= 8);
  }
}

}  // namespace
}  // namespace polyak
