// SPDX-License-Identifier: Apache-2.0
// What images.py needs of this side.
//   image_tool [--as-stored] FILE...   reads images: for each a line "HEIGHT WIDTH" and the bytes
//                                      of its pixels, red, green and blue, or "error: MESSAGE"
//   image_tool --write-jpeg FILE ACROSS DOWN PROGRESSIVE ARITHMETIC
//                                      writes a picture whose colours have one sample for each
//                                      ACROSS x DOWN pixels
#include <ATen/ATen.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <jpeglib.h>

#include "polyak/core/error.h"
#include "polyak/trainer/read_image.h"

namespace {

void write_jpeg(const char* path, int across, int down, bool progressive, bool arithmetic) {
  constexpr unsigned kWidth = 53, kHeight = 37;
  jpeg_compress_struct image{};
  jpeg_error_mgr errors{};
  image.err = jpeg_std_error(&errors);
  jpeg_create_compress(&image);
  std::FILE* file = std::fopen(path, "wb");
  if (file == nullptr) std::exit(1);
  jpeg_stdio_dest(&image, file);
  image.image_width = kWidth;
  image.image_height = kHeight;
  image.input_components = 3;
  image.in_color_space = JCS_RGB;
  jpeg_set_defaults(&image);
  image.comp_info[0].h_samp_factor = across;
  image.comp_info[0].v_samp_factor = down;
  image.arith_code = arithmetic ? TRUE : FALSE;
  image.restart_interval = 3;
  if (progressive) jpeg_simple_progression(&image);
  jpeg_start_compress(&image, TRUE);
  std::vector<unsigned char> line(3 * kWidth);
  for (unsigned y = 0; y < kHeight; ++y) {
    for (unsigned x = 0; x < kWidth; ++x) {
      line[3 * x] = static_cast<unsigned char>(5 * x % 256);
      line[3 * x + 1] = static_cast<unsigned char>((6 * y + x * y) % 256);
      line[3 * x + 2] = static_cast<unsigned char>(x / 9 % 2 * 200 + y / 7 % 2 * 50);
    }
    JSAMPROW row = line.data();
    jpeg_write_scanlines(&image, &row, 1);
  }
  jpeg_finish_compress(&image);
  jpeg_destroy_compress(&image);
  std::fclose(file);
}

void print_image(const std::string& path, bool upright) {
  try {
    const at::Tensor pixels = polyak::read_image(path, upright).permute({1, 2, 0}).contiguous();
    std::printf("%lld %lld\n", static_cast<long long>(pixels.size(0)),
                static_cast<long long>(pixels.size(1)));
    std::fwrite(pixels.data_ptr<uint8_t>(), 1, static_cast<size_t>(pixels.numel()), stdout);
  } catch (const polyak::DataError& error) {
    std::printf("error: %s\n", error.what());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 7 && std::strcmp(argv[1], "--write-jpeg") == 0) {
    write_jpeg(argv[2], std::atoi(argv[3]), std::atoi(argv[4]), std::atoi(argv[5]) != 0,
               std::atoi(argv[6]) != 0);
    return 0;
  }
  const bool as_stored = argc > 1 && std::strcmp(argv[1], "--as-stored") == 0;
  for (int i = as_stored ? 2 : 1; i < argc; ++i) print_image(argv[i], !as_stored);
}
