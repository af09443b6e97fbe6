// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <type_traits>
#include <typeindex>
#include <vector>

#include "polyak/config/options.h"
#include "polyak/config/problems.h"
#include "polyak/core/export.h"

namespace polyak {

/// The part of a registry that does not depend on its type. `polyak list` and `polyak describe` use
/// it.
class POLYAK_API RegistryBase {
 public:
  /// The documentation of an entry.
  struct Description {
    std::string doc;                   // a sentence
    std::vector<KeyDescription> keys;  // of its Options
  };

  using MakeOptions = std::unique_ptr<Options> (*)();  ///< Makes options with their defaults.

  /// @param kind see kind()
  /// @param common makes common_keys(); null: none
  explicit RegistryBase(std::string kind, MakeOptions common = nullptr)
      : kind_(std::move(kind)), common_(common) {}
  virtual ~RegistryBase();
  /// The kind of its entries in words: "hook", "average", "optimizer".
  const std::string& kind() const { return kind_; }
  /// Registered names in alphabetical order.
  std::vector<std::string> names() const;
  /// Whether a name is registered.
  bool contains(const std::string& name) const { return descriptions_.count(name) != 0; }
  /// @throws ConfigError if the name is not registered.
  Description describe(const std::string& name) const;
  /// The options of an entry with their defaults.
  /// @throws ConfigError if the name is not registered.
  std::unique_ptr<Options> options_of(const std::string& name) const;
  /// The keys that blocks of this kind take beside those of their type, or null if there are none.
  std::unique_ptr<Options> common_keys() const { return common_ ? common_() : nullptr; }
  /// The `type` of a config node. Throws ConfigError if it is missing, not a string, or not
  /// registered; the message lists the registered names and the closest one.
  std::string type_of(const Node& node) const;
  /// Throws ProblemsError for each key of the node that is neither in `keys` nor in `owner_keys`.
  static void refuse_unknown_keys(const Node& node, const std::vector<KeyDescription>& keys,
                                  const std::string& owner,
                                  const std::vector<KeyDescription>& owner_keys,
                                  const std::string& reason);
  /// Moves all entries of a registry of the same type into this one. Check for conflicts with
  /// names() and contains() first.
  virtual void absorb(RegistryBase& other) = 0;

 protected:
  /// The descriptions' part of absorb().
  void absorb_descriptions(RegistryBase& other) { descriptions_.merge(other.descriptions_); }
  /// The description's part of Registry::add(); the options are made when they are asked for.
  /// @throws ConfigError when the name is taken
  void add_description(const std::string& name, const std::string& doc, MakeOptions make);
  /// Throws ConfigError at the node if `error` means that there was not enough memory.
  static void refuse_size(const Node& node, const std::exception& error);

 private:
  struct Entry {
    std::string doc;
    MakeOptions make;
  };
  std::string kind_;
  MakeOptions common_;
  std::map<std::string, Entry> descriptions_;
};

namespace detail {
template <class T, class = void>
constexpr RegistryBase::MakeOptions kCommonKeys = nullptr;
template <class T>
constexpr RegistryBase::MakeOptions kCommonKeys<T, std::void_t<typename T::CommonKeys>> =
    &make_options<typename T::CommonKeys>;
}  // namespace detail

/// Builds objects of one kind from config nodes. T defines the name of the kind, and what else its
/// factories need:
///
///     struct Hook {
///       static constexpr const char* kKind = "hook";
///       struct Context {...};
///       using CommonKeys = ...;  // optional: Options that its owner reads from each block
///
/// Registration functions receive the registry and fill it; static objects do not. It does not
/// change after start-up, so reading needs no lock.
template <class T>
class Registry : public RegistryBase {
 public:
  using Context = typename T::Context;  // what makers receive beside options

  Registry() : RegistryBase(T::kKind, detail::kCommonKeys<T>) {}

  /// Registers a class under a name. `make(const O&, const Context&)` returns a std::shared_ptr<T>.
  /// @param doc one sentence for the documentation
  /// @throws ConfigError if the name is already registered.
  template <class O, class Make>
  void add(const std::string& name, const std::string& doc, Make make) {
    add_description(name, doc, &detail::make_options<O>);
    entries_[name] = [name, make](const Node& node) -> Maker {
      O options;
      read_options(node.without({"type"}), options, name);
      return [options, make](const Context& context) {
        return std::shared_ptr<T>(make(options, context));
      };
    };
  }

  void absorb(RegistryBase& other) override {
    absorb_descriptions(other);
    entries_.merge(static_cast<Registry<T>&>(other).entries_);
  }

  /// Builds objects from options that prepare() read.
  using Maker = std::function<std::shared_ptr<T>(const Context&)>;

  /// Reads the node's options once, without building the object.
  /// @throws ConfigError like build(), except for errors that only building can find
  Maker prepare(const Node& node) const {
    const Read& read = entries_.at(type_of(node));
    return [node, made = read(node)](const Context& context) {
      try {
        return made(context);
      } catch (const std::exception& error) {
        refuse_size(node, error);
        throw;
      }
    };
  }

  /// Like prepare(), for a block that `owner` shares: it read some keys, and the node holds the
  /// others. A key that neither knows is reported with the closest name and the names of both.
  /// @param type_key the owner's key that holds the node's `type`
  Maker prepare_shared(const Node& node, const std::string& owner, const Options& owner_options,
                       const std::string& type_key) const {
    const std::string type = type_of(node);
    Maker maker;
    Problems problems;
    problems.attempt([&] {
      refuse_unknown_keys(node, describe(type).keys, owner, describe_options(owner_options),
                          type_key + " " + type);
    });
    problems.attempt([&] { maker = prepare(node); });
    problems.throw_all();
    return maker;
  }

  /// Builds an object of the node's `type` from the node's other keys.
  /// @throws ConfigError for a missing or unknown type, an unknown key, a value of the wrong type
  /// or out of range, and for sizes that do not fit in memory.
  std::shared_ptr<T> build(const Node& node, const Context& context) const {
    return prepare(node)(context);
  }

 private:
  using Read = std::function<Maker(const Node&)>;
  std::map<std::string, Read> entries_;
};

/// All registries of a process, by the type that they build. A plugin's entry function receives it.
class POLYAK_API Catalog {
 public:
  Catalog();
  ~Catalog();
  Catalog(const Catalog&) = delete;
  Catalog& operator=(const Catalog&) = delete;

  /// The registry of T. Created if there is none.
  template <class T>
  Registry<T>& of() {
    std::unique_ptr<RegistryBase>& slot = registries_[std::type_index(typeid(T))];
    if (!slot) slot = std::make_unique<Registry<T>>();
    return static_cast<Registry<T>&>(*slot);
  }
  /// The registry of T, or an empty one if there is none.
  template <class T>
  const Registry<T>& of() const {
    static const Registry<T> kEmpty;
    const auto found = registries_.find(std::type_index(typeid(T)));
    return found == registries_.end() ? kEmpty : static_cast<const Registry<T>&>(*found->second);
  }

  /// Moves all entries of another catalog into this one. If it throws, neither changes.
  /// @throws ConfigError naming the first name that is already registered here.
  void absorb(Catalog& other);

  /// Libraries whose entries are registered, so that none is loaded twice. The loader maintains it.
  std::set<const void*>& libraries() { return libraries_; }

  /// The registry of a kind, or null if there is none.
  const RegistryBase* find(const std::string& kind) const;

  /// Every registry that of() created, by kind in alphabetical order.
  std::vector<const RegistryBase*> all() const;

 private:
  std::map<std::type_index, std::unique_ptr<RegistryBase>> registries_;
  std::set<const void*> libraries_;
};

}  // namespace polyak
