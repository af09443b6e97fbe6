// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "unit/config/testing.h"

namespace polyak {
namespace {

TEST(ConfigYaml, KeepsTheOrderOfTheFile) {
  const Node config = parse_config("z: 1\na: 2\nm: 3\n");
  std::string order;
  for (const auto& entry : config.entries()) order += entry.first;
  EXPECT_EQ(order, "zam");
}

TEST(ConfigYaml, KnowsWhereEachValueWasWritten) {
  const Node config =
      parse_config("a: 1\nhooks:\n  - type: EMAHook\n    momentum: 0.1\n", "c.yaml");
  const Node& hook = config.at("hooks").items()[0];
  EXPECT_EQ(config.at("hooks").prefix(), "c.yaml:2:1: hooks: ");
  EXPECT_EQ(hook.prefix(), "c.yaml:3:5: hooks[0]: ");
  EXPECT_EQ(hook.at("momentum").prefix(), "c.yaml:4:5: hooks[0].momentum: ");
  EXPECT_EQ(error_of([&] { hook.at("interval"); }), "c.yaml:3:5: hooks[0].interval: is missing");
}

TEST(ConfigYaml, ReadsEscapesThatAreNoAsciiAsUtf8) {
  const Node config = parse_config(R"(text: "a\_b\Nc\xa0\L")");
  EXPECT_EQ(config.at("text").as_string(), "a\u00a0b\u0085c\u00a0\u2028");
  EXPECT_EQ(parse_config(config.dump()).at("text").as_string(), config.at("text").as_string());
}

TEST(ConfigYaml, WritesKeysThatAreLongerThanYamlAllowsWithoutAMark) {
  // Quotes and escapes make them two and four times as long.
  const std::string keys[] = {std::string(900, '\''), std::string(300, '\x01')};
  for (const std::string& key : keys) {
    Node inner = Node::mapping();
    inner.set(key, 1);
    inner.set("b", Node::mapping({{"c", 2}}));
    Node config = Node::mapping();
    config.set("a", std::move(inner));
    config.set(key, Node::mapping({{"d", 3}}));
    const Node again = parse_config(config.dump());
    EXPECT_EQ(again.at("a").at(key).as_int(), 1);
    EXPECT_EQ(again.at("a").at("b").at("c").as_int(), 2);
    EXPECT_EQ(again.at(key).at("d").as_int(), 3);
    EXPECT_EQ(again.dump(), config.dump());
  }
}

TEST(ConfigYaml, QuotesQuestionMarksWhichEndAWordInAList) {
  const Node config = parse_config("t?:\n- ti?t\n");
  EXPECT_EQ(parse_config(config.dump()).dump(), config.dump());
}

TEST(ConfigYaml, WritesWhatOtherReadersTakeForTheStartOfAFileOrTheEndOfALine) {
  const std::string key = "\ufeffkey", value = "a\u0085b\u2028c\u2029d\ufeff";
  Node config = Node::mapping();
  config.set(key, value);
  const Node again = parse_config(config.dump());
  ASSERT_EQ(again.entries().size(), 1u);
  EXPECT_EQ(again.entries()[0].first, key);
  EXPECT_EQ(again.entries()[0].second.as_string(), value);
}

TEST(ConfigYaml, PlacesAnEmptyValueAtItsKey) {
  const Node config = parse_config("a:\nb: 1\n", "c.yaml");
  EXPECT_TRUE(config.at("a").is_null());
  EXPECT_EQ(config.at("a").prefix(), "c.yaml:1:1: a: ");
}

TEST(ConfigYaml, ReadsNull) {
  const Node config = parse_config("a: ~\nb: null\nc:\nd: 'null'\n");
  EXPECT_TRUE(config.at("a").is_null());
  EXPECT_TRUE(config.at("b").is_null());
  EXPECT_TRUE(config.at("c").is_null());
  EXPECT_EQ(config.at("d").as_string(), "null");
}

TEST(ConfigYaml, ReadsBooleans) {
  const Node config = parse_config("a: [true, True, TRUE]\nb: [false, False, FALSE]\nc: yes\n");
  for (const Node& item : config.at("a").items()) EXPECT_TRUE(item.as_bool());
  for (const Node& item : config.at("b").items()) EXPECT_FALSE(item.as_bool());
  EXPECT_EQ(config.at("c").as_string(), "yes");
}

TEST(ConfigYaml, ReadsIntegers) {
  const Node config = parse_config(
      "a: [0, -3, +4, 0x1F, 010, 9223372036854775807, -9223372036854775808]\nb: 1_000\n");
  std::vector<int64_t> values;
  for (const Node& item : config.at("a").items()) values.push_back(item.as_int());
  EXPECT_EQ(values, (std::vector<int64_t>{0, -3, 4, 31, 10, INT64_MAX, INT64_MIN}));
  EXPECT_EQ(config.at("b").as_string(), "1_000");
}

TEST(ConfigYaml, ReadsNumbers) {
  const Node config = parse_config("a: [1e-3, 1., .5, -2.5E+2, 3, .inf, -.inf]\nb: .nan\n");
  std::vector<double> values;
  for (const Node& item : config.at("a").items()) values.push_back(item.as_double());
  EXPECT_EQ(values, (std::vector<double>{1e-3, 1., .5, -250, 3, INFINITY, -INFINITY}));
  EXPECT_TRUE(std::isnan(config.at("b").as_double()));
}

TEST(ConfigYaml, QuotesMakeStrings) {
  const Node config = parse_config("a: '1'\nb: \"true\"\nc: |\n  2\nd: !!str 3\n");
  EXPECT_EQ(config.at("a").as_string(), "1");
  EXPECT_EQ(config.at("b").as_string(), "true");
  EXPECT_EQ(config.at("c").as_string(), "2\n");
  EXPECT_EQ(config.at("d").as_string(), "3");
}

TEST(ConfigYaml, SaysWhichTypeAValueShouldHave) {
  const Node config = parse_config(
      "a: 1.0\nb: '1'\nc: 7\nd: [1]\ne: on\nf: 99999999999999999999\ng: 1e999\nh:\n", "c.yaml");
  auto error = [&](const char* key, auto read) { return error_of([&] { read(config.at(key)); }); };
  auto as_int = [](const Node& node) { node.as_int(); };
  auto as_double = [](const Node& node) { node.as_double(); };
  auto as_string = [](const Node& node) { node.as_string(); };
  auto as_bool = [](const Node& node) { node.as_bool(); };
  EXPECT_EQ(error("a", as_int), "c.yaml:1:1: a: must be an integer, got 1.0");
  EXPECT_EQ(error("b", as_int),
            "c.yaml:2:1: b: must be an integer, got the string '1'; drop the quotes");
  EXPECT_EQ(error("c", as_string), "c.yaml:3:1: c: must be a string, got 7; put it in quotes: '7'");
  EXPECT_EQ(error("d", as_double), "c.yaml:4:1: d: must be a number, got a list");
  EXPECT_EQ(error("e", as_bool), "c.yaml:5:1: e: must be true or false, got the string 'on'");
  EXPECT_EQ(error("f", as_int),
            "c.yaml:6:1: f: must be an integer that fits in 64 bits, got 99999999999999999999");
  EXPECT_EQ(error("g", as_double),
            "c.yaml:7:1: g: must be a number that a double can hold, got 1e999");
  EXPECT_EQ(error("h", as_string), "c.yaml:8:1: h: must be a string, got null");
  EXPECT_EQ(error("c", [](const Node& node) { node.items(); }),
            "c.yaml:3:1: c: must be a list, got 7");
  EXPECT_EQ(error("c", [](const Node& node) { node.find("x"); }),
            "c.yaml:3:1: c: must be a mapping, got 7");
}

TEST(ConfigYaml, RefusesDuplicateKeysAndShowsBothPlaces) {
  EXPECT_EQ(parse_error("a: 1\nb: 2\na: 3\n"),
            "c.yaml:3:1: a: duplicate key; first set at c.yaml:1:1");
  EXPECT_EQ(parse_error("hooks:\n  - x: 1\n    y: {z: 1, z: 2}\n"),
            "c.yaml:3:15: hooks[0].y.z: duplicate key; first set at c.yaml:3:9");
}

TEST(ConfigYaml, MergeKeyGivesWayToKeysOfItsOwnMapping) {
  const Node config = parse_config(
      "base: &base {a: 1, b: 2}\nmore: &more {b: 3, c: 4}\nx:\n  <<: [*base, *more]\n  a: 9\n",
      "c.yaml");
  EXPECT_EQ(config.at("x"), Node::mapping({{"a", 9}, {"b", 2}, {"c", 4}}));
  EXPECT_EQ(config.at("x").at("c").prefix(), "c.yaml:2:20: x.c: ");
  EXPECT_EQ(parse_config("p: &p {a: 1}\nx: {<<: *p}\n").at("x"), Node::mapping({{"a", 1}}));
}

TEST(ConfigYaml, MergeKeyTakesMappingsOnly) {
  EXPECT_EQ(parse_error("x:\n  <<: 3\n"),
            "c.yaml:2:3: x.<<: must be a mapping or a list of mappings, got an integer");
}

TEST(ConfigYaml, AliasesAreCopies) {
  Node config = parse_config("a: &a {x: [1, 2]}\nb: *a\n");
  config.find("a")->set("x", 5);
  EXPECT_EQ(config.at("b").at("x").items().size(), 2u);
}

TEST(ConfigYaml, RefusesAnAliasInsideOfItsAnchor) {
  EXPECT_EQ(parse_error("a: &a [*a]\n"),
            "c.yaml:1:8: a[0]: an alias cannot be inside its own anchor");
}

TEST(ConfigYaml, RefusesAliasesThatExplode) {
  std::string text = "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8]\n";
  for (int i = 1; i < 10; ++i) {
    text += fmt::format("a{0}: &a{0} [*a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}]\n", i,
                        i - 1);
  }
  EXPECT_NE(parse_error(text).find("aliases expand this file to more than 1000000 values"),
            std::string::npos);
}

TEST(ConfigYaml, RefusesASecondDocument) {
  EXPECT_EQ(parse_error("a: 1\n---\nb: 2\n"),
            "c.yaml:2:1: a second document starts here; a config must be a single document");
}

TEST(ConfigYaml, RefusesKeysThatAreNoScalars) {
  EXPECT_EQ(parse_error("a:\n  ? [1, 2]\n  : 3\n"),
            "c.yaml:2:5: a: a key must be a scalar, got a list");
  EXPECT_EQ(parse_error("~: 3\n"), "c.yaml:1:1: a key must be a scalar, got null");
}

TEST(ConfigYaml, RefusesTagsOfOtherLanguages) {
  EXPECT_EQ(parse_error("a: !!python/tuple [1, 2]\n"),
            "c.yaml:1:4: a: the tag 'tag:yaml.org,2002:python/tuple' is not supported");
}

TEST(ConfigYaml, ExplainsInvalidYaml) {
  EXPECT_EQ(
      parse_error("a: 1\n  b: 2\n"),
      "c.yaml:2:4: invalid YAML: a ':' is not allowed here; check the indentation, or use quotes");
  EXPECT_EQ(parse_error("a: [1, 2\n"),
            "c.yaml:2:1: invalid YAML: a '[' has no ']', or a ',' is missing");
  EXPECT_EQ(parse_error("a: 'x\n"), "c.yaml:1:4: invalid YAML: this quote is not closed");
  EXPECT_EQ(parse_error("a:\n\tb: 1\n"),
            "c.yaml:2:3: invalid YAML: this line is indented by a tab; use spaces");
  EXPECT_EQ(parse_error("a: *nowhere\n"),
            "c.yaml:1:4: invalid YAML: the referenced anchor is not defined");
  EXPECT_EQ(parse_error("a: @x\n"),
            "c.yaml:1:4: invalid YAML: a value cannot start with this character; use quotes");
  EXPECT_NE(parse_error("a: " + std::string(5000, '[')).find("nested too deeply"),
            std::string::npos);
}

TEST(ConfigYaml, RefusesQuotesThatAreNotClosed) {
  const std::string message = "c.yaml:1:4: invalid YAML: this quote is not closed";
  EXPECT_EQ(parse_error("a: 'x\nb: 1\n"), message);
  EXPECT_EQ(parse_error("a: \"x\nb: 1\n"), message);
  EXPECT_EQ(parse_error("a: &k 'x\nb: 1\n"), message);
  EXPECT_EQ(parse_error("a: [x, 'y]\n"), "c.yaml:1:8: invalid YAML: this quote is not closed");
  const Node config = parse_config(
      "a: 'it''s\n  fine'\nb: \"\\\"q\\\\\"\nc: &k 'd'\n\"e\": ü\n'f': ['g', \"h\"]\n");
  EXPECT_EQ(config.at("a").as_string(), "it's fine");
  EXPECT_EQ(config.at("b").as_string(), "\"q\\");
}

TEST(ConfigYaml, RefusesKeysWithoutAColon) {
  EXPECT_EQ(parse_error("a: 1\nmomentum\n"),
            "c.yaml:2:1: invalid YAML: the key 'momentum' has no value; write it as 'key: value'");
  EXPECT_EQ(parse_error("a: {b:1}\n"),
            "c.yaml:1:5: invalid YAML: the key 'b:1' has no value; write it as 'key: value'");
  EXPECT_EQ(parse_config("? a\n: 1\n'b' : 2\n&x c: 3\n"),
            Node::mapping({{"a", 1}, {"b", 2}, {"c", 3}}));
}

TEST(ConfigYaml, RefusesATopLevelThatIsNoMapping) {
  EXPECT_EQ(parse_error("- 1\n- 2\n"), "c.yaml:1:1: the top level must be a mapping, got a list");
  EXPECT_EQ(parse_error("hello\n"), "c.yaml:1:1: the top level must be a mapping, got a string");
}

TEST_F(ConfigFiles, RefusesWhatIsNoConfigFile) {
  std::filesystem::create_directory("folder");
  write("empty.yaml", "");
  write("comment.yaml", "# nothing\n");
  write("binary.yaml", std::string("PK\x03\x04\0\0", 6));
  EXPECT_EQ(load_error("none.yaml"), "none.yaml: no such file");
  EXPECT_EQ(load_error("folder"), "folder: is a directory, not a config file");
  EXPECT_EQ(load_error("empty.yaml"), "empty.yaml: is empty; a config must be a mapping");
  EXPECT_EQ(load_error("comment.yaml"), "comment.yaml: is empty; a config must be a mapping");
  EXPECT_EQ(load_error("binary.yaml"),
            "binary.yaml: is not a UTF-8 text file: it contains the byte 0x03");
}

TEST_F(ConfigFiles, ReadsFilesOfWindows) {
  write("c.yaml",
        "\xEF\xBB\xBF"
        "a: 1\r\nb: x\r\n");
  EXPECT_EQ(load_config("c.yaml"), Node::mapping({{"a", 1}, {"b", "x"}}));
}

TEST_F(ConfigFiles, MergesBasesThatAreRelativeToTheFile) {
  write("base/model.yaml", "model: {type: Net, depth: 18, widths: [1, 2]}\n");
  write("base/run.yaml", "run:\n  epochs: 5\n");
  write("x/c.yaml",
        "_base_: [../base/model.yaml, ../base/run.yaml]\nmodel: {depth: 50, widths: [3]}\n");
  const Node config = load_config("x/c.yaml");
  EXPECT_EQ(config.dump(), "model:\n  type: Net\n  depth: 50\n  widths: [3]\nrun:\n  epochs: 5\n");
  EXPECT_EQ(config.at("run").at("epochs").prefix(), "base/run.yaml:2:3: run.epochs: ");
  EXPECT_EQ(config.at("model").at("type").prefix(), "base/model.yaml:1:9: model.type: ");
  EXPECT_EQ(config.at("model").at("depth").prefix(), "x/c.yaml:2:9: model.depth: ");
}

TEST_F(ConfigFiles, BasesHaveBases) {
  write("a.yaml", "x: {p: 1, q: 1, r: 1}\n");
  write("b.yaml", "_base_: a.yaml\nx: {q: 2, r: 2}\n");
  write("c.yaml", "_base_: b.yaml\nx: {r: 3}\n");
  EXPECT_EQ(load_config("c.yaml"),
            Node::mapping({{"x", Node::mapping({{"p", 1}, {"q", 2}, {"r", 3}})}}));
}

TEST_F(ConfigFiles, DeleteDropsTheMappingOfTheBase) {
  write("a.yaml", "x: {p: 1, y: {q: 1}}\nz: 3\n");
  write("c.yaml", "_base_: a.yaml\nx: {y: {_delete_: true, r: 2}}\nz: {_delete_: true, s: 4}\n");
  EXPECT_EQ(load_config("c.yaml").dump(), "x:\n  p: 1\n  y:\n    r: 2\nz:\n  s: 4\n");
}

TEST_F(ConfigFiles, DeleteIsGoneWhereNoBaseIs) {
  EXPECT_EQ(parse_config("x: {_delete_: true, r: 2}\nl: [{_delete_: false, s: 1}]\n").dump(),
            "x:\n  r: 2\nl:\n  - s: 1\n");
  EXPECT_EQ(parse_error("x: {_delete_: 1}\n"),
            "c.yaml:1:5: x._delete_: must be true or false, got 1");
}

TEST_F(ConfigFiles, RefusesAMappingOverSomethingElse) {
  write("a.yaml", "hooks: [1]\n");
  write("c.yaml", "_base_: a.yaml\nhooks: {x: 1}\n");
  EXPECT_EQ(load_error("c.yaml"),
            "c.yaml:2:1: hooks: a mapping cannot be merged into a list (at a.yaml:1:1); to replace "
            "it, add '_delete_: true' to the mapping");
}

TEST_F(ConfigFiles, RefusesOneKeyInTwoBases) {
  write("a.yaml", "model: 1\n");
  write("b.yaml", "x: 1\nmodel: 2\n");
  write("c.yaml", "_base_:\n  - a.yaml\n  - b.yaml\n");
  EXPECT_EQ(
      load_error("c.yaml"),
      "c.yaml:3:5: _base_[1]: two bases set 'model': a.yaml:1:1 and b.yaml:2:1; the bases of a "
      "file must not share a top-level key");
}

TEST_F(ConfigFiles, ShowsTheChainOfACycle) {
  write("a.yaml", "_base_: d/b.yaml\n");
  write("d/b.yaml", "x: 1\n_base_: ../a.yaml\n");
  EXPECT_EQ(load_error("a.yaml"),
            "d/b.yaml:2:1: _base_: the bases form a cycle: a.yaml -> d/b.yaml -> a.yaml");
}

TEST_F(ConfigFiles, NamesThePlaceOfAMissingBase) {
  write("c.yaml", "x: 1\n_base_: none.yaml\n");
  EXPECT_EQ(load_error("c.yaml"), "c.yaml:2:1: _base_: none.yaml: no such file");
  write("d.yaml", "_base_: 3\n");
  EXPECT_EQ(load_error("d.yaml"),
            "d.yaml:1:1: _base_: must be a string, got 3; put it in quotes: '3'");
  write("e.yaml", "x:\n  _base_: c.yaml\n");
  EXPECT_EQ(load_error("e.yaml"),
            "e.yaml:2:3: x._base_: is only allowed at the top level of a file");
}

TEST_F(ConfigFiles, AFileAboveOneMebibyteIsRefusedBeforeItIsParsed) {
  const auto error = [&](const std::string& text) {
    write("c.yaml", text);
    return error_of([&] { load_config("c.yaml"); });
  };
  const std::string says =
      "c.yaml: is larger than 1 MiB, the limit for a config; configs hold settings, not data";
  const std::string start = "a: 1\n";
  EXPECT_EQ(error(start + "#" + std::string((1 << 20) - start.size(), 'x')), says);
  EXPECT_EQ(error(start + "#" + std::string((1 << 20) - start.size() - 1, 'x')), "(no error)");
  write("base.yaml", start + std::string(2 << 20, '\n'));
  EXPECT_EQ(error("_base_: base.yaml\n"), "base" + says.substr(1));
  EXPECT_EQ(error_of([&] { parse_config(std::string((1 << 20) + 1, ' '), "c.yaml"); }), says);
  EXPECT_EQ(error_of([&] { load_config("/dev/zero"); }), "/dev/zero" + says.substr(6));
}

TEST_F(ConfigFiles, BasesThatNameOneAnotherTwiceEnd) {
  for (int i = 0; i < 40; ++i) {
    write(fmt::format("b{}.yaml", i), fmt::format("_base_: [b{0}.yaml, b{0}.yaml]\n", i + 1));
  }
  write("b40.yaml", "{}\n");
  EXPECT_THAT(error_of([&] { load_config("b0.yaml"); }),
              testing::HasSubstr("a config has at most 100 bases"));
}

TEST(ConfigYaml, LongKeysAndAliasesOfLongTextsAreBounded) {
  EXPECT_EQ(error_of([&] { parse_config(std::string(1001, 'k') + ": 1\n", "c.yaml"); }),
            "c.yaml:1:1: a key has at most 1000 characters");
  const std::string key(400, 'k');
  EXPECT_THAT(
      error_of([&] { parse_config(key + ": {" + key + ": {" + key + ": {a: 1}}}\n", "c.yaml"); }),
      testing::HasSubstr("the key path has more than 1000 characters"));
  std::string text = "a: &a " + std::string(500000, 'x') + "\nb: [";
  for (int i = 0; i < 100; ++i) text += "*a, ";
  EXPECT_THAT(error_of([&] { parse_config(text + "1]\n", "c.yaml"); }),
              testing::HasSubstr("aliases expand this file to more than 16777216 characters"));
}

TEST_F(ConfigFiles, OverridesComeLast) {
  write("a.yaml", "x: {p: 1, q: 2}\n");
  write("c.yaml", "_base_: a.yaml\nx: {p: 3}\n");
  const Node config = load_config("c.yaml", {"x.p=4", "x.p=5", "y.z=6"});
  EXPECT_EQ(config.dump(), "x:\n  p: 5\n  q: 2\ny:\n  z: 6\n");
}

// The value that one override sets, as YAML.
std::string value_of(const std::string& written) {
  Node config;
  apply_override(config, "k=" + written);
  std::string text = config.at("k").dump();
  text.pop_back();
  return text;
}

TEST(ConfigOverride, ReadsValuesAsMMEngineDoes) {
  EXPECT_EQ(value_of("1"), "1");
  EXPECT_EQ(value_of("-0.5"), "-0.5");
  EXPECT_EQ(value_of("1e-3"), "1e-3");
  EXPECT_EQ(value_of("inf"), ".inf");
  EXPECT_EQ(value_of("tRuE"), "true");
  EXPECT_EQ(value_of("None"), "null");
  EXPECT_EQ(value_of("null"), "null");
  EXPECT_EQ(value_of("abc"), "abc");
  EXPECT_EQ(value_of("a=b"), "a=b");
  EXPECT_EQ(value_of(""), "''");
  EXPECT_EQ(value_of("1,2"), "[1, 2]");
  EXPECT_EQ(value_of("[1, a, None]"), "[1, a, null]");
  EXPECT_EQ(value_of("(0.9,0.95)"), "[0.9, 0.95]");
  EXPECT_EQ(value_of("[(1,2),[3]]"), "[[1, 2], [3]]");
  EXPECT_EQ(value_of("(1,2),(3,4)"), "[[1, 2], [3, 4]]");
  EXPECT_EQ(value_of("[]"), "[]");
  EXPECT_EQ(value_of("1,"), "[1]");
  EXPECT_EQ(value_of("\"[1, 2]\""), "[1, 2]");
  EXPECT_EQ(value_of("['a', \"b\"]"), "[a, b]");
  EXPECT_EQ(value_of("cuda:0"), "cuda:0");
}

TEST(ConfigOverride, QuotesKeepAScalarAString) {
  EXPECT_EQ(value_of("'1'"), "'1'");
  EXPECT_EQ(value_of("\"two words\""), "two words");
}

TEST(ConfigOverride, QuotesKeepCommasBracketsAndBlanks) {
  EXPECT_EQ(value_of("\"a,b\""), "'a,b'");
  EXPECT_EQ(value_of("'a, b'"), "'a, b'");
  EXPECT_EQ(value_of("'1,2'"), "'1,2'");
  EXPECT_EQ(value_of("' /data/my set '"), "' /data/my set '");
  EXPECT_EQ(value_of("['a, b', \"c d\", 'e]', 1]"), "['a, b', c d, 'e]', 1]");
  EXPECT_EQ(value_of("'a, b', c"), "['a, b', c]");
  EXPECT_EQ(value_of("[('x,y', 2), '(']"), "[['x,y', 2], (]");
  EXPECT_EQ(value_of("['1', 'true', 'null']"), "['1', 'true', 'null']");
  EXPECT_EQ(value_of("['', 1]"), "['', 1]");
  EXPECT_EQ(value_of("'['"), "'['");
  EXPECT_EQ(value_of("\"(1,2),(3,4)\""), "[[1, 2], [3, 4]]");
}

TEST(ConfigOverride, QuotesWithinQuotesAreWrittenAsInYaml) {
  EXPECT_EQ(value_of("'it''s'"), "it's");
  EXPECT_EQ(value_of("\"say \\\"a, b\\\"\""), "'say \"a, b\"'");
  EXPECT_EQ(value_of("\"C:\\\\x\\y\""), "C:\\x\\y");
  EXPECT_EQ(value_of("it's"), "it's");
  EXPECT_EQ(value_of("it's, that's"), "[it's, that's]");
}

TEST(ConfigOverride, MappingsAreWrittenAsInYaml) {
  EXPECT_EQ(value_of("{a: 1, b: [x, 'y, z']}"), "a: 1\nb: [x, 'y, z']");
  Node config;
  apply_override(config, "hooks=[{type: EMAHook, averages: [{decay: 0.9}, {name: b}]}, {c: 'd}'}]");
  const Node& averages = config.at("hooks").items()[0].at("averages");
  EXPECT_EQ(averages.items()[0].at("decay").as_double(), 0.9);
  EXPECT_EQ(averages.items()[1].at("name").as_string(), "b");
  EXPECT_EQ(config.at("hooks").items()[1].at("c").as_string(), "d}");
  const auto error = [&](const std::string& text) {
    return error_of([&] { apply_override(config, text); });
  };
  EXPECT_THAT(error("a={b: 1"), testing::HasSubstr("a: the brackets do not match in '{b: 1'"));
  EXPECT_THAT(error("a={b: 1, b: 2}"), testing::HasSubstr("a: {b: 1, b: 2} is not a mapping"));
  EXPECT_THAT(error_of([&] {
                apply_override(config, "a={b: {c: x}}");
                config.at("a").at("b").at("c").as_int();
              }),
              testing::StartsWith("--cfg-options a={b: {c: x}}: a.b.c: must be an integer"));
}

TEST(ConfigOverride, BlanksWithinAStringStay) {
  EXPECT_EQ(value_of("/data/my set/a b"), "/data/my set/a b");
  EXPECT_EQ(value_of("  x  "), "x");
  EXPECT_EQ(value_of("[ a b , c ]"), "[a b, c]");
  EXPECT_EQ(value_of(" 0.5 "), "0.5");
}

TEST(ConfigOverride, RefusesQuotesThatDoNotCloseAndDepthWithoutEnd) {
  Node config = parse_config("a: 1\n");
  auto error = [&](const std::string& text) {
    return error_of([&] { apply_override(config, text); });
  };
  EXPECT_EQ(error("a='x"), "--cfg-options a='x: a: a quote is not closed in 'x");
  EXPECT_EQ(error("a=[1,\"x]"), "--cfg-options a=[1,\"x]: a: a quote is not closed in [1,\"x]");
  EXPECT_EQ(error("a='x' y"), "--cfg-options a='x' y: a: text follows the closing quote in 'x' y");
  EXPECT_THAT(error("a=" + std::string(50000, '[') + std::string(50000, ']')),
              testing::HasSubstr("lists are nested more than 100 deep"));
  std::string key = "a";
  for (int i = 0; i < 50000; ++i) key += ".a";
  EXPECT_THAT(error(key + "=1"), testing::HasSubstr("the key path has more than 100 parts"));
}

TEST(ConfigOverride, SetsScalarsInLists) {
  Node config = parse_config("betas: [0.9, 0.999]\nhooks:\n  - {momentum: 1}\n  - {momentum: 2}\n");
  apply_override(config, "betas.1=0.95");
  apply_override(config, "hooks.1.momentum=3");
  EXPECT_EQ(config.dump(), "betas: [0.9, 0.95]\nhooks:\n  - momentum: 1\n  - momentum: 3\n");
}

TEST(ConfigOverride, MakesTheMappingsOnTheWay) {
  Node config = parse_config("a: 1\nn:\n");
  apply_override(config, "b.c.0=2");
  apply_override(config, "n.m=3");
  EXPECT_EQ(config.dump(), "a: 1\nn:\n  m: 3\nb:\n  c:\n    '0': 2\n");
}

TEST(ConfigOverride, SaysWhereAValueCameFrom) {
  Node config = parse_config("hooks:\n  - momentum: 1\n");
  apply_override(config, "hooks.0.momentum=[x]");
  const Node& value = config.at("hooks").items()[0].at("momentum");
  EXPECT_EQ(error_of([&] { value.as_double(); }),
            "--cfg-options hooks.0.momentum=[x]: hooks[0].momentum: must be a number, got a list");
  EXPECT_EQ(error_of([&] { value.items()[0].as_double(); }),
            "--cfg-options hooks.0.momentum=[x]: hooks[0].momentum[0]: must be a number, got the "
            "string 'x'");
}

TEST(ConfigOverride, RefusesWhatCannotBeReached) {
  Node config = parse_config("a: 1\nlist: [1, 2]\n");
  const Node before = config;
  auto error = [&](const std::string& text) {
    return error_of([&] { apply_override(config, text); });
  };
  EXPECT_EQ(
      error("list.7=1"),
      "--cfg-options list.7=1: list: index 7 is out of range; the list has 2 elements, counted "
      "from 0");
  EXPECT_EQ(error("list.x=1"), "--cfg-options list.x=1: list: is a list; 'x' is not an index");
  EXPECT_EQ(error("a.b.c=1"), "--cfg-options a.b.c=1: a: is an integer, so it has no key 'b'");
  EXPECT_EQ(error("a"), "--cfg-options a: must have the form key=value, as in a.b.0.c=1");
  EXPECT_EQ(error("=1"), "--cfg-options =1: must have the form key=value, as in a.b.0.c=1");
  EXPECT_EQ(error("a..b=1"), "--cfg-options a..b=1: must have the form key=value, as in a.b.0.c=1");
  EXPECT_EQ(error("a=[1,(2]"), "--cfg-options a=[1,(2]: a: the brackets do not match in '[1,(2]'");
  EXPECT_EQ(error("a._delete_=true"),
            "--cfg-options a._delete_=true: '_delete_' is only allowed in files");
  EXPECT_EQ(config, before);
}

TEST(ConfigNode, DumpParsesBackToAnEqualNode) {
  const Node node = Node::mapping({
      {"null", Node()},
      {"bools", Node::sequence({true, false})},
      {"numbers", Node::sequence({1, 1.0, 1e-7, -2.5e300, INFINITY, NAN, int64_t{1} << 60})},
      {"strings",
       Node::sequence(
           {"",         "1",   "1e-3",       "true",  "null", "~",    "yes",  "a: b",
            "a #b",     "#",   "- x",        " x ",   "x:",   "it's", "\"",   "two\nlines\n",
            "\t\x01\\", "[",   "a, b",       "*a",    "&a",   "!a",   "%a",   "@a",
            "...",      "---", "2020-01-01", "12:30", "<<",   "=",    "grün", "cuda:0"})},
      {"empty list", Node::sequence()},
      {"empty mapping", Node::mapping()},
      {"nested",
       Node::sequence({Node::sequence({1, Node::sequence({2})}),
                       Node::sequence({Node::mapping({{"a", 1}, {"b", "x"}})}),
                       Node::mapping({{"c", Node::mapping({{"d", Node::sequence({3})}})}})})},
      {"<<", "no merge key"},
      {"1", 1},
      {"a: b", 2},
      {"", 3},
  });
  EXPECT_EQ(parse_config(node.dump()), node) << node.dump();
  EXPECT_EQ(parse_config(node.dump()).dump(), node.dump());
}

TEST(ConfigNode, DumpReadsWell) {
  const Node config = parse_config(
      "hooks: [{type: EMAHook, betas: [0.9, 1e-3], on: ~}, [x, {y: 1}]]\nname: run one\n");
  EXPECT_EQ(config.dump(),
            "hooks:\n"
            "  - type: EMAHook\n"
            "    betas: [0.9, 1e-3]\n"
            "    'on': null\n"
            "  - - x\n"
            "    - y: 1\n"
            "name: run one\n");
}

TEST(ConfigNode, DumpBreaksLongLists) {
  const Node list = Node::sequence(std::vector<Node>(50, Node("word")));
  const std::string text = Node::mapping({{"list", list}}).dump();
  EXPECT_EQ(text.substr(0, 28), "list:\n  - word\n  - word\n  - ");
}

TEST(ConfigNode, EqualityLooksAtTypeAndValue) {
  EXPECT_EQ(Node::scalar("0x10", false), Node(16));
  EXPECT_EQ(Node::scalar("1e0", false), Node(1.0));
  EXPECT_EQ(Node::scalar("abc", false), Node("abc"));
  EXPECT_EQ(Node::mapping({{"a", 1}, {"b", 2}}), Node::mapping({{"b", 2}, {"a", 1}}));
  EXPECT_NE(Node(1), Node(1.0));
  EXPECT_NE(Node(1), Node("1"));
  EXPECT_NE(Node(), Node("null"));
  EXPECT_NE(Node::mapping({{"a", 1}}), Node::mapping({{"b", 1}}));
}

TEST(ConfigNode, NamesItsKind) {
  const Node config = parse_config("k: [~, true, 1, 1.5, x, [], {}]\n");
  std::string names;
  for (const Node& item : config.at("k").items()) names += item.kind_name() + ", ";
  EXPECT_EQ(names, "null, a boolean, an integer, a number, a string, a list, a mapping, ");
}

TEST(ConfigNode, PathsFollowTheTree) {
  Node hook = Node::mapping({{"type", "EMAHook"}});
  Node config;
  Node hooks;
  hooks.append(Node());
  hooks.append(hook);
  config.set("hooks", hooks);
  EXPECT_EQ(config.at("hooks").items()[1].at("type").path(), "hooks[1].type");
  EXPECT_EQ(config.at("hooks").items()[1].path_of("momentum"), "hooks[1].momentum");
}

TEST(ConfigNode, WithoutLeavesTheOriginalAlone) {
  const Node config = parse_config("type: A\nx: 1\npriority: 2\n", "c.yaml");
  EXPECT_EQ(config.without({"type", "priority"}).dump(), "x: 1\n");
  EXPECT_EQ(config.without({"type"}).at("x").prefix(), "c.yaml:2:1: x: ");
  EXPECT_EQ(config.entries().size(), 3u);
}

}  // namespace
}  // namespace polyak
