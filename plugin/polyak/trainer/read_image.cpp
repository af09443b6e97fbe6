// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/read_image.h"

#include <ATen/Functions.h>
#include <png.h>

#include <csetjmp>
#include <cstdio>  // jpeglib.h needs it
#include <cstring>
#include <filesystem>
#include <fstream>

#include <jpeglib.h>

#include <jerror.h>

#include "polyak/core/error.h"
#include "polyak/trainer/exif.h"

namespace polyak {
namespace {

// libjpeg and libpng report errors by longjmp, which skips destructors. So a function that calls
// setjmp has no objects with destructors in its own frame: they belong to the decoders, which live
// outside of it.

using Bytes = std::vector<unsigned char>;

struct Failure {
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX] = "";
};

class JpegDecoder {
 public:
  explicit JpegDecoder(const Bytes& bytes) : bytes_(bytes) {}
  ~JpegDecoder() { jpeg_destroy_decompress(&image_); }
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  /// Each returns false on failure: message() has the reason.
  bool read_header();
  bool read_pixels(unsigned char* pixels, unsigned char* cmyk_line);
  const char* message() const { return errors_.failure.message; }

  int64_t height() const { return image_.image_height; }
  int64_t width() const { return image_.image_width; }
  int orientation() const { return orientation_; }

 private:
  struct Errors : jpeg_error_mgr {
    Failure failure;
    bool in_pixels = false;
  };
  [[noreturn]] static void on_error(j_common_ptr image);
  static void on_message(j_common_ptr image, int level);
  int find_orientation() const;

  const Bytes& bytes_;
  int orientation_ = 1;
  jpeg_decompress_struct image_{};
  Errors errors_{};
};

void JpegDecoder::on_error(j_common_ptr image) {
  auto& errors = static_cast<Errors&>(*image->err);
  errors.format_message(image, errors.failure.message);
  std::longjmp(errors.failure.jump, 1);
}

/// libjpeg only warns about truncated or damaged data, and then makes up the pixels.
void JpegDecoder::on_message(j_common_ptr image, int level) {
  if (level >= 0) return;  // no warning
  switch (image->err->msg_code) {
    case JWRN_ADOBE_XFORM:  // header values without effect on the pixels
    case JWRN_JFIF_MAJOR:
    case JWRN_NOT_SEQUENTIAL:
      return;
    case JWRN_EXTRANEOUS_DATA:  // harmless between segments of the header
      if (!static_cast<Errors&>(*image->err).in_pixels) return;
      break;
    default:
      break;
  }
  on_error(image);
}

bool JpegDecoder::read_header() {
  image_.err = jpeg_std_error(&errors_);
  errors_.error_exit = on_error;
  errors_.emit_message = on_message;
  if (setjmp(errors_.failure.jump) != 0) return false;
  jpeg_create_decompress(&image_);
  jpeg_mem_src(&image_, bytes_.data(), static_cast<unsigned long>(bytes_.size()));
  jpeg_save_markers(&image_, JPEG_APP0 + 1, 0xFFFF);
  jpeg_read_header(&image_, TRUE);
  orientation_ = find_orientation();  // the markers are kept until the pixels are read
  image_.out_color_space = image_.num_components == 4 ? JCS_CMYK : JCS_RGB;
  return true;
}

/// Like PIL: treats all CMYK as inverted, as Adobe's programs write it, with rounded products.
void cmyk_to_rgb(const unsigned char* cmyk, unsigned char* rgb, size_t count) {
  for (size_t i = 0; i < count; ++i, cmyk += 4, rgb += 3) {
    for (int channel = 0; channel < 3; ++channel) {
      const int product = (255 - cmyk[channel]) * cmyk[3] + 128;
      const int ink = ((product >> 8) + product) >> 8;
      rgb[channel] = static_cast<unsigned char>(cmyk[3] > ink ? cmyk[3] - ink : 0);
    }
  }
}

bool JpegDecoder::read_pixels(unsigned char* pixels, unsigned char* cmyk_line) {
  if (setjmp(errors_.failure.jump) != 0) return false;
  errors_.in_pixels = true;
  jpeg_start_decompress(&image_);
  while (image_.output_scanline < image_.output_height) {
    unsigned char* line = pixels + size_t{3} * image_.output_width * image_.output_scanline;
    const bool cmyk = image_.out_color_space == JCS_CMYK;
    JSAMPROW target = cmyk ? cmyk_line : line;
    jpeg_read_scanlines(&image_, &target, 1);
    if (cmyk) cmyk_to_rgb(cmyk_line, line, image_.output_width);
  }
  jpeg_finish_decompress(&image_);  // checks for the end of the image
  return true;
}

int JpegDecoder::find_orientation() const {
  constexpr size_t kPrefix = 6;  // "Exif", 0 and a byte without meaning
  for (auto marker = image_.marker_list; marker != nullptr; marker = marker->next) {
    if (marker->data_length >= kPrefix && std::memcmp(marker->data, "Exif", 5) == 0) {
      return exif_orientation(marker->data + kPrefix, marker->data_length - kPrefix);
    }
  }
  return 1;
}

class PngDecoder {
 public:
  explicit PngDecoder(const Bytes& bytes) : bytes_(bytes) {}
  ~PngDecoder() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngDecoder(const PngDecoder&) = delete;
  PngDecoder& operator=(const PngDecoder&) = delete;

  /// Each returns false on failure: message() has the reason.
  bool read_header();
  bool read_pixels(unsigned char* pixels);
  const char* message() const { return failure_.message; }

  int64_t height() const { return png_get_image_height(png_, info_); }
  int64_t width() const { return png_get_image_width(png_, info_); }
  /// Known after reading the pixels, since an eXIf chunk may follow them.
  int orientation() const;

 private:
  [[noreturn]] static void on_error(png_structp png, png_const_charp message);
  static void on_warning(png_structp, png_const_charp) {}
  static void read(png_structp png, png_bytep target, size_t count);

  const Bytes& bytes_;
  size_t offset_ = 0;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  Failure failure_;
};

void PngDecoder::on_error(png_structp png, png_const_charp message) {
  auto& failure = static_cast<PngDecoder*>(png_get_error_ptr(png))->failure_;
  std::snprintf(failure.message, sizeof failure.message, "%s", message);
  std::longjmp(failure.jump, 1);
}

void PngDecoder::read(png_structp png, png_bytep target, size_t count) {
  auto& self = *static_cast<PngDecoder*>(png_get_io_ptr(png));
  if (count > self.bytes_.size() - self.offset_) png_error(png, "the file ends early");
  std::memcpy(target, self.bytes_.data() + self.offset_, count);
  self.offset_ += count;
}

bool PngDecoder::read_header() {
  if (setjmp(failure_.jump) != 0) return false;
  png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning);
  if (png_ != nullptr) info_ = png_create_info_struct(png_);
  if (info_ == nullptr) {
    std::strcpy(failure_.message, "libpng is out of memory");
    return false;
  }
  png_set_read_fn(png_, this, read);
  png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
  // Only the pixels: no gamma, no profile, no text. eXIf is kept unparsed, since libpng's own
  // reader refuses some that PIL accepts.
  png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
  png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_ALWAYS,
                              reinterpret_cast<png_const_bytep>("eXIf"), 1);
  png_read_info(png_, info_);
  return true;
}

bool PngDecoder::read_pixels(unsigned char* pixels) {
  if (setjmp(failure_.jump) != 0) return false;
  const png_byte colour = png_get_color_type(png_, info_);
  png_set_strip_16(png_);
  if (colour == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png_);
  if (colour == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(png_);
  if ((colour & PNG_COLOR_MASK_COLOR) == 0) png_set_gray_to_rgb(png_);
  png_set_strip_alpha(png_);
  const int passes = png_set_interlace_handling(png_);
  png_read_update_info(png_, info_);
  const size_t line = size_t{3} * png_get_image_width(png_, info_);
  if (png_get_rowbytes(png_, info_) != line)
    png_error(png_, "its pixels cannot be converted to RGB");
  for (int pass = 0; pass < passes; ++pass) {
    for (png_uint_32 row = 0; row < png_get_image_height(png_, info_); ++row) {
      png_read_row(png_, pixels + line * row, nullptr);
    }
  }
  png_read_end(png_, info_);
  return true;
}

int PngDecoder::orientation() const {
  png_unknown_chunkp chunks = nullptr;
  const int count = png_get_unknown_chunks(png_, info_, &chunks);
  for (int i = 0; i < count; ++i) {
    if (std::memcmp(chunks[i].name, "eXIf", 4) != 0) continue;
    // Some programs write JPEG's prefix before it.
    const bool prefixed = chunks[i].size >= 6 && std::memcmp(chunks[i].data, "Exif\0", 6) == 0;
    const size_t start = prefixed ? 6 : 0;
    return exif_orientation(chunks[i].data + start, chunks[i].size - start);
  }
  return 1;
}

/// An uninitialised uint8 [height, width, 3].
template <class Decoder>
at::Tensor make_pixels(const Decoder& decoder, const std::string& path) {
  constexpr int64_t kMostPixels = 178956970;  // like PIL
  const int64_t height = decoder.height(), width = decoder.width();
  if (height > kMostPixels / width) {
    fail<DataError>("{}: has {} x {} pixels, more than the limit of {}", path, width, height,
                    kMostPixels);
  }
  return at::empty({height, width, 3}, at::kByte);
}

/// An upright view of an image with this EXIF orientation, uint8 [height, width, 3].
at::Tensor upright(const at::Tensor& pixels, int orientation) {
  at::Tensor turned = orientation >= 5 ? pixels.transpose(0, 1) : pixels;
  std::vector<int64_t> mirrored;
  if (orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8) {
    mirrored.push_back(0);
  }
  if (orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7) {
    mirrored.push_back(1);
  }
  return mirrored.empty() ? turned : turned.flip(mirrored);
}

at::Tensor decode_jpeg(const Bytes& bytes, const std::string& path, bool orientation) {
  JpegDecoder decoder(bytes);
  at::Tensor pixels;
  bool right = decoder.read_header();
  if (right) {
    pixels = make_pixels(decoder, path);
    Bytes cmyk_line(static_cast<size_t>(4 * decoder.width()));
    right = decoder.read_pixels(pixels.data_ptr<uint8_t>(), cmyk_line.data());
  }
  if (!right) fail<DataError>("{}: contains no complete JPEG image: {}", path, decoder.message());
  return orientation ? upright(pixels, decoder.orientation()) : pixels;
}

at::Tensor decode_png(const Bytes& bytes, const std::string& path, bool orientation) {
  PngDecoder decoder(bytes);
  at::Tensor pixels;
  bool right = decoder.read_header();
  if (right) {
    pixels = make_pixels(decoder, path);
    right = decoder.read_pixels(pixels.data_ptr<uint8_t>());
  }
  if (!right) fail<DataError>("{}: contains no complete PNG image: {}", path, decoder.message());
  return orientation ? upright(pixels, decoder.orientation()) : pixels;
}

}  // namespace

std::vector<unsigned char> read_bytes(const std::string& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) fail<DataError>("{}: cannot be read: {}", path, error.message());
  Bytes bytes(size);
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
  if (!file) fail<DataError>("{}: cannot be read", path);
  return bytes;
}

at::Tensor decode_image(const std::vector<unsigned char>& bytes, const std::string& path,
                        bool orientation) {
  if (bytes.empty()) fail<DataError>("{}: is empty", path);
  const auto begins = [&](const char* signature, size_t size) {
    return bytes.size() >= size && std::memcmp(bytes.data(), signature, size) == 0;
  };
  at::Tensor pixels;
  if (begins("\x89PNG\r\n\x1a\n", 8)) {
    pixels = decode_png(bytes, path, orientation);
  } else if (begins("\xFF\xD8\xFF", 3)) {
    pixels = decode_jpeg(bytes, path, orientation);
  } else {
    fail<DataError>("{}: is not a JPEG or PNG image", path);
  }
  return pixels.permute({2, 0, 1});
}

at::Tensor read_image(const std::string& path, bool orientation) {
  return decode_image(read_bytes(path), path, orientation);
}

}  // namespace polyak
