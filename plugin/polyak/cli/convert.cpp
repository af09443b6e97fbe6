// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "polyak/checkpoint/format.h"
#include "polyak/checkpoint/libtorch_archive.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/cli/command_text.h"
#include "polyak/cli/commands.h"
#include "polyak/cli/console_log.h"
#include "polyak/cli/file_summary.h"
#include "polyak/cli/streams.h"
#include "polyak/core/error.h"
#include "polyak/runtime/file_weights.h"
#include "polyak/runtime/key_maps.h"
#include "polyak/runtime/publish.h"
#include "polyak/runtime/run_checkpoint.h"

namespace polyak::cli {
namespace {

struct ConvertArguments {
  std::string in;
  std::string out;
  std::string format;
  std::string weights;
  std::string key;
  std::string dtype;
  std::string map;
};

/// The checkpoint whose state_dict is what the arguments choose.
Value read_chosen(const ConvertArguments& arguments) {
  if (arguments.weights.empty()) return read_checkpoint(arguments.in, arguments.key);
  Value file = read_checkpoint_file(arguments.in);
  if (!file.is_dict()) {
    fail<CheckpointError>("{}: holds a {}, expected a dict", arguments.in, file.kind_name());
  }
  Value chosen;
  name_file_in_errors(arguments.in,
                      [&] { chosen = checkpoint_with_kind(std::move(file), arguments.weights); });
  return chosen;
}

void write(const ConvertArguments& arguments, const Value& tensors) {
  if (arguments.format == "archive") {
    write_libtorch_archive(arguments.out, tensors);
  } else if (arguments.format == "pth") {
    write_pth(arguments.out, tensors);
  } else {
    write_checkpoint_file(arguments.out, tensors);
  }
}

/// Renames the tensors by a key map, a file or one of those that come with Polyak.
void apply_map(Value& tensors, const std::string& wanted) {
  std::error_code error;
  std::vector<std::string> names;
  std::optional<KeyMap> map;
  if (std::filesystem::exists(wanted, error)) {
    map = read_key_map(wanted);
  } else {
    for (KeyMap& known : shipped_key_maps()) {
      names.push_back(known.name);
      if (known.name == wanted) map = std::move(known);
    }
  }
  if (!map) {
    fail<ConfigError>("--map {}: is neither a file nor a key map of Polyak; those are {}", wanted,
                      fmt::join(names, ", "));
  }
  size_t changed = 0;
  Value renamed = Value::dict({}, /*ordered=*/true);
  for (const auto& [key, value] : tensors.entries()) {
    std::string name = map->renamed(key.as_string());
    changed += name != key.as_string() ? 1 : 0;
    if (renamed.contains(name)) {
      fail<CheckpointError>("--map {}: two tensors get the name '{}'", wanted, name);
    }
    renamed.set(name, value);
  }
  if (changed == 0) fail<CheckpointError>("--map {}: renames none of the file's tensors", wanted);
  tensors = std::move(renamed);
}

/// Before anything is read: a name that says nothing of the format.
void check_format(ConvertArguments& arguments) {
  if (!arguments.format.empty()) return;
  if (checkpoint_format(arguments.out)) return;
  const std::string extension = std::filesystem::path(arguments.out).extension().string();
  fail<ConfigError>(
      "{}: {} does not say the format; add --format pth, safetensors or archive (what "
      "torch::load(module, file) reads)",
      arguments.out, extension.empty() ? "a name without extension" : "the extension " + extension);
}

int convert(ConvertArguments arguments) {
  const ConsoleLog log;
  check_format(arguments);
  if (!arguments.weights.empty() && !arguments.key.empty()) {
    fail<ConfigError>("--weights and --key both choose the weights; give one of them");
  }
  std::error_code error;
  if (std::filesystem::equivalent(arguments.in, arguments.out, error)) {
    fail<ConfigError>("{}: would be replaced by its own conversion; write to another file",
                      arguments.in);
  }
  const Value checkpoint = read_chosen(arguments);
  Value tensors = cast_tensors(checkpoint.at("state_dict"), arguments.dtype);
  if (tensors.entries().empty()) fail<CheckpointError>("{}: holds no tensors", arguments.in);
  if (!arguments.map.empty()) apply_map(tensors, arguments.map);
  write(arguments, tensors);
  const auto size = static_cast<int64_t>(std::filesystem::file_size(arguments.out, error));
  print("{}: {} tensors, {}\n", arguments.out, tensors.entries().size(), size_text(size));
  return 0;
}

}  // namespace

void add_convert(CLI::App& app, int& status) {
  CLI::App* command = app.add_subcommand(
      "convert", "Write the weights of a file as .pth, .safetensors or LibTorch archive");
  auto arguments = std::make_shared<ConvertArguments>();
  command->add_option("in", arguments->in, "A file of weights, of any kind")
      ->type_name(kFile)
      ->required();
  command->add_option("out", arguments->out, "The file to write")->type_name(kFile)->required();
  command
      ->add_option("--format", arguments->format,
                   "pth, safetensors or archive; default: by the extension of OUT")
      ->check(CLI::IsMember({"pth", "safetensors", "archive"}));
  command->add_option("--weights", arguments->weights,
                      "raw, averaged, or the name of an average; default: the file's state_dict");
  command->add_option("--key", arguments->key,
                      "Where the weights are in the file, such as ema; default: found");
  command
      ->add_option("--dtype", arguments->dtype,
                   "float64, float32, float16 or bfloat16, for floating-point tensors")
      ->check(CLI::IsMember({"float64", "float32", "float16", "bfloat16"}));
  command
      ->add_option("--map", arguments->map,
                   "A key map (YAML) or the name of one of Polyak's, such as timm_vit")
      ->type_name(kFile);
  command->callback([arguments, &status] { status = convert(*arguments); });
}

}  // namespace polyak::cli
