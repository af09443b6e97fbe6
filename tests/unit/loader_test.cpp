#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/version.h>

#include <cstdlib>
#include <fstream>

#include "polyak/averaging/averaged_model.h"
#include "polyak/averaging/register.h"
#include "polyak/loader/loader.h"
#include "polyak/runtime/hook.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

std::string plugin(const std::string& name) {
  return std::string(POLYAK_PLUGIN_DIR) + "/lib" + name + ".so";
}

void expect_refusal(const std::string& name, const std::vector<std::string>& parts) {
  Catalog catalog;
  std::string message;
  try {
    load_plugin(plugin(name), catalog);
  } catch (const PluginError& error) {
    message = error.what();
  }
  EXPECT_THAT(message, HasSubstr(name));
  for (const std::string& part : parts) EXPECT_THAT(message, HasSubstr(part));
  EXPECT_TRUE(catalog.of<Hook>().names().empty()) << "half registered";
}

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

TEST(Loader, ANameThatIsTakenRefusesTheWholePlugin) {
  Catalog catalog;
  load_plugin(plugin("good_plugin"), catalog);
  EXPECT_THAT([&] { load_plugin(plugin("same_names_plugin"), catalog); },
              ThrowsMessage<PluginError>(
                  AllOf(HasSubstr("same_names_plugin"), HasSubstr("registered already"))));
}

TEST(Loader, AnotherPluginInterfaceIsRefusedWithBothVersions) {
  expect_refusal("other_api_plugin", {"interface 99", "interface 1", "build the plugin again"});
}

TEST(Loader, AnotherLibTorchIsRefusedWithBothVersions) {
  expect_refusal("other_libtorch_plugin", {"0.4.1", TORCH_VERSION});
}

TEST(Loader, AnExceptionInTheEntryLeavesNothingRegistered) {
  expect_refusal("throwing_plugin", {"the licence server is asleep"});
}

TEST(Loader, ALibraryThatIsNoPluginIsRefusedWithTheRemedy) {
  expect_refusal("no_plugin", {"is no Polyak plugin", "POLYAK_PLUGIN(catalog)"});
}

TEST(Loader, AFileThatIsNoLibraryIsRefused) {
  const std::string file = ::testing::TempDir() + "/text.so";
  std::ofstream(file) << "hello";
  Catalog catalog;
  EXPECT_THAT([&] { load_plugin(file, catalog); },
              ThrowsMessage<PluginError>(HasSubstr("no shared library")));
}

TEST(Loader, ABareNameIsLookedUpBesideTheLibraryAndInThePathAndNowhereElse) {
  EXPECT_THAT(find_plugin("polyak_hooks", ""), HasSubstr("libpolyak_hooks.so"));
  EXPECT_THAT(
      [] { find_plugin("good_plugin", POLYAK_PLUGIN_DIR); },
      ThrowsMessage<PluginError>(AllOf(HasSubstr("has a slash"), HasSubstr("POLYAK_PLUGIN_PATH"))));
  setenv("POLYAK_PLUGIN_PATH", (std::string("/nowhere:") + POLYAK_PLUGIN_DIR).c_str(), 1);
  EXPECT_EQ(find_plugin("good_plugin", ""), plugin("good_plugin"));
  unsetenv("POLYAK_PLUGIN_PATH");
  EXPECT_EQ(find_plugin("./libgood_plugin.so", POLYAK_PLUGIN_DIR),
            std::string(POLYAK_PLUGIN_DIR) + "/./libgood_plugin.so");
}

}  // namespace
}  // namespace polyak::test
