// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/ATen.h>
#include <png.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <jpeglib.h>

namespace polyak::test {

using Bytes = std::vector<unsigned char>;

inline void write_bytes(const std::string& path, const Bytes& bytes) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

/// A chunk of a PNG that stands before its pixels.
struct PngChunk {
  std::string name;
  Bytes data;
};

/// A PNG of uint8 [height, width, channels], or of int32 for 16 bits: grey, with alpha, RGB, RGBA.
inline Bytes png_of(const at::Tensor& pixels, const std::vector<PngChunk>& chunks = {},
                    bool interlaced = false) {
  const int kinds[] = {PNG_COLOR_TYPE_GRAY, PNG_COLOR_TYPE_GRAY_ALPHA, PNG_COLOR_TYPE_RGB,
                       PNG_COLOR_TYPE_RGB_ALPHA};
  const int64_t height = pixels.size(0), width = pixels.size(1), channels = pixels.size(2);
  const int depth = pixels.scalar_type() == at::kByte ? 8 : 16;
  const at::Tensor high = pixels.to(at::kInt).div(depth == 16 ? 256 : 1, "trunc");
  const at::Tensor bytes =
      (depth == 8 ? pixels : at::stack({high, pixels - high * 256}, 3).to(at::kByte)).contiguous();

  Bytes out;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  png_set_write_fn(
      png, &out,
      [](png_structp writer, png_bytep data, size_t size) {
        auto& target = *static_cast<Bytes*>(png_get_io_ptr(writer));
        target.insert(target.end(), data, data + size);
      },
      nullptr);
  png_set_IHDR(png, info, static_cast<png_uint_32>(width), static_cast<png_uint_32>(height), depth,
               kinds[channels - 1], interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(png, info);
  for (const PngChunk& chunk : chunks) {
    png_write_chunk(png, reinterpret_cast<png_const_bytep>(chunk.name.c_str()), chunk.data.data(),
                    chunk.data.size());
  }
  std::vector<png_bytep> rows;
  for (int64_t y = 0; y < height; ++y) {
    rows.push_back(bytes.data_ptr<uint8_t>() + y * width * channels * depth / 8);
  }
  png_write_image(png, rows.data());
  png_write_end(png, nullptr);
  png_destroy_write_struct(&png, &info);
  return out;
}

/// A JPEG of the best quality of uint8 [height, width, 3].
inline Bytes jpeg_of(const at::Tensor& pixels, bool progressive = false) {
  const at::Tensor lines = pixels.contiguous();
  jpeg_compress_struct image{};
  jpeg_error_mgr errors{};
  image.err = jpeg_std_error(&errors);
  jpeg_create_compress(&image);
  unsigned char* data = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&image, &data, &size);
  image.image_width = static_cast<JDIMENSION>(lines.size(1));
  image.image_height = static_cast<JDIMENSION>(lines.size(0));
  image.input_components = 3;
  image.in_color_space = JCS_RGB;
  jpeg_set_defaults(&image);
  jpeg_set_quality(&image, 100, TRUE);
  image.comp_info[0].h_samp_factor = image.comp_info[0].v_samp_factor = 1;
  if (progressive) jpeg_simple_progression(&image);
  jpeg_start_compress(&image, TRUE);
  for (int64_t y = 0; y < lines.size(0); ++y) {
    JSAMPROW row = lines[y].data_ptr<uint8_t>();
    jpeg_write_scanlines(&image, &row, 1);
  }
  jpeg_finish_compress(&image);
  jpeg_destroy_compress(&image);
  Bytes out(data, data + size);
  std::free(data);
  return out;
}

}  // namespace polyak::test
