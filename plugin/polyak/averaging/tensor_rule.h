// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "polyak/averaging/kept_tensors.h"
#include "polyak/averaging/process_group.h"
#include "polyak/averaging/shards.h"
#include "polyak/averaging/slot.h"
#include "polyak/config/node.h"
#include "polyak/rules/clock.h"

namespace polyak {

/// The updates of an average that needs more of each tensor than its average and a weight. It keeps
/// further tensors for each averaged slot and writes the slot's average, which is what is
/// published.
///
/// Not thread-safe. Call it with gradients disabled.
class TensorRule {
 public:
  virtual ~TensorRule();

  /// Follows the slots: keeps what it has of a model's tensor under whatever name, or of a tensor
  /// that replaced one under its name, and starts the others from their average.
  void follow(const Slots& slots, uint64_t revision);
  /// The slots of these indices hold a part of their tensors from here on: so does what is kept.
  void shard(const std::vector<size_t>& cut, const Slots& slots, uint64_t revision);
  /// Makes whole what is kept, while the slots still hold parts; accept() follows.
  void gather(ProcessGroup& processes, const ShardLayout& layout, const Slots& slots);
  /// The model's tensors are others, whose averages go on.
  void accept_sources(const Slots& slots, uint64_t revision);
  /// The slots are whole again.
  void accept(uint64_t revision) { revision_ = revision; }
  /// The averages were set to other values: everything starts there.
  /// @param names those whose averages were set; null: all
  void start(const Slots& slots, const std::set<std::string>* names = nullptr);
  /// An averaging update.
  void update(const Slots& slots, const Clock& clock, double weight);
  /// Bytes of the further tensors of each slot.
  std::vector<int64_t> bytes() const;

  /// The further tensors by a name for each kind, as handles: what a checkpoint needs beyond the
  /// averages.
  std::vector<KeptTensors> kept() const;
  /// Restores them. Those that do not fit are ignored.
  /// @param options of the average that they are from; null: unknown
  void load(const std::vector<KeptTensors>& kept, const Node& options);

 protected:
  /// What is kept for one slot: a tensor for each kind.
  using Tensors = std::vector<at::Tensor>;
  /// Whether what an average with these options kept has the same meaning here.
  virtual bool can_continue(const Node& /*options*/) const { return true; }
  /// The name of each kind.
  virtual std::vector<std::string> kinds() const = 0;
  /// Fresh ones for a slot whose average has just been set.
  virtual Tensors start(const Slot& slot) const = 0;
  virtual void update(const Slot& slot, const Tensors& kept, const Clock& clock, double weight) = 0;

 private:
  struct Item {
    std::string name;
    at::Tensor source;  // the model's
    bool averaged;
    Tensors tensors;
  };
  std::vector<Item> items_;  // one for each slot
  uint64_t revision_ = ~uint64_t{0};
};

}  // namespace polyak
