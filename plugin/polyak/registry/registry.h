// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <typeindex>
#include <vector>

#include "polyak/config/options.h"
#include "polyak/core/export.h"

namespace polyak {

/// What a registry knows of itself without its type: for `polyak list` and `polyak describe`.
class POLYAK_API RegistryBase {
 public:
  struct Description {
    std::string doc;
    std::vector<KeyDescription> keys;
  };

  explicit RegistryBase(std::string kind) : kind_(std::move(kind)) {}
  virtual ~RegistryBase();
  /// What its entries are, in words: "hook", "average", "optimizer".
  const std::string& kind() const { return kind_; }
  /// Registered names in alphabetical order.
  std::vector<std::string> names() const;
  bool contains(const std::string& name) const { return descriptions_.count(name) != 0; }
  Description describe(const std::string& name) const;
  /// Takes every entry of a registry of the same type over; check with names() and contains()
  /// first.
  virtual void absorb(RegistryBase& other) = 0;

 protected:
  void absorb_descriptions(RegistryBase& other) { descriptions_.merge(other.descriptions_); }
  void add_description(const std::string& name, std::function<Description()> describe);
  /// The `type` of a config node. Throws ConfigError when it is missing, no string, or not
  /// registered; the message lists the names there are and the nearest one.
  std::string type_of(const Node& node) const;
  /// Throws ConfigError at the node when what it names could not be made for want of memory.
  static void refuse_size(const Node& node, const std::exception& error);

 private:
  std::string kind_;
  std::map<std::string, std::function<Description()>> descriptions_;
};

/// Makes objects of one kind from config nodes. T states what else its makers need, and the kind's
/// name:
///
///     struct Hook {
///       static constexpr const char* kKind = "hook";
///       struct Context {...};
///
/// Filled from explicit functions that receive it (never by static objects); not changed after
/// start-up, so reading needs no lock.
template <class T>
class Registry : public RegistryBase {
 public:
  using Context = typename T::Context;

  Registry() : RegistryBase(T::kKind) {}

  /// Registers a class under a name. `make(const O&, const Context&)` gives a std::shared_ptr<T>.
  /// @throws ConfigError when the name is taken.
  template <class O, class Make>
  void add(const std::string& name, const std::string& doc, Make make) {
    add_description(name, [doc] { return Description{doc, describe_options(O())}; });
    auto read = [name](const Node& node) {
      O options;
      read_options(node.without({"type"}), options, name);
      return options;
    };
    entries_[name] = Entry{[read](const Node& node) { read(node); },
                           [read, make](const Node& node, const Context& context) {
                             return std::shared_ptr<T>(make(read(node), context));
                           }};
  }

  void absorb(RegistryBase& other) override {
    absorb_descriptions(other);
    entries_.merge(static_cast<Registry<T>&>(other).entries_);
  }

  /// Reads the node's options as build() would, without making anything.
  /// @throws ConfigError as build() does.
  void check(const Node& node) const { entries_.at(type_of(node)).check(node); }

  /// Makes what the node's `type` names from the node's other keys.
  /// @throws ConfigError for a missing or unknown type, an unknown key, a value of the wrong type
  /// or range, and for sizes that memory does not hold.
  std::shared_ptr<T> build(const Node& node, const Context& context) const {
    const Entry& entry = entries_.at(type_of(node));
    try {
      return entry.make(node, context);
    } catch (const std::exception& error) {
      refuse_size(node, error);
      throw;
    }
  }

 private:
  struct Entry {
    std::function<void(const Node&)> check;
    std::function<std::shared_ptr<T>(const Node&, const Context&)> make;
  };
  std::map<std::string, Entry> entries_;
};

/// All registries of a process, found by the type they make: what a plugin's entry receives.
class POLYAK_API Catalog {
 public:
  Catalog();
  ~Catalog();
  Catalog(const Catalog&) = delete;
  Catalog& operator=(const Catalog&) = delete;

  template <class T>
  Registry<T>& of() {
    std::unique_ptr<RegistryBase>& slot = registries_[std::type_index(typeid(T))];
    if (!slot) slot = std::make_unique<Registry<T>>();
    return static_cast<Registry<T>&>(*slot);
  }
  /// An empty one where nothing of that kind was registered.
  template <class T>
  const Registry<T>& of() const {
    static const Registry<T> kEmpty;
    const auto found = registries_.find(std::type_index(typeid(T)));
    return found == registries_.end() ? kEmpty : static_cast<const Registry<T>&>(*found->second);
  }

  /// Takes over what another catalog holds, all or nothing.
  /// @throws ConfigError naming the first name that is registered here already.
  void absorb(Catalog& other);

  /// Libraries whose entries are here, so that none is asked twice. Kept by the loader.
  std::set<const void*>& libraries() { return libraries_; }

  /// Every registry that was asked for so far, by kind in alphabetical order.
  std::vector<const RegistryBase*> all() const;

 private:
  std::map<std::type_index, std::unique_ptr<RegistryBase>> registries_;
  std::set<const void*> libraries_;
};

}  // namespace polyak
