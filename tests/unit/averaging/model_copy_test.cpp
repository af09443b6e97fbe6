// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/model_copy.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "polyak/core/error.h"
#include "support/tiny_net.h"

namespace polyak::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::ThrowsMessage;

/// Not Cloneable.
struct Plain : torch::nn::Module {
  Plain() {
    register_parameter("own", at::ones({2}));
    register_module("inner", torch::nn::BatchNorm1d(2));
  }
};

std::vector<std::string> names_of(const std::vector<NamedTensor>& tensors) {
  std::vector<std::string> names;
  for (const NamedTensor& item : tensors) names.push_back(item.name);
  return names;
}

ModelCopy copy_of(const ModelRef& model,
                  const std::function<std::shared_ptr<torch::nn::Module>()>& factory = {}) {
  return copy_model(model, model.tensors(), factory, std::nullopt);
}

TEST(ModelCopy, OfACloneableModelIsItsClone) {
  TinyNet net;
  const ModelCopy copy = copy_of(net);
  EXPECT_THAT(copy.why_not_to_run, IsEmpty());
  const auto clone = std::dynamic_pointer_cast<TinyNetImpl>(copy.module);
  ASSERT_TRUE(clone);
  EXPECT_FALSE(clone->conv->weight.is_same(net->conv->weight));
}

TEST(ModelCopy, OfAnotherModelIsATreeOfItsNamesAndSaysWhyItCannotRun) {
  Plain net;
  const ModelCopy copy = copy_of(net);
  EXPECT_THAT(copy.why_not_to_run, HasSubstr("clone() has not been implemented"));
  EXPECT_EQ(names_of(ModelRef(copy.module).tensors()), names_of(ModelRef(net).tensors()));
  const ModelRef list({{"a.b", at::ones({2})}, {"a.c", at::zeros({}, at::kLong), /*buffer=*/true}});
  const ModelCopy of_list = copy_of(list);
  EXPECT_THAT(of_list.why_not_to_run, HasSubstr("list of tensors"));
  EXPECT_THAT(names_of(ModelRef(of_list.module).tensors()), ElementsAre("a.b", "a.c"));
  EXPECT_TRUE(ModelRef(of_list.module).tensors()[1].buffer);
}

TEST(ModelCopy, ComesFromTheFactoryWhereThereIsOne) {
  Plain net;
  const auto made = std::make_shared<Plain>();
  const ModelCopy copy = copy_of(net, [&] { return made; });
  EXPECT_EQ(copy.module, made);
  EXPECT_THAT(copy.why_not_to_run, IsEmpty());
  EXPECT_THAT([&] { copy_of(net, [] { return nullptr; }); },
              ThrowsMessage<Error>(HasSubstr("factory returned no module")));
}

TEST(ModelCopy, HasTheTrainModeOfEachModule) {
  TinyNet net;
  net->bn->eval();
  const ModelCopy copy = copy_of(net);
  EXPECT_TRUE(copy.module->is_training());
  EXPECT_FALSE(copy.module->named_children()["bn"]->is_training());
}

TEST(ModelCopy, DrawsNoRandomNumbersOfTheProgram) {
  TinyNet net;
  at::manual_seed(7);
  const at::Tensor expected = at::rand({4});
  for (const bool by_factory : {false, true}) {
    at::manual_seed(7);
    by_factory ? copy_of(net, [] { return TinyNet().ptr(); }) : copy_of(net);
    EXPECT_TRUE(at::equal(at::rand({4}), expected));
  }
}

}  // namespace
}  // namespace polyak::test
