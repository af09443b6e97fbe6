// SPDX-License-Identifier: Apache-2.0
#include "polyak/loader/loader.h"

#include <dlfcn.h>
#include <elf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/version.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "polyak/averaging/averaged_model.h"
#include "polyak/averaging/register.h"
#include "polyak/config/load.h"
#include "polyak/loader/plugin.h"
#include "polyak/runtime/hook.h"
#include "support/own_folder.h"

namespace polyak::test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::ThrowsMessage;

std::string plugin(const std::string& name) {
  return std::string(POLYAK_PLUGIN_DIR) + "/lib" + name + ".so";
}

bool is_open(const std::string& path) {
  void* handle = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (handle) dlclose(handle);
  return handle != nullptr;
}

/// An empty folder for one test.
std::string new_folder(const std::string& name) {
  std::string folder = own_folder() + "/" + name;
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

/// The message of the PluginError that loading gives; it names the file, and nothing stays of it.
std::string refusal_of(const std::string& path, Catalog& catalog) {
  std::string message;
  try {
    load_plugin(path, catalog);
    ADD_FAILURE() << path << " was accepted";
  } catch (const PluginError& error) {
    message = error.what();
  }
  EXPECT_THAT(message, HasSubstr(path));
  EXPECT_THAT(message, Not(HasSubstr("\n")));
  EXPECT_FALSE(is_open(path)) << "a refused library stayed open";
  return message;
}

void expect_refusal(const std::string& path, const std::vector<std::string>& parts) {
  Catalog catalog;
  const std::string message = refusal_of(path, catalog);
  for (const std::string& part : parts) EXPECT_THAT(message, HasSubstr(part));
  for (const RegistryBase* registry : catalog.all()) {
    EXPECT_THAT(registry->names(), ElementsAre()) << "half registered";
  }
  EXPECT_TRUE(catalog.libraries().empty());
}

struct NoOptions : Options {
  void visit(OptionVisitor&) override {}
};

TEST(Loader, AStrangersPluginBringsHooksAndAverages) {
  Catalog catalog;
  register_averages(catalog);
  load_plugin(plugin("good_plugin"), catalog);
  EXPECT_THAT(catalog.of<Hook>().names(), ElementsAre("GreetingHook"));

  torch::nn::Linear net(1, 1);
  AveragedModel::Context context;
  context.model = net;
  const auto average =
      catalog.of<AveragedModel>().build(Node::mapping({{"type", "HalfWay"}}), context);
  EXPECT_EQ(average->weight(7), 0.5);
  EXPECT_THAT(
      [&] {
        catalog.of<Hook>().build(Node::mapping({{"type", "GreetingHook"}, {"txt", "hi"}}), {});
      },
      ThrowsMessage<ConfigError>(HasSubstr("did you mean 'text'?")));
}

TEST(Loader, LoadingAPluginTwiceChangesNothing) {
  Catalog catalog;
  load_plugin(plugin("good_plugin"), catalog);
  load_plugin(plugin("good_plugin"), catalog);
  EXPECT_EQ(catalog.of<Hook>().names().size(), 1u);
}

TEST(Loader, AnAcceptedPluginStaysWhenItsCatalogIsGone) {
  const std::string copy = new_folder("accepted") + "/libcopy.so";
  fs::copy_file(plugin("good_plugin"), copy);
  {
    Catalog catalog;
    load_plugin(copy, catalog);
  }
  EXPECT_TRUE(is_open(copy));
}

// ---- what is refused

TEST(Loader, ANameThatIsTakenRefusesTheWholePlugin) {
  Catalog catalog;
  load_plugin(plugin("good_plugin"), catalog);
  EXPECT_THAT(refusal_of(plugin("same_names_plugin"), catalog),
              AllOf(HasSubstr("already registered"), HasSubstr("choose another name")));
  // One name of two was free: it must not be there either.
  Catalog other;
  other.of<AveragedModel>().add<NoOptions>("HalfWay", "",
                                           [](const NoOptions&, const AveragedModel::Context&) {
                                             return std::shared_ptr<AveragedModel>();
                                           });
  EXPECT_THAT(refusal_of(plugin("same_names_plugin"), other), HasSubstr("'HalfWay'"));
  EXPECT_TRUE(other.of<Hook>().names().empty());
}

TEST(Loader, APluginBuiltAgainstAnotherInterfaceIsRefusedWithBothNumbers) {
  expect_refusal(
      plugin("other_api_plugin"),
      {"interface 99", fmt::format("interface {}", kPluginApi), "build the plugin again"});
}

TEST(Loader, APluginOfTheInterfaceBeforeThisOneIsRefused) {
  expect_refusal(plugin("earlier_api_plugin"), {fmt::format("plugin interface {},", kPluginApi - 1),
                                                fmt::format("with interface {};", kPluginApi)});
}

TEST(Loader, APluginOfTheFirstInterfaceIsRefusedThoughItsInfoIsShorter) {
  expect_refusal(plugin("first_interface_plugin"),
                 {"interface 1,", fmt::format("interface {}", kPluginApi)});
}

TEST(Loader, APluginBuiltAgainstAnotherPolyakIsRefusedWithBothVersions) {
  expect_refusal(plugin("other_polyak_plugin"), {"Polyak 0.0.9", POLYAK_VERSION, "again"});
}

TEST(Loader, APluginBuiltAgainstAnotherLibTorchIsRefusedWithBothVersions) {
  expect_refusal(plugin("other_torch_plugin"), {"0.4.1", TORCH_VERSION, "the same LibTorch"});
}

TEST(Loader, APluginOfAnotherModeOfTheStandardLibraryIsRefusedWithBothCompilers) {
  expect_refusal(plugin("debug_mode_plugin"),
                 {POLYAK_COMPILER, "_GLIBCXX_DEBUG", POLYAK_CXX_ABI, "build the plugin again"});
}

TEST(Loader, AnyExceptionInTheEntryLeavesNothingRegistered) {
  expect_refusal(plugin("throwing_std_plugin"), {"the licence server is asleep", "none of its"});
  expect_refusal(plugin("throwing_empty_plugin"), {"none of its"});
  expect_refusal(plugin("throwing_other_plugin"), {"not a std::exception", "none of its"});
}

TEST(Loader, ALibraryThatIsNoPluginIsRefusedWithTheRemedy) {
  expect_refusal(plugin("no_plugin"), {"is not a Polyak plugin", "POLYAK_PLUGIN(catalog)"});
}

TEST(Loader, APluginThatLacksASymbolIsRefusedByItsName) {
  expect_refusal(plugin("missing_symbol_plugin"),
                 {"function_of_another_version", "build it again"});
}

TEST(Loader, WhatIsNoLibraryIsRefusedInPlainWords) {
  const std::string folder = new_folder("no_library");
  expect_refusal(folder + "/missing.so", {"no such file"});
  expect_refusal(folder, {"is a folder"});
  std::ofstream(folder + "/empty.so") << "";
  expect_refusal(folder + "/empty.so", {"is empty"});
  std::ofstream(folder + "/text.so") << std::string(1000, 'x');
  expect_refusal(folder + "/text.so", {"is not a shared library", "lib*.so"});
  std::ofstream(folder + "/short.so") << "\x7f"
                                         "ELF";
  expect_refusal(folder + "/short.so", {"is not a shared library"});
}

TEST(Loader, ALibraryForAnotherProcessorIsRefusedWithBoth) {
  const std::string path = new_folder("processor") + "/libother.so";
  fs::copy_file(plugin("good_plugin"), path);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(offsetof(Elf64_Ehdr, e_machine));
  const uint16_t machine = EM_S390;
  file.write(reinterpret_cast<const char*>(&machine), sizeof machine);
  file.close();
  expect_refusal(path, {"another processor", "machine 22"});
}

TEST(Loader, ALibraryThatWasCutOffIsRefused) {
  const std::string path = new_folder("cut") + "/libcut.so";
  fs::copy_file(plugin("good_plugin"), path);
  // Inside what dlopen maps, which would end the process by a bus error; behind that are sections
  // for debuggers only.
  for (const size_t length : {size_t{20000}, size_t{4096}, sizeof(Elf64_Ehdr)}) {
    fs::resize_file(path, length);
    expect_refusal(path, {"is truncated"});
  }
}

// ---- names

TEST(Loader, ABareNameIsLookedUpBesideTheLibraryAndInThePathAndNowhereElse) {
  EXPECT_THAT(find_plugin("polyak_hooks", ""), HasSubstr("libpolyak_hooks.so"));
  EXPECT_THAT([] { find_plugin("good_plugin", POLYAK_PLUGIN_DIR); },
              ThrowsMessage<PluginError>(
                  AllOf(HasSubstr("needs a slash"), HasSubstr("POLYAK_PLUGIN_PATH"))));
  setenv("POLYAK_PLUGIN_PATH", (std::string("/nowhere:") + POLYAK_PLUGIN_DIR).c_str(), 1);
  EXPECT_EQ(find_plugin("good_plugin", ""), plugin("good_plugin"));
  unsetenv("POLYAK_PLUGIN_PATH");
  EXPECT_EQ(find_plugin("./libgood_plugin.so", POLYAK_PLUGIN_DIR),
            std::string(POLYAK_PLUGIN_DIR) + "/./libgood_plugin.so");
}

TEST(Loader, APathInAConfigIsRelativeToTheFileThatWroteIt) {
  const std::string folder = new_folder("relative");
  fs::create_directories(folder + "/base");
  fs::copy_file(plugin("good_plugin"), folder + "/base/libmine.so");
  std::ofstream(folder + "/base/base.yaml") << "plugins: [./libmine.so]\n";
  std::ofstream(folder + "/own.yaml") << "_base_: base/base.yaml\n";
  Catalog catalog;
  load_plugins(load_config(folder + "/own.yaml"), catalog);
  EXPECT_TRUE(catalog.of<Hook>().contains("GreetingHook"));

  Catalog by_override;  // a command line speaks of the folder of the config that it names
  load_plugins(load_config(folder + "/own.yaml", {"plugins=base/libmine.so"}), by_override);
  EXPECT_TRUE(by_override.of<Hook>().contains("GreetingHook"));

  std::ofstream(folder + "/wrong.yaml") << "work_dir: x\nplugins: [./libmine.so]\n";
  Catalog none;
  EXPECT_THAT([&] { load_plugins(load_config(folder + "/wrong.yaml"), none); },
              ThrowsMessage<PluginError>(AllOf(HasSubstr("wrong.yaml:2:"), HasSubstr("plugins[0]"),
                                               HasSubstr("was not found"))));
}

// ---- many

int64_t resident_bytes() {
  int64_t pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

TEST(Loader, ThreeHundredCopiesCostBoundedMemoryAndRefusedOnesAreClosed) {
  const std::string folder = new_folder("many");
  const std::vector<std::string> broken{"throwing_std_plugin", "other_api_plugin",
                                        "missing_symbol_plugin", "same_names_plugin", "no_plugin"};
  constexpr int kOfEach = 50;
  // The dynamic loader knows a library by its inode, so each copy is a library of its own.
  auto copy = [&](const std::string& kind, int i) {
    std::string path = fmt::format("{}/lib{}_{}.so", folder, kind, i);
    fs::copy_file(plugin(kind), path);
    return path;
  };
  std::vector<std::unique_ptr<Catalog>> catalogs;
  std::vector<std::string> accepted;
  auto accept = [&](int i) {
    catalogs.push_back(std::make_unique<Catalog>());
    accepted.push_back(copy("good_plugin", i));
    load_plugin(accepted.back(), *catalogs.back());
  };
  auto refuse = [&](int i) {
    for (const std::string& kind : broken) refusal_of(copy(kind, i), *catalogs.front());
  };
  accept(0);  // first uses: exceptions, formats, the allocator's pools
  refuse(0);

  const int64_t before = resident_bytes();
  for (int i = 1; i < kOfEach; ++i) refuse(i);
  const int64_t by_refused = resident_bytes() - before;
  for (int i = 1; i < kOfEach; ++i) accept(i);
  const int64_t by_accepted = resident_bytes() - before - by_refused;
  RecordProperty("kib_by_refused", std::to_string(by_refused / 1024));
  RecordProperty("kib_by_accepted", std::to_string(by_accepted / 1024));
#ifndef POLYAK_TEST_SANITIZED  // which keep what was freed
  EXPECT_LT(by_refused, 1024 * 1024) << "of 245";
  EXPECT_LT(by_accepted, 49 * 256 * 1024) << "of 49";
#endif
  for (const std::string& path : accepted) EXPECT_TRUE(is_open(path)) << path;
  for (const auto& catalog : catalogs) {
    EXPECT_THAT(catalog->of<Hook>().names(), ElementsAre("GreetingHook"));
  }
}

}  // namespace
}  // namespace polyak::test
