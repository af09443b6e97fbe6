// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "polyak/config/nearest.h"
#include "polyak/core/cleanup.h"
#include "polyak/core/log.h"
#include "unit/config/testing.h"

namespace polyak {
namespace {

struct HookOptions : Options {
  std::string ema_type = "CosineEMA";
  double momentum = 0.0002;
  double end_momentum = 0;
  int64_t interval = 1;
  bool update_buffers = false;
  std::optional<std::string> device;
  std::optional<int64_t> begin_epoch;
  std::vector<double> betas = {0.9, 0.999};
  std::string mode = "epoch";

  void visit(OptionVisitor& v) override {
    v.key("ema_type", &ema_type, "Which average.");
    v.key("momentum", &momentum, "Weight of the new value.", open_interval(0, 1));
    v.key("end_momentum", &end_momentum, "Weight at the end.", closed_interval(0, 1));
    v.key("interval", &interval, "Updates to skip.", at_least(1));
    v.key("update_buffers", &update_buffers, "Average buffers too.");
    v.key("device", &device, "Where the average lives.");
    v.key("begin_epoch", &begin_epoch, "The first epoch.", at_least(0));
    v.key("betas", &betas, "Two numbers.", above(0));
    v.choice("mode", &mode, {"epoch", "iteration"}, "The unit.");
  }
  void validate() const override {
    if (end_momentum > momentum) fail<ConfigError>("end_momentum must not be above momentum");
    if (device == "warp") fail_option("device", "'warp' is not a device");
  }
};

struct TypedOptions : Options {
  std::string type;
  Node extra;

  void visit(OptionVisitor& v) override {
    v.required("type", &type, "Which class.");
    v.rest(&extra, "What the class itself reads.");
  }
};

enum class Unit { epoch, iteration };

std::string unit_name(Unit unit) {
  return unit == Unit::epoch ? "epoch" : "iteration";
}
Unit parse_unit(const std::string& name) {
  if (name == "era") fail<ConfigError>("'era' is not a unit");
  return name == "epoch" ? Unit::epoch : Unit::iteration;
}

struct UnitOptions : Options {
  Unit unit = Unit::epoch;
  std::optional<Unit> other;
  int64_t begin = 0;

  void visit(OptionVisitor& v) override {
    v.text<unit_name, parse_unit>("unit", &unit, {"epoch", "iteration"}, "The unit.");
    v.text<unit_name, parse_unit>("other", &other, {}, "Another unit.");
    v.key("begin", &begin, "The first one.");
  }
  void validate() const override {
    if (begin > 0 && unit == Unit::epoch) fail_option("begin", "is for iterations");
    if (other && *other == unit) fail_option("other", "is '{}' like unit", unit_name(unit));
  }
};

struct NoOptions : Options {
  void visit(OptionVisitor&) override {}
};

struct FreeNumber : Options {
  double value = 0;
  Node any;
  std::optional<bool> flag;
  std::vector<int64_t> sizes;
  std::vector<std::string> names;

  void visit(OptionVisitor& v) override {
    v.key("value", &value, "Any finite number.");
    v.key("any", &any, "Anything.");
    v.key("flag", &flag, "A boolean.");
    v.key("sizes", &sizes, "Sizes.");
    v.choice("names", &names, {"a", "b"}, "Names.");
  }
};

// Reads the hook of a config and gives the message of the error.
std::string read_error(const std::string& hook) {
  const Node config = parse_config("hooks:\n  - " + hook + "\n", "c.yaml");
  HookOptions options;
  return error_of([&] { read_options(config.at("hooks").items()[0], options, "EMAHook"); });
}

TEST(Options, SetsWhatTheConfigGivesAndKeepsTheRest) {
  HookOptions options;
  read_options(parse_config("momentum: 0.5\ninterval: 3\nupdate_buffers: true\ndevice: cpu\n"
                            "begin_epoch: 2\nbetas: [1, 2.5]\nmode: iteration\n"),
               options, "EMAHook");
  EXPECT_EQ(options.momentum, 0.5);
  EXPECT_EQ(options.interval, 3);
  EXPECT_TRUE(options.update_buffers);
  EXPECT_EQ(options.device, "cpu");
  EXPECT_EQ(options.begin_epoch, 2);
  EXPECT_EQ(options.betas, (std::vector<double>{1, 2.5}));
  EXPECT_EQ(options.mode, "iteration");
  EXPECT_EQ(options.ema_type, "CosineEMA");
}

TEST(Options, NullSetsNothingAndEmptiesOptionals) {
  HookOptions options;
  options.device = "cpu";
  read_options(Node(), options, "EMAHook");
  EXPECT_EQ(options.device, "cpu");
  read_options(parse_config("device: null\n"), options, "EMAHook");
  EXPECT_EQ(options.device, std::nullopt);
}

TEST(Options, RefusesUnknownKeysWithTheNearestName) {
  EXPECT_EQ(read_error("momentm: 0.1"),
            "c.yaml:2:5: hooks[0].momentm: unknown key; did you mean 'momentum'? EMAHook takes: "
            "begin_epoch, betas, device, ema_type, end_momentum, interval, mode, momentum, "
            "update_buffers");
  EXPECT_EQ(read_error("{mode: epoch, zzz: 1}"),
            "c.yaml:2:19: hooks[0].zzz: unknown key; EMAHook takes: begin_epoch, betas, device, "
            "ema_type, end_momentum, interval, mode, momentum, update_buffers");
  NoOptions none;
  EXPECT_EQ(error_of([&] { read_options(parse_config("x: 1\n", "c.yaml"), none, "Hook"); }),
            "c.yaml:1:1: x: unknown key; Hook takes no keys");
}

TEST(Options, ReportsAMisspeltKeyBeforeTheMissingOne) {
  struct Required : Options {
    double momentum = 0;
    void visit(OptionVisitor& v) override { v.required("momentum", &momentum, "Weight."); }
  } options;
  EXPECT_EQ(
      error_of([&] { read_options(parse_config("momentun: 1\n", "c.yaml"), options, "EMA"); }),
      "c.yaml:1:1: momentun: unknown key; did you mean 'momentum'? EMA takes: momentum");
}

TEST(Options, RefusesValuesOutOfRange) {
  EXPECT_EQ(read_error("momentum: 3"), "c.yaml:2:5: hooks[0].momentum: must be in (0, 1), got 3");
  EXPECT_EQ(read_error("momentum: 0"), "c.yaml:2:5: hooks[0].momentum: must be in (0, 1), got 0");
  EXPECT_EQ(read_error("end_momentum: -0.5"),
            "c.yaml:2:5: hooks[0].end_momentum: must be in [0, 1], got -0.5");
  EXPECT_EQ(read_error("interval: 0"), "c.yaml:2:5: hooks[0].interval: must be at least 1, got 0");
  EXPECT_EQ(read_error("betas: [1, 0]"), "c.yaml:2:16: hooks[0].betas[1]: must be above 0, got 0");
  EXPECT_EQ(read_error("begin_epoch: -1"),
            "c.yaml:2:5: hooks[0].begin_epoch: must be at least 0, got -1");
}

TEST(Options, RefusesNanAndInfinityByName) {
  EXPECT_EQ(read_error("momentum: .nan"),
            "c.yaml:2:5: hooks[0].momentum: must be in (0, 1), got nan");
  EXPECT_EQ(read_error("betas: [.inf]"),
            "c.yaml:2:13: hooks[0].betas[0]: must be above 0, got inf");
  FreeNumber options;
  options.value = NAN;
  EXPECT_EQ(error_of([&] { check_options(options, "X"); }), "X: value: must be finite, got nan");
}

TEST(Options, RefusesWrongTypes) {
  EXPECT_EQ(read_error("momentum: fast"),
            "c.yaml:2:5: hooks[0].momentum: must be a number, got the string 'fast'");
  EXPECT_EQ(read_error("interval: 1.0"),
            "c.yaml:2:5: hooks[0].interval: must be an integer, got 1.0");
  EXPECT_EQ(read_error("momentum: null"),
            "c.yaml:2:5: hooks[0].momentum: must be a number, got null");
  EXPECT_EQ(read_error("betas: {a: 1}"),
            "c.yaml:2:5: hooks[0].betas: must be a list, got a mapping");
  EXPECT_EQ(read_error("[1]"), "c.yaml:2:5: hooks[0]: must be a mapping, got a list");
}

TEST(Options, RefusesWhatIsNoChoice) {
  EXPECT_EQ(
      read_error("mode: epochs"),
      "c.yaml:2:5: hooks[0].mode: must be one of epoch, iteration, got 'epochs'; did you mean "
      "'epoch'?");
  EXPECT_EQ(read_error("mode: x"),
            "c.yaml:2:5: hooks[0].mode: must be one of epoch, iteration, got 'x'");
}

TEST(Options, PlacesAMissingKeyAtItsMapping) {
  TypedOptions options;
  const Node config = parse_config("hooks:\n  - x: 1\n", "c.yaml");
  EXPECT_EQ(error_of([&] { read_options(config.at("hooks").items()[0], options, "Hook"); }),
            "c.yaml:2:5: hooks[0].type: is missing; Hook requires it");
}

TEST(Options, PrefixesValidateWithThePlaceOfTheMapping) {
  EXPECT_EQ(read_error("end_momentum: 0.5"),
            "c.yaml:2:5: hooks[0]: end_momentum must not be above momentum");
  HookOptions options;
  options.end_momentum = 0.5;
  EXPECT_EQ(error_of([&] { read_options(Node(), options, "EMAHook"); }),
            "EMAHook: end_momentum must not be above momentum");
}

TEST(Options, PlacesAnErrorOfValidateAtTheKeyThatItNames) {
  const auto error = [](const std::string& text) {
    UnitOptions options;
    const Node config = parse_config("hook:\n  " + text + "\n", "c.yaml");
    return error_of([&] { read_options(config.at("hook"), options, "Hook"); });
  };
  EXPECT_EQ(error("begin: 3"), "c.yaml:2:3: hook.begin: is for iterations");
  EXPECT_EQ(error("other: epoch"), "c.yaml:2:3: hook.other: is 'epoch' like unit");
  UnitOptions options;
  options.begin = 1;
  EXPECT_EQ(error_of([&] { check_options(options, "Hook"); }), "Hook: begin: is for iterations");
  EXPECT_EQ(error_of([&] { read_options(Node(), options, "Hook"); }),
            "Hook: begin: is for iterations");
}

TEST(Options, ReadATypeThatStandsAsText) {
  UnitOptions options;
  read_options(parse_config("unit: iteration\nother: epoch\n"), options, "Hook");
  EXPECT_EQ(options.unit, Unit::iteration);
  EXPECT_EQ(options.other, Unit::epoch);
  EXPECT_EQ(options_to_node(options).dump(), "unit: iteration\nother: epoch\nbegin: 0\n");
  read_options(parse_config("other: null\n"), options, "Hook");
  EXPECT_EQ(options.other, std::nullopt);
  EXPECT_EQ(error_of([&] { read_options(parse_config("unit: x\n", "c.yaml"), options, "Hook"); }),
            "c.yaml:1:1: unit: must be one of epoch, iteration, got 'x'");
  EXPECT_EQ(
      error_of([&] { read_options(parse_config("other: era\n", "c.yaml"), options, "Hook"); }),
      "c.yaml:1:1: other: 'era' is not a unit");
  const auto keys = describe_options(UnitOptions());
  EXPECT_EQ(keys[0].type, "string");
  EXPECT_EQ(keys[0].range, "one of epoch, iteration");
  EXPECT_EQ(keys[1].type, "string or null");
}

TEST(Options, PlacesWhatValidateSaysOfAKeyAtThatKey) {
  EXPECT_EQ(read_error("interval: 2\n    device: warp"),
            "c.yaml:3:5: hooks[0].device: 'warp' is not a device");
  HookOptions options;
  options.device = "warp";
  EXPECT_EQ(error_of([&] { read_options(Node(), options, "EMAHook"); }),
            "EMAHook: device: 'warp' is not a device");
  EXPECT_EQ(
      error_of([&] { read_options(parse_config("interval: 2", "c.yaml"), options, "EMAHook"); }),
      "c.yaml:1:1: device: 'warp' is not a device");
}

TEST(Options, RestKeepsPlacesAndPaths) {
  TypedOptions options;
  const Node config = parse_config("hooks:\n  - type: A\n    x: 1\n    y: {z: 2}\n", "c.yaml");
  read_options(config.at("hooks").items()[0], options, "Hook");
  EXPECT_EQ(options.extra.dump(), "x: 1\ny:\n  z: 2\n");
  EXPECT_EQ(options.extra.at("y").at("z").prefix(), "c.yaml:4:9: hooks[0].y.z: ");
  EXPECT_EQ(options_to_node(options), config.at("hooks").items()[0]);
}

TEST(Options, CheckNamesTheOwner) {
  HookOptions options;
  EXPECT_EQ(error_of([&] { check_options(options, "CosineEMA"); }), "(no error)");
  options.momentum = 3;
  EXPECT_EQ(error_of([&] { check_options(options, "CosineEMA"); }),
            "CosineEMA: momentum: must be in (0, 1), got 3");
  options = HookOptions();
  options.betas = {1, -1};
  EXPECT_EQ(error_of([&] { check_options(options, "CosineEMA"); }),
            "CosineEMA: betas[1]: must be above 0, got -1");
  options = HookOptions();
  options.mode = "step";
  EXPECT_EQ(error_of([&] { check_options(options, "CosineEMA"); }),
            "CosineEMA: mode: must be one of epoch, iteration, got 'step'");
  options = HookOptions();
  options.begin_epoch = -1;
  EXPECT_EQ(error_of([&] { check_options(options, "CosineEMA"); }),
            "CosineEMA: begin_epoch: must be at least 0, got -1");
  options = HookOptions();
  options.end_momentum = 1;
  EXPECT_EQ(error_of([&] { check_options(options, "CosineEMA"); }),
            "CosineEMA: end_momentum must not be above momentum");
}

TEST(Options, ToNodeRebuildsThem) {
  HookOptions options, rebuilt;
  options.momentum = 0.25;
  options.device = "cuda:0";
  options.betas = {0.5};
  const Node node = options_to_node(options);
  read_options(parse_config(node.dump()), rebuilt, "EMAHook");
  EXPECT_EQ(options_to_node(rebuilt), node);
  EXPECT_EQ(rebuilt.momentum, 0.25);
  EXPECT_EQ(rebuilt.device, "cuda:0");
}

TEST(Options, DescribeTellsWhatDocumentationShows) {
  std::string text;
  for (const KeyDescription& key : describe_options(HookOptions())) {
    text += fmt::format("{} | {} | {} | {} | {}\n", key.name, key.type, key.default_value,
                        key.range, key.doc);
  }
  EXPECT_EQ(text,
            "ema_type | string | CosineEMA |  | Which average.\n"
            "momentum | number | 0.0002 | in (0, 1) | Weight of the new value.\n"
            "end_momentum | number | 0.0 | in [0, 1] | Weight at the end.\n"
            "interval | integer | 1 | at least 1 | Updates to skip.\n"
            "update_buffers | boolean | false |  | Average buffers too.\n"
            "device | string or null | null |  | Where the average lives.\n"
            "begin_epoch | integer or null | null | at least 0 | The first epoch.\n"
            "betas | list of numbers | [0.9, 0.999] | above 0 | Two numbers.\n"
            "mode | string | epoch | one of epoch, iteration | The unit.\n");
  const auto typed = describe_options(TypedOptions());
  EXPECT_TRUE(typed[0].required);
  EXPECT_EQ(typed[0].default_value, "");
  EXPECT_TRUE(typed[1].rest);
  EXPECT_EQ(typed[1].name, "...");
  EXPECT_EQ(describe_options(FreeNumber())[1].type, "any");
  EXPECT_EQ(describe_options(FreeNumber())[3].type, "list of integers");
}

TEST(Options, TakesNodesAndLists) {
  FreeNumber options;
  read_options(parse_config("any: {x: [1]}\nflag: false\nsizes: [1, 2]\nnames: [a, b]\n"), options,
               "X");
  EXPECT_EQ(options.any.at("x").items()[0].as_int(), 1);
  EXPECT_EQ(options.flag, false);
  EXPECT_EQ(options.sizes, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(
      error_of([&] { read_options(parse_config("names: [a, c]\n", "c.yaml"), options, "X"); }),
      "c.yaml:1:12: names[1]: must be one of a, b, got 'c'");
}

TEST(Bounds, AdmitInfinityOnlyAsABound) {
  EXPECT_FALSE(at_least(0).contains(INFINITY));
  EXPECT_FALSE(Bounds().contains(-INFINITY));
  EXPECT_FALSE(Bounds().contains(NAN));
  EXPECT_TRUE(closed_interval(0, INFINITY).contains(INFINITY));
}

TEST(NearestName, FindsTypingMistakesOnly) {
  const std::vector<std::string> names = {"momentum", "interval", "end_momentum"};
  EXPECT_EQ(nearest_name("momentm", names), "momentum");
  EXPECT_EQ(nearest_name("moemntum", names), "momentum");
  EXPECT_EQ(nearest_name("Momentum", names), "momentum");
  EXPECT_EQ(nearest_name("end-momentum", names), "end_momentum");
  EXPECT_EQ(nearest_name("learning_rate", names), "");
  EXPECT_EQ(nearest_name("x", {"y"}), "");
  EXPECT_EQ(nearest_name("", names), "");
  EXPECT_EQ(nearest_name("ab", {"cd", "ac", "ba"}), "ac");
}

TEST(Log, ASinkThatThrowsOrLogsDoesNotEndWhatIsLogged) {
  const LogSink before = set_log_sink([](LogLevel, std::string_view message) {
    if (message == "logs") log_info("from within");
    if (message == "throws") throw std::runtime_error("the disk is full");
  });
  testing::internal::CaptureStderr();
  log_info("logs");
  EXPECT_NO_THROW(log_warning("throws"));
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "from within\nwarning: throws\nwarning: the log sink failed: the disk is full\n");
  set_log_sink(before);
}

TEST(Cleanup, WhatADestructorThrowsBecomesAWarning) {
  std::string text;
  const LogSink before =
      set_log_sink([&](LogLevel, std::string_view message) { text = std::string(message); });
  clean_up("putting it back", [] { throw std::runtime_error("no device\nframe 1"); });
  set_log_sink(before);
  EXPECT_EQ(text, "putting it back failed: no device");
}

}  // namespace
}  // namespace polyak
