// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <cmath>

#include "polyak/config/load.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/data_loader.h"
#include "polyak/trainer/metrics.h"
#include "polyak/trainer/register_trainer.h"

namespace polyak {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

const char* const kLoader =
    "{batch_size: 7, dataset: {type: RandomImages, size: 30, image_size: 4, num_classes: 3}}";

class Knn : public ::testing::Test {
 protected:
  Knn() { register_trainer(catalog_); }

  at::Tensor features(const at::Tensor& images) const { return images.flatten(1) - shift_; }
  std::shared_ptr<Metric> make(const std::string& keys) {
    return catalog_.of<Metric>().build(
        parse_config("{type: KnnAccuracy, " + keys + ", dataloader: " + kLoader + "}"),
        {3, &catalog_, 0, [this](const at::Tensor& images) {
           ++batches_;
           return features(images);
         }});
  }
  /// All samples of the bank in one batch.
  Batch bank() {
    DataLoader loader(parse_config("{batch_size: 30, dataset: {type: RandomImages, size: 30,"
                                   " image_size: 4, num_classes: 3}}"),
                      catalog_, false, 0);
    return loader.batch(0, 0);
  }

  Catalog catalog_;
  int batches_ = 0;
  double shift_ = 0.5;
};

TEST_F(Knn, TheNearestSampleOfTheBankIsTheSampleItself) {
  const auto metric = make("k: 1");
  const Batch all = bank();
  metric->add(features(all.images()), all.labels);
  EXPECT_EQ(metric->compute().at("knn_accuracy"), 100);
  metric->add(features(all.images()), (all.labels + 1).remainder(3));
  EXPECT_EQ(metric->compute().at("knn_accuracy"), 50);
}

TEST_F(Knn, VotesAreWeightedBySimilarity) {
  const Batch all = bank();
  const at::Tensor queries = at::rand({20, 16}, at::kDouble) - 0.5;
  const at::Tensor rows = features(all.images()).to(at::kDouble);
  int64_t right = 0;
  // One query and one neighbour at a time, as the formula reads.
  for (int64_t q = 0; q < 20; ++q) {
    std::vector<std::pair<double, int64_t>> near;
    for (int64_t i = 0; i < 30; ++i) {
      const double cosine =
          (queries[q].dot(rows[i]) / (queries[q].norm() * rows[i].norm())).item<double>();
      near.emplace_back(cosine, all.labels[i].item<int64_t>());
    }
    std::sort(near.rbegin(), near.rend());
    double votes[3] = {};
    for (int i = 0; i < 5; ++i) votes[near[i].second] += std::exp(near[i].first / 0.1);
    right += std::max_element(votes, votes + 3) - votes == q % 3;
  }
  const auto metric = make("k: 5, temperature: 0.1");
  metric->add(queries, at::arange(20, at::kLong).remainder(3));
  EXPECT_DOUBLE_EQ(metric->compute().at("knn_accuracy"), 5.0 * static_cast<double>(right));
}

TEST_F(Knn, EachPassSeesTheModelAsItIsThen) {
  const auto metric = make("k: 1");
  const Batch all = bank();
  metric->reset();
  metric->add(features(all.images()), all.labels);
  metric->add(features(all.images()), all.labels);
  EXPECT_EQ(batches_, 5);  // 30 samples in batches of 7, once a pass
  shift_ = 0.1;
  metric->reset();
  metric->add(features(all.images()), all.labels);
  EXPECT_EQ(batches_, 10);
  EXPECT_EQ(metric->compute().at("knn_accuracy"), 100);
}

TEST_F(Knn, SamplesWithoutALabelNeitherVoteNorCount) {
  const auto first_15 = [&](const std::string& k) {
    return catalog_.of<Metric>().build(
        parse_config(
            "{type: KnnAccuracy, " + k +
            ", dataloader: {batch_size: 7, dataset: "
            "{type: RandomImages, size: 30, image_size: 4, num_classes: 3, labelled: 15}}}"),
        {3, &catalog_, 0, [this](const at::Tensor& images) { return features(images); }});
  };
  const Batch all = bank();
  const auto metric = first_15("k: 1");
  at::Tensor labels = all.labels.clone();
  labels.slice(0, 0, 15).fill_(-1);
  metric->add(features(all.images()), labels);
  const at::Tensor known = all.labels.slice(0, 0, 15);
  const at::Tensor rows = features(all.images()).to(at::kDouble);
  const at::Tensor unit = rows / rows.norm(2, 1, true);
  const at::Tensor nearest = unit.slice(0, 15).matmul(unit.slice(0, 0, 15).t()).argmax(1);
  const double right =
      known.index_select(0, nearest).eq(all.labels.slice(0, 15, 30)).sum().item<double>();
  EXPECT_DOUBLE_EQ(metric->compute().at("knn_accuracy"), 100 * right / 15);
  EXPECT_TRUE(metric->needs_labels());
  EXPECT_THAT([&] { first_15("k: 16"); },
              ThrowsMessage<ConfigError>(HasSubstr("holds 15 labelled samples, but k is")));
}

TEST_F(Knn, MoreNeighboursThanSamplesAreRefused) {
  EXPECT_THAT([&] { make("k: 31"); },
              ThrowsMessage<ConfigError>(HasSubstr("holds 30 labelled samples")));
}

}  // namespace
}  // namespace polyak
