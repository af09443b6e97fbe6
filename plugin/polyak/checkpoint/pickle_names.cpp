// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "polyak/checkpoint/pickle_nodes.h"

namespace polyak::pickle {
namespace {

struct KnownName {
  std::string_view dotted;
  Name name;
};

// Protocol 2 has Python 2's names for some modules; numpy moved its own in version 2.
constexpr KnownName kKnownNames[] = {
    {"collections.OrderedDict", Name::ordered_dict},
    {"collections.Counter", Name::counter},
    {"collections.defaultdict", Name::default_dict},
    {"__builtin__.set", Name::set},
    {"builtins.set", Name::set},
    {"__builtin__.frozenset", Name::set},
    {"builtins.frozenset", Name::set},
    {"_codecs.encode", Name::encode},
    {"__builtin__.bytes", Name::bytes},
    {"builtins.bytes", Name::bytes},
    {"torch._utils._rebuild_tensor", Name::rebuild_tensor_v1},
    {"torch._utils._rebuild_tensor_v2", Name::rebuild_tensor},
    {"torch._utils._rebuild_tensor_v3", Name::rebuild_tensor_v3},
    {"torch._utils._rebuild_parameter", Name::rebuild_parameter},
    {"torch._utils._rebuild_parameter_with_state", Name::rebuild_parameter},
    {"torch._tensor._rebuild_from_type_v2", Name::rebuild_from_type},
    {"torch.Size", Name::size},
    {"torch.storage.UntypedStorage", Name::storage},
    {"numpy.dtype", Name::numpy_dtype},
    {"numpy.core.multiarray.scalar", Name::numpy_scalar},
    {"numpy._core.multiarray.scalar", Name::numpy_scalar},
};

// Functions that create objects of one class, which says more than the function's name.
constexpr std::pair<std::string_view, const char*> kClassOfFunction[] = {
    {"numpy.core.numeric._frombuffer", "numpy.ndarray"},
    {"numpy._core.numeric._frombuffer", "numpy.ndarray"},
    {"torch._utils._rebuild_sparse_tensor", "a sparse torch.Tensor"},
    {"torch._utils._rebuild_nested_tensor", "a nested torch.Tensor"},
    {"torch._utils._rebuild_qtensor", "a quantized torch.Tensor"},
    {"torch._utils._rebuild_meta_tensor_no_storage", "a torch.Tensor on the meta device"},
};

}  // namespace

Global find_global(std::string_view module, std::string_view name) {
  std::string dotted = fmt::format("{}.{}", module, name);
  for (const KnownName& known : kKnownNames) {
    if (known.dotted == dotted) return {known.name, std::move(dotted)};
  }
  if (module == "torch" || module == "torch.storage") {
    if (const auto* type = find_storage_type(name)) {
      return {Name::storage, std::move(dotted), type};
    }
  }
  for (const auto& [function, class_name] : kClassOfFunction) {
    if (function == dotted) return {Name::maker, class_name};
  }
  return {Name::foreign,
          printable(dotted)};  // short: a pickle may create many objects of one class
}

}  // namespace polyak::pickle
