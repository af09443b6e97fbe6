#include <ATen/ATen.h>
#include <gtest/gtest.h>

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

TEST(Lerp, ChunksCoverEverySpanOnce) {
  const at::Tensor average = at::zeros({100});
  const at::Tensor source = at::ones({100});
  const Span span{average.data_ptr(), source.data_ptr(), 100, DType::float32, DType::float32};
  const std::vector<Span> chunks =
      cut({span, Span{nullptr, nullptr, 0, DType::float32, DType::float32}}, 32);
  ASSERT_EQ(chunks.size(), 4u);
  EXPECT_EQ(chunks.back().size, 4);
  lerp(chunks.data(), chunks.size(), 0.25);
  EXPECT_TRUE(at::equal(average, at::full({100}, 0.25)));
}

}  // namespace
}  // namespace polyak::kernels
