#pragma once

namespace polyak::bench {

// One for each topic, in a file of its own; each registers what it measures.
void add_update_benchmarks();
void add_several_benchmarks();
void add_swap_benchmarks();
void add_step_benchmarks();
void add_precision_benchmarks();

}  // namespace polyak::bench
