// SPDX-License-Identifier: Apache-2.0
// What of the CUDA kernel a machine without a GPU can prove: how the work is split, and, thread
// after thread on the CPU, what the kernel's own code makes of it.
#include <gmock/gmock.h>

#include <algorithm>

#include "polyak/core/error.h"
#include "polyak/kernels/lerp_cuda_loops.h"
#include "polyak/kernels/lerp_cuda_table.h"
#include "support/mixed_spans.h"

namespace polyak::kernels {
namespace {

using testing::MixedSpans;

const std::vector<int64_t> kSizes{0,    1,    2,    3,    4,    5,    7,    31,   100,  128,  1023,
                                  1024, 1025, 1027, 4095, 4096, 4097, 4099, 5121, 8195, 20000};

uintptr_t address(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer);
}

/// A span that is nowhere: the table only computes with addresses.
Span span_at(uintptr_t average, uintptr_t source, int64_t size, DType source_type) {
  return {reinterpret_cast<void*>(average), reinterpret_cast<const void*>(source), size,
          DType::float32, source_type};
}

/// The pieces of one average.
CudaPieces cut_spans(const std::vector<Span>& spans) {
  return split_for_cuda({CudaRow{spans, {}, {}}});
}

TEST(CudaTable, CoversEveryElementOnce) {
  const MixedSpans mixed = MixedSpans::of_every_kind(kSizes);
  const std::vector<Span> spans = mixed.spans();
  std::vector<CudaPiece> pieces = cut_spans(spans).all;
  std::sort(pieces.begin(), pieces.end(), [](const CudaPiece& a, const CudaPiece& b) {
    return address(a.average) < address(b.average);
  });
  size_t used = 0;
  for (const Span& span : spans) {
    auto piece =
        std::lower_bound(pieces.begin(), pieces.end(), address(span.average),
                         [](const CudaPiece& p, uintptr_t a) { return address(p.average) < a; });
    for (int64_t done = 0; done < span.size; done += piece->size, ++piece, ++used) {
      ASSERT_NE(piece, pieces.end());
      ASSERT_EQ(address(piece->average),
                address(span.average) + done * bytes_of(span.average_type));
      ASSERT_EQ(address(piece->source), address(span.source) + done * bytes_of(span.source_type));
      ASSERT_EQ(piece->residual, span.residual ? span.residual + done : nullptr);
      ASSERT_EQ(piece->average_type, span.average_type);
      ASSERT_EQ(piece->source_type, span.source_type);
      ASSERT_GT(piece->size, 0);
      ASSERT_LE(piece->head, piece->size);
      ASSERT_LE(done + piece->size, span.size);
    }
  }
  EXPECT_EQ(used, pieces.size());
}

TEST(CudaTable, ReadsVectorsWhereAllArraysAreAlignedAtOneElement) {
  constexpr uintptr_t kPlace = 1 << 20;
  const auto head = [](const Span& span) { return cut_spans({span}).all.front().head; };
  EXPECT_EQ(head(span_at(kPlace, kPlace, 100, DType::float32)), 0);
  EXPECT_EQ(head(span_at(kPlace + 4, kPlace + 4, 100, DType::float32)), 3);
  EXPECT_EQ(head(span_at(kPlace + 12, kPlace + 28, 100, DType::float32)), 1);
  EXPECT_EQ(head(span_at(kPlace + 4, kPlace + 8, 100, DType::float32)), 100);
  EXPECT_EQ(head(span_at(kPlace + 4, kPlace + 4, 2, DType::float32)), 2);
  // Four halves are 8 bytes.
  EXPECT_EQ(head(span_at(kPlace, kPlace + 8, 100, DType::bfloat16)), 0);
  EXPECT_EQ(head(span_at(kPlace + 8, kPlace + 4, 100, DType::float16)), 2);
  EXPECT_EQ(head(span_at(kPlace, kPlace + 2, 100, DType::float16)), 100);
  // A float64 is read by two.
  EXPECT_EQ(head(span_at(kPlace, kPlace + 16, 100, DType::float64)), 0);
  EXPECT_EQ(head(span_at(kPlace + 4, kPlace + 8, 100, DType::float64)), 3);
  EXPECT_EQ(head(span_at(kPlace, kPlace + 8, 100, DType::float64)), 100);
  Span span = span_at(kPlace, kPlace, 100, DType::float32);
  span.residual = reinterpret_cast<int16_t*>(kPlace + 8);
  EXPECT_EQ(head(span), 0);
  span.residual = reinterpret_cast<int16_t*>(kPlace + 2);
  EXPECT_EQ(head(span), 100);
}

TEST(CudaTable, OnlyTheFirstPieceOfASpanHasAHead) {
  constexpr uintptr_t kPlace = 1 << 20;
  const CudaPieces pieces = cut_spans({span_at(kPlace + 4, kPlace + 2, 20000, DType::float16)});
  ASSERT_EQ(pieces.all.size(), 5u);
  EXPECT_EQ(pieces.all[0].head, 3);
  EXPECT_EQ(pieces.all[0].size, kCudaBlockElements + 3);
  for (size_t i = 1; i < pieces.all.size(); ++i) {
    EXPECT_EQ(pieces.all[i].head, 0);
    EXPECT_EQ(address(pieces.all[i].average) % 16, 0u);
    EXPECT_EQ(address(pieces.all[i].source) % 8, 0u);
  }
}

TEST(CudaTable, GivesTenThousandTinyTensorsAWarpEach) {
  std::vector<Span> spans;
  for (uintptr_t i = 0; i < 10000; ++i) {
    const uintptr_t place = (uintptr_t{1} << 30) + 512 * i;
    spans.push_back(span_at(place, place + (1 << 24), 100, DType::float32));
  }
  const CudaPieces pieces = cut_spans(spans);
  EXPECT_EQ(pieces.for_blocks, 0u);
  EXPECT_EQ(pieces.all.size(), spans.size());
  EXPECT_EQ(pieces.blocks(), 1250);
}

TEST(CudaTable, GivesEveryBlockOfALargeTensorTheSameWork) {
  constexpr uintptr_t kPlace = uintptr_t{1} << 40;
  constexpr int64_t kBlocks = 244140, kSize = kBlocks * kCudaBlockElements + 7;
  const CudaPieces pieces = cut_spans({span_at(kPlace, kPlace << 1, 5, DType::float32),
                                       span_at(kPlace << 2, kPlace << 3, kSize, DType::float32)});
  // The small piece and the rest of the large tensor share a block at the end.
  ASSERT_EQ(pieces.for_blocks, size_t(kBlocks));
  ASSERT_EQ(pieces.all.size(), pieces.for_blocks + 2);
  EXPECT_EQ(pieces.blocks(), int64_t(pieces.for_blocks) + 1);
  for (size_t i = 0; i < pieces.for_blocks; ++i) {
    ASSERT_EQ(pieces.all[i].size, kCudaBlockElements);
  }
  EXPECT_EQ(pieces.all.back().size, 7);
  EXPECT_EQ(sizeof(CudaPiece), 32u);
}

TEST(CudaTable, TakesNoHalfPrecisionAverage) {
  Span span = span_at(1 << 20, 1 << 21, 10, DType::float16);
  span.average_type = DType::float16;
  EXPECT_THAT([&] { cut_spans({span}); },
              ::testing::ThrowsMessage<Error>(::testing::HasSubstr("float32 and float64 only")));
}

TEST(CudaTable, OfNothingHasNoBlocks) {
  EXPECT_EQ(split_for_cuda({}).blocks(), 0);
  EXPECT_EQ(split_for_cuda({CudaRow(), CudaRow()}).blocks(), 0);
}

TEST(CudaTable, PutsWhatRowsReadFromOnePlaceInOneColumn) {
  constexpr uintptr_t kPlace = 1 << 20;
  const auto span = [&](uintptr_t average, uintptr_t source) {
    return span_at(kPlace + average, kPlace + source, 4099, DType::float32);
  };
  const CudaPieces pieces = split_for_cuda({
      CudaRow{{span(0x10000, 0x4), span(0x20004, 0x5004)}, {}, {}},
      // Another order, one that only this row has, and one twice.
      CudaRow{{span(0x40000, 0xa000), span(0x30008, 0x5004), span(0x50004, 0x5004)}, {}, {}},
  });
  ASSERT_EQ(pieces.rows, 2u);
  ASSERT_EQ(pieces.columns, 6u);
  EXPECT_EQ(pieces.for_blocks, 4u);
  const auto offsets = [&](size_t column) {
    std::vector<uintptr_t> found;
    for (size_t row = 0; row < 2; ++row) {
      const CudaPiece& piece = pieces.all[row * pieces.columns + column];
      found.push_back(piece.size == 0 ? 0 : address(piece.average) - kPlace);
    }
    return found;
  };
  using ::testing::ElementsAre;
  EXPECT_THAT(offsets(0), ElementsAre(0x10000, 0));
  EXPECT_THAT(offsets(1), ElementsAre(0x20004, 0x30008));
  EXPECT_THAT(offsets(2), ElementsAre(0, 0x40000));
  EXPECT_THAT(offsets(3), ElementsAre(0, 0x50004));
  // All rows are split where the first one is, whatever the alignment of the second.
  EXPECT_EQ(pieces.all[1].size, kCudaBlockElements + 3);
  EXPECT_EQ(pieces.all[1].head, 3);
  EXPECT_EQ(pieces.all[pieces.columns + 1].size, kCudaBlockElements + 3);
  EXPECT_EQ(pieces.all[pieces.columns + 1].head, kCudaBlockElements + 3);
}

/// The kernel's launch, one thread after another.
void run_on_cpu(const std::vector<CudaRow>& rows, const std::vector<CudaTurn>& turns) {
  const CudaPieces pieces = split_for_cuda(rows);
  const CudaLaunch launch{pieces.all.data(),           turns.data(),
                          uint32_t(pieces.rows),       uint32_t(pieces.columns),
                          uint32_t(pieces.for_blocks), uint32_t(pieces.copies_from)};
  for (uint32_t block = 0; block < pieces.blocks(); ++block) {
    for (uint32_t thread = 0; thread < kCudaThreads; ++thread) lerp_thread(launch, block, thread);
  }
}

TEST(CudaLoops, GiveTheBitsOfTheReference) {
  at::manual_seed(0);
  const MixedSpans start = MixedSpans::of_every_kind(kSizes);
  for (const double weight : testing::kAllWeights) {
    const MixedSpans expected = start.to(at::kCPU), got = start.to(at::kCPU);
    const std::vector<Span> spans = expected.spans();
    kernel_variants().back().lerp(spans.data(), spans.size(), weight);
    run_on_cpu({CudaRow{got.spans(), {}, {}}}, {CudaTurn{weight, true, false}});
    EXPECT_EQ(got.first_difference(expected), -1) << weight;
    if (weight > 1e-3) {
      EXPECT_NE(got.first_difference(start), -1) << weight;
    }
  }
}

TEST(CudaLoops, DoForEachRowWhatItsTurnSays) {
  at::manual_seed(1);
  const MixedSpans sources = MixedSpans::of_every_kind({3, 300, 5000});
  std::vector<MixedSpans> starts;
  for (int row = 0; row < 4; ++row) {
    MixedSpans start = MixedSpans::of_every_kind({3, 300, 5000});
    start.take_sources_of(sources);
    starts.push_back(start);
  }
  const std::vector<CudaTurn> turns{
      {0.25, true, false}, {0.75, false, true}, {1.0, true, true}, {0.0, true, true}};
  std::vector<MixedSpans> got, expected;
  std::vector<CudaRow> rows;
  for (size_t row = 0; row < starts.size(); ++row) {
    got.push_back(starts[row].with_own_averages());
    expected.push_back(starts[row].with_own_averages());
    rows.push_back({got.back().spans(), {}, {}});
    if (turns[row].averages) {
      const std::vector<Span> spans = expected.back().spans();
      kernel_variants().back().lerp(spans.data(), spans.size(), turns[row].weight);
    }
  }
  EXPECT_EQ(split_for_cuda(rows).columns, split_for_cuda({rows[0]}).columns);
  run_on_cpu(rows, turns);
  for (size_t row = 0; row < starts.size(); ++row) {
    EXPECT_EQ(got[row].first_difference(expected[row]), -1) << row;
  }
  EXPECT_EQ(got[1].first_difference(starts[1]), -1);
  EXPECT_NE(got[2].first_difference(starts[2]), -1);
}

TEST(CudaLoops, CopyEveryByteAndNoneBeside) {
  for (const int64_t size : {0, 1, 7, 8, 28, 4095, 4096, 4100, 9001}) {
    for (const int64_t to : {0, 1, 4, 16}) {
      for (const int64_t from : {0, 2, 4, 16}) {
        const at::Tensor source = at::randint(256, {size + 32}).to(at::kByte);
        const at::Tensor start = at::randint(256, {size + 32}).to(at::kByte);
        for (const bool at_each_update : {false, true}) {
          for (const bool averages : {false, true}) {
            const at::Tensor got = start.clone(), expected = start.clone();
            const CudaCopy copy{got.data_ptr<uint8_t>() + to, source.data_ptr<uint8_t>() + from,
                                size};
            CudaRow row;
            (at_each_update ? row.copied : row.copied_with_it).push_back(copy);
            // What does not average here is copied all the same, and the other way round.
            run_on_cpu({row}, {CudaTurn{0.0, averages, !averages}});
            if (at_each_update != averages) {
              expected.narrow(0, to, size).copy_(source.narrow(0, from, size));
            }
            EXPECT_TRUE(at::equal(got, expected)) << size << " " << to << " " << from;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace polyak::kernels
