// SPDX-License-Identifier: Apache-2.0
#include "polyak/vis_backends/tensorboard_vis_backend.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "polyak/core/error.h"

namespace polyak {
namespace {

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4), reflected.
uint32_t crc32c(const std::string& bytes) {
  static const auto table = [] {
    std::array<uint32_t, 256> entries{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ (value & 1 ? 0x82f63b78U : 0);
      entries[i] = value;
    }
    return entries;
  }();
  uint32_t crc = ~0U;
  for (const char byte : bytes)
    crc = (crc >> 8) ^ table[(crc ^ static_cast<unsigned char>(byte)) & 255];
  return ~crc;
}

/// A number's bytes, the lowest first, as the files have them on every machine.
template <class T>
std::string little_endian(T value) {
  std::string bytes;
  for (size_t i = 0; i < sizeof(T); ++i) bytes += static_cast<char>((value >> (8 * i)) & 255);
  return bytes;
}

std::string bytes_of(double value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  return little_endian(bits);
}

std::string bytes_of(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  return little_endian(bits);
}

/// Serialised fields of a protocol buffer: a key of number and wire type, then the value.
enum Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value > 127; value >>= 7) bytes += static_cast<char>((value & 127) | 128);
  return bytes + static_cast<char>(value);
}

std::string key(uint64_t number, Wire wire) {
  return varint((number << 3) | static_cast<uint64_t>(wire));
}

std::string text_field(uint64_t number, const std::string& text) {
  return key(number, kBytes) + varint(text.size()) + text;
}

/// tensorflow.Event: the time in seconds, to which the caller adds.
std::string event_now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return key(1, kFixed64) + bytes_of(std::chrono::duration<double>(now).count());
}

}  // namespace

void TensorboardVisBackendOptions::visit(OptionVisitor& /*visitor*/) {}

TensorboardVisBackend::TensorboardVisBackend(const TensorboardVisBackendOptions& /*options*/) {}

TensorboardVisBackend::~TensorboardVisBackend() = default;

void TensorboardVisBackend::open(const std::string& folder) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(
      std::chrono::system_clock::now().time_since_epoch());
  char host[256] = "";
  if (::gethostname(host, sizeof(host) - 1) != 0) std::strcpy(host, "localhost");
  name_ = fmt::format("events.out.tfevents.{:010}.{}.{}.0", seconds.count(), host, ::getpid());
  const auto path = std::filesystem::path(folder) / name_;
  file_.open(path, std::ios::binary);
  if (!file_) {
    fail<Error>("{} cannot be written: {}", path.string(), std::generic_category().message(errno));
  }
  write(event_now() + text_field(3, "brain.Event:2"));  // file_version
}

void TensorboardVisBackend::add_scalars(const Scalars& values, int64_t step) {
  std::string summary;
  for (const auto& [name, value] : values) {
    // Summary.Value: the tag and simple_value.
    summary +=
        text_field(1, text_field(1, name) + key(2, kFixed32) + bytes_of(static_cast<float>(value)));
  }
  write(event_now() + key(2, kVarint) + varint(static_cast<uint64_t>(step)) +
        text_field(5, summary));
}

void TensorboardVisBackend::write(const std::string& event) {
  const auto masked = [](const std::string& bytes) {
    const uint32_t crc = crc32c(bytes);
    return little_endian(((crc >> 15) | (crc << 17)) + 0xa282ead8U);
  };
  const std::string length = little_endian(static_cast<uint64_t>(event.size()));
  file_ << length << masked(length) << event << masked(event) << std::flush;
  if (!file_) {
    fail<Error>("{} cannot be written: {}", name_, std::generic_category().message(errno));
  }
}

}  // namespace polyak
