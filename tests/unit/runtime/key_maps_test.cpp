// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/key_maps.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/modules/linear.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <set>

#include "polyak/core/log.h"
#include "support/own_folder.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::ThrowsMessage;

const char* const kMap = R"(
name: theirs
description: Two layers.
source: their library
signature: ['stem\.weight', 'blocks\.[0-9]+\.weight']
rules:
  - {from: 'stem\.(weight|bias)', to: 'backbone.conv.\1'}
  - {from: 'blocks\.0\.(.*)', to: 'backbone.first.\1'}
  - {from: 'blocks\.([0-9]+)\.(.*)', to: 'backbone.layers.\1.\2'}
  - {from: 'top\.(weight)', to: 'head.fc.\1'}
unseen:
  - {size: num_heads, of: backbone.conv.weight, values: {6: 2, 8: [2, 4]}}
)";

class KeyMaps : public ::testing::Test {
 protected:
  KeyMaps() {
    folder_ = own_folder() + "/" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(folder_);
    previous_ = set_log_sink([this](LogLevel level, std::string_view line) {
      (level == LogLevel::warning ? warnings_ : notes_) += fmt::format("{}\n", line);
    });
  }
  ~KeyMaps() override { set_log_sink(previous_); }

  KeyMap read(const std::string& text) const {
    const std::string file = folder_ + "/map.yaml";
    std::ofstream(file) << text;
    return read_key_map(file);
  }
  /// kMap with `from` replaced by `to`.
  static std::string changed(const std::string& from, const std::string& to) {
    std::string text = kMap;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos);
    return text.replace(at, from.size(), to);
  }
  static Value theirs(const std::string& prefix = "", int64_t width = 6) {
    return Value::dict({{prefix + "stem.weight", at::full({2, width}, 1)},
                        {prefix + "blocks.0.weight", at::full({3}, 2)},
                        {prefix + "blocks.1.weight", at::full({4}, 3)},
                        {prefix + "top.weight", at::full({5}, 4)}});
  }
  static std::vector<NamedTensor> ours(const std::string& prefix = "", int64_t width = 6) {
    return {{prefix + "backbone.conv.weight", at::zeros({2, width})},
            {prefix + "backbone.first.weight", at::zeros({3})},
            {prefix + "backbone.layers.1.weight", at::zeros({4})},
            {prefix + "head.fc.weight", at::zeros({5})}};
  }
  static std::vector<std::string> names_of(const Value& state_dict) {
    std::vector<std::string> names;
    for (const auto& entry : state_dict.entries()) names.push_back(entry.first.as_string());
    return names;
  }
  static std::vector<std::string> names_of(const std::vector<NamedTensor>& tensors) {
    std::vector<std::string> names;
    for (const NamedTensor& item : tensors) names.push_back(item.name);
    return names;
  }

  std::string folder_;
  std::string notes_;
  std::string warnings_;
  LogSink previous_;
};

TEST_F(KeyMaps, TheFirstRuleThatMatchesAWholeNameRenamesIt) {
  const KeyMap map = read(kMap);
  EXPECT_EQ(map.renamed("stem.bias"), "backbone.conv.bias");
  EXPECT_EQ(map.renamed("blocks.0.a.b"), "backbone.first.a.b");
  EXPECT_EQ(map.renamed("blocks.12.a"), "backbone.layers.12.a");
  for (const char* name : {"stem.bias.x", "a.stem.bias", "top.bias", ""}) {
    EXPECT_EQ(map.renamed(name), name);
  }
}

TEST_F(KeyMaps, RenamesAFileOfTheFamilyAndSaysSo) {
  Value state_dict = theirs();
  EXPECT_EQ(apply_key_map(state_dict, ModelRef(ours()), {read(kMap)}), "theirs");
  EXPECT_EQ(names_of(state_dict), names_of(ours()));
  EXPECT_EQ(state_dict.at("backbone.first.weight").as_tensor()[0].item<int>(), 2);
  EXPECT_THAT(notes_, AllOf(HasSubstr("named as in their library"), HasSubstr("key map theirs"),
                            HasSubstr("4 of the model's 4 tensors fit now, 0 did before")));
}

TEST_F(KeyMaps, PrefixesOfTheFileAndOfTheModelAreExchanged) {
  for (const std::string removed : {"module.", "a.module."}) {
    Value state_dict = theirs(removed);
    EXPECT_TRUE(apply_key_map(state_dict, ModelRef(ours()), {read(kMap)}));
    EXPECT_EQ(names_of(state_dict), names_of(ours()));
  }
  Value state_dict = theirs("module.");
  EXPECT_TRUE(apply_key_map(state_dict, ModelRef(ours("student.")), {read(kMap)}));
  EXPECT_EQ(names_of(state_dict), names_of(ours("student.")));
}

TEST_F(KeyMaps, OtherFilesStayAsTheyAre) {
  const auto expect_unchanged = [&](Value state_dict, const std::vector<NamedTensor>& model) {
    const auto names = names_of(state_dict);
    EXPECT_EQ(apply_key_map(state_dict, ModelRef(model), {read(kMap)}), std::nullopt);
    EXPECT_EQ(names_of(state_dict), names);
    EXPECT_THAT(notes_ + warnings_, IsEmpty());
  };
  Value unsigned_file = theirs();
  unsigned_file.erase("stem.weight");
  expect_unchanged(unsigned_file, ours());  // lacks what the signature wants

  std::vector<NamedTensor> as_theirs;
  const Value file = theirs();
  for (const auto& [key, value] : file.entries()) {
    as_theirs.push_back({key.as_string(), value.as_tensor()});
  }
  expect_unchanged(file, as_theirs);
  expect_unchanged(theirs(), {{"backbone.conv.weight", at::zeros({7, 7})}});  // other shapes

  Value counter = theirs();  // which every network with BatchNorm has
  counter.set("stem.bias", at::zeros({}, at::kLong));
  expect_unchanged(counter, {{"backbone.conv.bias", at::zeros({}, at::kLong)},
                             {"backbone.conv.weight", at::zeros({7, 7})}});

  Value twice = theirs();
  twice.set("backbone.conv.weight", at::zeros({2, 6}));  // so would stem.weight be named
  expect_unchanged(twice, ours());

  Value numbered = theirs();
  numbered.set(7, at::zeros({1}));
  EXPECT_EQ(apply_key_map(numbered, ModelRef(ours()), {read(kMap)}), std::nullopt);
  Value empty = Value::dict();
  EXPECT_EQ(apply_key_map(empty, ModelRef(ours()), {read(kMap)}), std::nullopt);
}

TEST_F(KeyMaps, TheMapAfterWhichTheMostTensorsFitIsUsed) {
  const KeyMap worse = read(changed("'blocks\\.0\\.(.*)', to: 'backbone.first.\\1'",
                                    "'blocks\\.0\\.(.*)', to: 'backbone.second.\\1'"));
  Value state_dict = theirs();
  EXPECT_TRUE(apply_key_map(state_dict, ModelRef(ours()), {worse, read(kMap)}));
  EXPECT_EQ(names_of(state_dict), names_of(ours()));
}

TEST_F(KeyMaps, WhatIsNotATensorAndHugeNamesDoNoHarm) {
  Value state_dict = theirs();
  state_dict.set("top.weight", "text");
  const std::string huge(1 << 22, '1');
  state_dict.set("blocks." + huge, at::zeros({1}));
  EXPECT_TRUE(apply_key_map(state_dict, ModelRef(ours()), {read(kMap)}));
  EXPECT_THAT(notes_, HasSubstr("3 of the model's 4"));
  EXPECT_TRUE(state_dict.contains("blocks." + huge));

  std::string many;  // prefixes that all names share
  for (int i = 0; i < 1 << 20; ++i) many += "a.";
  Value deep = theirs(many);
  EXPECT_EQ(apply_key_map(deep, ModelRef(ours()), {read(kMap)}), std::nullopt);
  std::vector<NamedTensor> wide = ours();
  for (int i = 0; i < 10000; ++i) wide.push_back({fmt::format("part{}.w", i), at::zeros({1})});
  Value file = theirs();
  for (int i = 0; i < 10000; ++i)
    file.entries().emplace_back(fmt::format("w{}", i), at::zeros({1}));
  EXPECT_TRUE(apply_key_map(file, ModelRef(wide), {read(kMap)}));
}

/// A model that knows its number of heads.
class Attentive : public torch::nn::Module, public UnseenSizes {
 public:
  Attentive(int64_t width, std::vector<int64_t> heads) : heads_(std::move(heads)) {
    const auto conv = std::make_shared<torch::nn::Module>();
    conv->register_parameter("weight", at::zeros({2, width}));
    const auto backbone = std::make_shared<torch::nn::Module>();
    backbone->register_module("conv", conv);
    register_module("backbone", backbone);
  }
  std::vector<std::pair<std::string, int64_t>> unseen_sizes() const override {
    std::vector<std::pair<std::string, int64_t>> sizes{{"patch_size", 1}};
    for (const int64_t heads : heads_) sizes.emplace_back("num_heads", heads);
    return sizes;
  }

 private:
  std::vector<int64_t> heads_;
};

TEST_F(KeyMaps, SizesThatTensorsDoNotShowAreComparedWithTheModels) {
  const KeyMap map = read(kMap);
  const auto apply = [&](int64_t width, std::vector<int64_t> heads) {
    notes_.clear();
    warnings_.clear();
    Value state_dict = theirs("", width);
    const auto part = std::make_shared<Attentive>(width, std::move(heads));
    EXPECT_TRUE(apply_key_map(state_dict, ModelRef(part), {map}));
  };
  apply(6, {12});
  EXPECT_THAT(warnings_, AllOf(HasSubstr("the file does not contain num_heads"),
                               HasSubstr("their library's networks of width 6 have 2"),
                               HasSubstr("this model has 12"), HasSubstr("set num_heads to 2")));
  apply(6, {2, 12});
  EXPECT_THAT(warnings_, HasSubstr("this model has 2 and 12"));
  apply(6, {2});
  EXPECT_THAT(warnings_, IsEmpty());
  EXPECT_THAT(notes_, Not(HasSubstr("num_heads")));
  apply(8, {4});
  EXPECT_THAT(warnings_, IsEmpty());
  EXPECT_THAT(notes_, AllOf(HasSubstr("width 8 have 2 or 4"), HasSubstr("this model has 4")));
  apply(6, {});
  EXPECT_THAT(warnings_, IsEmpty());
  EXPECT_THAT(notes_, HasSubstr("width 6 have 2, and this model must have the same"));
  apply(7, {3});
  EXPECT_THAT(warnings_, IsEmpty());
  EXPECT_THAT(notes_, AllOf(HasSubstr("has the width 7"), HasSubstr("which has 3")));

  Value state_dict = theirs();  // a list of tensors says nothing
  EXPECT_TRUE(apply_key_map(state_dict, ModelRef(ours()), {map}));
  EXPECT_THAT(notes_, HasSubstr("width 6 have 2, and this model must have the same"));
}

TEST_F(KeyMaps, WrongMapsAreRefusedWithTheirPlace) {
  const auto expect_refused = [&](const std::string& text, const std::string& place,
                                  const std::string& reason) {
    EXPECT_THAT([&] { read(text); },
                ThrowsMessage<ConfigError>(
                    AllOf(HasSubstr("map.yaml:"), HasSubstr(place), HasSubstr(reason))));
  };
  expect_refused(changed("'stem\\.(weight|bias)'", "'stem\\.(weight|bias'"), "rules[0].from",
                 "is not a regular expression");
  expect_refused(changed("'stem\\.weight'", "'[a'"), "signature[0]", "is not a regular expression");
  expect_refused(changed("backbone.conv.\\1", "backbone.conv.\\2"), "rules[0].to",
                 "\\2 is not one of the 1 groups");
  expect_refused(changed("rules:", "rule:"), "rule", "did you mean 'rules'?");
  expect_refused(changed("name: theirs", ""), "name", "missing");
  expect_refused(changed("{6: 2,", "{six: 2,"), "unseen[0].values.six", "not a width");
  expect_refused(changed("{6: 2,", "{6: two,"), "unseen[0].values.6", "integer");
  expect_refused(changed("['stem\\.weight', 'blocks\\.[0-9]+\\.weight']", "[]"), "signature",
                 "at least one");
  EXPECT_THAT([&] { read_key_map(folder_ + "/none.yaml"); },
              ThrowsMessage<ConfigError>(HasSubstr("none.yaml")));
}

// ---- those that come with Polyak

TEST_F(KeyMaps, TheShippedOnesAreFoundAndReadByTheirNames) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(key_maps_folder())) {
    names.insert(entry.path().stem().string());
    EXPECT_EQ(read_key_map(entry.path().string()).name, entry.path().stem().string());
  }
  std::set<std::string> found;
  for (const KeyMap& map : shipped_key_maps()) found.insert(map.name);
  EXPECT_EQ(found, names);
  EXPECT_GE(found.size(), 4u);
}

TEST_F(KeyMaps, TheShippedOnesNameTheTensorsOfEachFamily) {
  const std::map<std::string, std::map<std::string, std::string>> families{
      {"torchvision_resnet",
       {{"conv1.weight", "backbone.conv1.weight"},
        {"bn1.running_mean", "backbone.bn1.running_mean"},
        {"layer1.0.downsample.1.num_batches_tracked",
         "backbone.layer1.0.downsample.1.num_batches_tracked"},
        {"layer4.2.conv3.weight", "backbone.layer4.2.conv3.weight"},
        {"fc.bias", "head.fc.bias"}}},
      {"timm_vit",
       {{"cls_token", "backbone.cls_token"},
        {"pos_embed", "backbone.pos_embed"},
        {"patch_embed.proj.bias", "backbone.patch_embed.projection.bias"},
        {"blocks.11.norm1.weight", "backbone.layers.11.ln1.weight"},
        {"blocks.0.norm2.bias", "backbone.layers.0.ln2.bias"},
        {"blocks.3.attn.qkv.weight", "backbone.layers.3.attn.qkv.weight"},
        {"blocks.3.attn.proj.bias", "backbone.layers.3.attn.proj.bias"},
        {"blocks.3.mlp.fc1.weight", "backbone.layers.3.ffn.layers.0.0.weight"},
        {"blocks.3.mlp.fc2.bias", "backbone.layers.3.ffn.layers.1.bias"},
        {"norm.weight", "backbone.ln1.weight"},
        {"head.weight", "head.fc.weight"}}},
      {"torchvision_vit",
       {{"class_token", "backbone.cls_token"},
        {"conv_proj.weight", "backbone.patch_embed.projection.weight"},
        {"encoder.pos_embedding", "backbone.pos_embed"},
        {"encoder.layers.encoder_layer_11.ln_2.bias", "backbone.layers.11.ln2.bias"},
        {"encoder.layers.encoder_layer_1.self_attention.in_proj_weight",
         "backbone.layers.1.attn.qkv.weight"},
        {"encoder.layers.encoder_layer_1.self_attention.out_proj.bias",
         "backbone.layers.1.attn.proj.bias"},
        {"encoder.layers.encoder_layer_1.mlp.0.weight", "backbone.layers.1.ffn.layers.0.0.weight"},
        {"encoder.layers.encoder_layer_1.mlp.linear_1.bias",
         "backbone.layers.1.ffn.layers.0.0.bias"},
        {"encoder.layers.encoder_layer_1.mlp.3.bias", "backbone.layers.1.ffn.layers.1.bias"},
        {"encoder.layers.encoder_layer_1.mlp.linear_2.weight",
         "backbone.layers.1.ffn.layers.1.weight"},
        {"encoder.ln.weight", "backbone.ln1.weight"},
        {"heads.head.bias", "head.fc.bias"}}},
      {"mmpretrain_vit",
       {{"backbone.layers.0.ln1.weight", "backbone.layers.0.ln1.weight"},
        {"head.layers.head.weight", "head.fc.weight"}}},
  };
  size_t tested = 0;
  for (const KeyMap& map : shipped_key_maps()) {
    const auto family = families.find(map.name);
    ASSERT_NE(family, families.end()) << map.name << " has no names here";
    for (const auto& [theirs, ours] : family->second) EXPECT_EQ(map.renamed(theirs), ours);
    ++tested;
  }
  EXPECT_EQ(tested, families.size());
}

TEST_F(KeyMaps, TheShippedOnesAreUsedWithoutBeingNamed) {
  const std::string names[] = {"conv1.weight", "bn1.running_mean", "layer4.0.conv2.weight"};
  std::vector<NamedTensor> model{{"head.fc.weight", at::zeros({7, 2})}};
  Value state_dict = Value::dict({{"fc.weight", at::zeros({9, 2})}});
  for (const std::string& name : names) {
    model.push_back({"backbone." + name, at::zeros({2})});
    state_dict.set(name, at::ones({2}));
  }
  EXPECT_EQ(apply_key_map(state_dict, ModelRef(model)), "torchvision_resnet");
  EXPECT_TRUE(state_dict.contains("head.fc.weight"));
  EXPECT_THAT(notes_, HasSubstr("3 of the model's 4 tensors fit now, 0 did before"));
  EXPECT_EQ(apply_key_map(state_dict, ModelRef(model)), std::nullopt);  // they are Polyak's now
}

}  // namespace
}  // namespace polyak::test
