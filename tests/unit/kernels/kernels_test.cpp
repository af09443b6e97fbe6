// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "polyak/kernels/lerp.h"

namespace polyak::kernels {
namespace {

struct Pair {
  at::ScalarType torch;
  DType ours;
};
const std::vector<Pair> kTypes{{at::kDouble, DType::float64},
                               {at::kFloat, DType::float32},
                               {at::kHalf, DType::float16},
                               {at::kBFloat16, DType::bfloat16}};

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.nbytes() == b.nbytes() && std::memcmp(a.data_ptr(), b.data_ptr(), a.nbytes()) == 0;
}

TEST(Lerp, AgreesWithLibTorchForEveryPairOfTypesAndWeights) {
  for (const Pair& average_type : {kTypes[0], kTypes[1]}) {
    for (const Pair& source_type : kTypes) {
      for (const double weight : {0.0, 1e-4, 0.3, 0.5, 0.9, 1.0}) {
        const at::Tensor average = at::randn({1001}, average_type.torch);
        const at::Tensor source = at::randn({1001}).to(source_type.torch);
        const at::Tensor exact = average.to(at::kDouble).lerp(source.to(at::kDouble), weight);
        const Span span{average.data_ptr(), source.data_ptr(), 1001, average_type.ours,
                        source_type.ours};
        lerp(&span, 1, weight);
        const double error = (average.to(at::kDouble) - exact).abs().max().item<double>();
        EXPECT_LE(error, average_type.ours == DType::float64 ? 1e-14 : 1e-6);
        if (weight == 1.0) {
          EXPECT_TRUE(at::equal(average, source.to(average_type.torch)));
        }
      }
    }
  }
}

TEST(Lerp, ReadsSubnormalHalvesWhateverTheModeOfTheProcessor) {
  const at::Tensor bits = at::arange(0, 0x400, at::kShort);
  const at::Tensor exact = at::arange(0, 0x400, at::kInt).to(at::kFloat) * 0x1p-24F;
  const at::Tensor source = bits.view(at::kHalf);
  at::globalContext().setFlushDenormal(true);
  for (const KernelVariant& variant : kernel_variants()) {
    const at::Tensor average = at::ones({0x400});
    const Span span{average.data_ptr(), source.data_ptr(), 0x400, DType::float32, DType::float16};
    variant.lerp(&span, 1, 1.0);
    EXPECT_TRUE(same_bits(average, exact)) << variant.name;
  }
  at::globalContext().setFlushDenormal(false);
}

TEST(Lerp, ReadsEveryFiniteHalfPrecisionValueExactly) {
  for (const Pair& type : {kTypes[2], kTypes[3]}) {
    const at::Tensor all = at::arange(0, 65536, at::kInt).to(at::kShort).view(type.torch);
    const at::Tensor source = all.masked_select(all.to(at::kFloat).isfinite());
    const at::Tensor average = at::zeros({source.numel()});
    const Span span{average.data_ptr(), source.data_ptr(), source.numel(), DType::float32,
                    type.ours};
    lerp(&span, 1, 1.0);
    EXPECT_TRUE(at::equal(average, source.to(at::kFloat)));
  }
}

constexpr int64_t kSize = 5133;  // not small, and ends in the middle of a vector and of a block

/// Tensors of one pair of types, with what a test writes into them.
struct Case {
  Pair average_type;
  Pair source_type;
  bool compensated = false;
  int64_t size = kSize;
  at::Tensor average = at::randn({size}, average_type.torch);
  at::Tensor source = at::randn({size}).to(source_type.torch);
  at::Tensor residual = at::randint(-32768, 32768, {size}, at::kShort);

  Span span() const {
    return {average.data_ptr(),
            source.data_ptr(),
            size,
            average_type.ours,
            source_type.ours,
            compensated ? residual.data_ptr<int16_t>() : nullptr};
  }
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const Pair& average_type : {kTypes[0], kTypes[1]}) {
    for (const Pair& source_type : kTypes) {
      cases.push_back({average_type, source_type});
      if (average_type.ours == DType::float32) cases.push_back({average_type, source_type, true});
    }
  }
  return cases;
}

TEST(TraversalVariants, GiveTheBitsOfTheReference) {
  at::manual_seed(0);
  for (Case& example : all_cases()) {
    // Zeros, subnormals and the largest numbers are where instruction sets could part.
    for (const double special : {0.0, -0.0, 1e-40, -1e-45, 6e-8, 65504.0, 3e38, 1e-300}) {
      example.source[example.size / 2].copy_(at::full({}, special, at::kDouble));
      for (const double weight : {0.0, 1e-9, 1e-4, 0.3, 0.5, 0.9, 1.0}) {
        const at::Tensor average = example.average.clone();
        const at::Tensor residual = example.residual.clone();
        const Span span = example.span();
        kernel_variants().back().lerp(&span, 1, weight);
        for (const KernelVariant& variant : kernel_variants()) {
          const Case other{example.average_type, example.source_type, example.compensated,
                           example.size,         average.clone(),     example.source,
                           residual.clone()};
          const Span same = other.span();
          variant.lerp(&same, 1, weight);
          EXPECT_TRUE(same_bits(other.average, example.average)) << variant.name << ' ' << weight;
          EXPECT_TRUE(same_bits(other.residual, example.residual)) << variant.name << ' ' << weight;
        }
      }
    }
  }
}

TEST(TraversalVariants, GiveAGroupTheBitsOfSingleSpans) {
  at::manual_seed(3);
  const std::vector<double> weights{0.1, 0.0, 0.9, 1e-4, 0.3, 0.2, 0.5, 0.01};
  for (const Pair& source_type : kTypes) {
    for (size_t count = 0; count <= weights.size(); ++count) {
      const at::Tensor source = at::randn({kSize}).to(source_type.torch);
      std::vector<Case> cases;
      for (size_t k = 0; k < count; ++k) {
        cases.push_back({kTypes[k == 4 ? 0 : 1], source_type, k == 3});
        cases.back().source = source;
      }
      std::vector<std::pair<at::Tensor, at::Tensor>> expected;
      for (size_t k = 0; k < count; ++k) {
        Case single = cases[k];
        single.average = single.average.clone();
        single.residual = single.residual.clone();
        const Span span = single.span();
        kernel_variants().back().lerp(&span, 1, weights[k]);
        expected.emplace_back(single.average, single.residual);
      }
      for (const KernelVariant& variant : kernel_variants()) {
        std::vector<Case> copies = cases;
        std::vector<Span> spans;
        for (Case& copy : copies) {
          copy.average = copy.average.clone();
          copy.residual = copy.residual.clone();
          spans.push_back(copy.span());
        }
        std::vector<const Span*> pointers;
        pointers.reserve(spans.size());
        for (const Span& span : spans) pointers.push_back(&span);
        variant.lerp_group(pointers.data(), weights.data(), count);
        for (size_t k = 0; k < count; ++k) {
          EXPECT_TRUE(same_bits(copies[k].average, expected[k].first)) << variant.name << ' ' << k;
          EXPECT_TRUE(same_bits(copies[k].residual, expected[k].second))
              << variant.name << ' ' << k;
        }
      }
    }
  }
}

TEST(TraversalVariants, TheReferenceIsTakenWhenTheEnvironmentSaysSo) {
  const char* forced = std::getenv("POLYAK_FORCE_REFERENCE");
  EXPECT_STREQ(kernel_variants().back().name, "reference");
  if (forced && std::string(forced) == "1") {
    EXPECT_STREQ(chosen_variant().name, "reference");
  } else {
    EXPECT_STREQ(chosen_variant().name, kernel_variants().front().name);
    EXPECT_STRNE(chosen_variant().name, "reference");
  }
}

TEST(TraversalVariants, FindNanAndInfinityWhereverTheyStand) {
  for (Case& example : all_cases()) {
    const Span span = example.span();
    for (const KernelVariant& variant : kernel_variants())
      EXPECT_TRUE(variant.all_finite(&span, 1)) << variant.name;
    for (const double bad :
         {std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
          std::numeric_limits<double>::quiet_NaN()}) {
      for (const int64_t where : {int64_t{0}, int64_t{517}, example.size - 1}) {
        const at::Tensor before = example.source[where].clone();
        example.source[where].fill_(bad);
        for (const KernelVariant& variant : kernel_variants())
          EXPECT_FALSE(variant.all_finite(&span, 1)) << variant.name;
        example.source[where].copy_(before);
      }
    }
    // The largest finite number is one bit away from infinity.
    const double largest = example.source_type.ours == DType::float16 ? 65504.0 : 3e38;
    example.source.fill_(largest);
    for (const KernelVariant& variant : kernel_variants())
      EXPECT_TRUE(variant.all_finite(&span, 1)) << variant.name;
  }
}

TEST(Compensated, FollowsFloat64WhereFloat32StandsStill) {
  for (const KernelVariant& variant : kernel_variants()) {
    at::manual_seed(1);
    const at::Tensor source = at::randn({100}) + 3;
    const at::Tensor start = source * (1 - 1e-3);
    const at::Tensor plain = start.clone();
    const at::Tensor average = start.clone();
    const at::Tensor residual = at::zeros({100}, at::kShort);
    const Span stuck{plain.data_ptr(), source.data_ptr(), 100, DType::float32, DType::float32};
    Span span{average.data_ptr(), source.data_ptr(), 100, DType::float32, DType::float32};
    span.residual = residual.data_ptr<int16_t>();
    const double weight = 1e-5;  // an update is a sixth of the last place
    const int updates = 20000;
    for (int i = 0; i < updates; ++i) {
      variant.lerp(&stuck, 1, weight);
      variant.lerp(&span, 1, weight);
    }
    const at::Tensor exact =
        source.to(at::kDouble) + (start - source).to(at::kDouble) * std::pow(1 - weight, updates);
    EXPECT_TRUE(at::equal(plain, start)) << variant.name;
    const double error = ((average - exact) / exact).abs().max().item<double>();
    EXPECT_LT(error, 1e-7) << variant.name;
  }
}

TEST(Compensated, KeepsTheAverageCorrectlyRounded) {
  // |residual| is at most half a unit in the last place, so the average is what a wider sum rounds
  // to.
  at::manual_seed(2);
  const at::Tensor source = at::randn({1000});
  const at::Tensor average = at::randn({1000});
  const at::Tensor residual = at::zeros({1000}, at::kShort);
  Span span{average.data_ptr(), source.data_ptr(), 1000, DType::float32, DType::float32};
  span.residual = residual.data_ptr<int16_t>();
  at::Tensor exact = average.to(at::kDouble);
  for (int i = 0; i < 50; ++i) {
    exact.lerp_(source.to(at::kDouble), 0.01);
    lerp(&span, 1, 0.01);
  }
  const at::Tensor off = (average.to(at::kDouble) - exact).abs() / exact.abs();
  EXPECT_LT(off.median().item<double>(), 6e-8);
  EXPECT_GT((residual != 0).sum().item<int64_t>(), 900);
}

TEST(Lerp, ChunksCoverEverySpanOnce) {
  const at::Tensor average = at::zeros({100});
  const at::Tensor source = at::ones({100});
  const Span span{average.data_ptr(), source.data_ptr(), 100, DType::float32, DType::float32};
  const std::vector<Span> chunks =
      split_into_chunks({span, Span{nullptr, nullptr, 0, DType::float32, DType::float32}}, 32);
  int64_t traffic = 0;
  for (const Span& chunk : chunks) {
    EXPECT_GT(chunk.size, 0);
    EXPECT_LE(chunk.size, 32);
    traffic += traffic_of(chunk);
  }
  EXPECT_EQ(traffic, 1200);
  lerp(chunks.data(), chunks.size(), 0.25);
  EXPECT_TRUE(at::equal(average, at::full({100}, 0.25)));
}

TEST(Lerp, ChunksEndWithPagesOfTheirSource) {
  std::vector<float> average(20000);
  std::vector<uint16_t> source(20000 + kPage);
  const auto page_of = [](const uint16_t* at) { return reinterpret_cast<uintptr_t>(at) % kPage; };
  for (const int64_t skipped : {0, 1, 700, 2047}) {
    const uint16_t* from = source.data() + skipped;
    const Span span{average.data(), from, 20000, DType::float32, DType::bfloat16};
    const std::vector<Span> chunks = split_into_chunks({span}, 4100);
    int64_t done = 0;
    for (const Span& chunk : chunks) {
      ASSERT_EQ(chunk.average, average.data() + done);
      ASSERT_EQ(chunk.source, from + done);
      EXPECT_LE(chunk.size, 4100);
      done += chunk.size;
      EXPECT_TRUE(done == 20000 || page_of(from + done) == 0);
    }
    EXPECT_EQ(done, 20000);
  }
}

}  // namespace
}  // namespace polyak::kernels
