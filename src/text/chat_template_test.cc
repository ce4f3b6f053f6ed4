// Chat templates: where every piece of the output comes from, errors with their places, and limits.
#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "base/file.h"
#include "text/chat_template_fuzz_body.h"

namespace westlake {
namespace {

JsonDocument json(std::string_view text) {
  return JsonDocument::parse(text, "json").value();
}

// The segments as "template(content)template": content in parentheses.
std::string render(std::string_view source, std::string_view messages = R"([{"role": "user", "content": "Ab c"}])",
                   const JinjaLimits& limits = {}) {
  const JsonDocument document = json(messages);
  ChatRequest request;
  request.messages_json = document.root();
  request.special_tokens = {{"bos_token", "<s>"}};
  const auto parsed = ChatTemplate::parse(source, "t");
  if (!parsed.ok()) return std::string(code_name(parsed.error().code)) + ": " + parsed.error().message;
  const auto result = parsed.value().render(request, limits);
  if (!result.ok()) return std::string(code_name(result.error().code)) + ": " + result.error().message;
  std::string out;
  for (const ChatSegment& segment : result.value().segments) {
    out += segment.origin == Origin::kContent ? "(" + segment.text + ")" : segment.text;
  }
  return out;
}

constexpr std::string_view kSet = "{% set c = messages[0].content %}";
std::string with_content(std::string_view source) {
  return render(std::string(kSet) + std::string(source));
}

TEST(ChatOrigin, TextOfMessagesIsContentHoweverItIsReached) {
  EXPECT_EQ(with_content("{{ bos_token + c + '</s>' }}"), "<s>(Ab c)</s>");
  EXPECT_EQ(with_content("{{ bos_token ~ c }}{{ c }}"), "<s>(Ab c)(Ab c)");  // two strings are two segments
  EXPECT_EQ(with_content("{{ messages[0]['role'] }}: {{ messages[0].get('content') }}"), "(user): (Ab c)");
  EXPECT_EQ(with_content("{% for m in messages %}{% for k, v in m.items() %}{{ k }}={{ v }};{% endfor %}{% endfor %}"),
            "(role)=(user);(content)=(Ab c);");
  EXPECT_EQ(with_content("{% set ns = namespace(s='') %}{% set ns.s = ns.s + '[' + c + ']' %}{{ ns.s }}"), "[(Ab c)]");
  EXPECT_EQ(with_content("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(c)|trim }}"), "<(Ab c)>");
  EXPECT_EQ(with_content("{% set b %}<{{ c }}>{% endset %}{{ b + b }}"), "<(Ab c)><(Ab c)>");
  EXPECT_EQ(with_content("{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}x{{ c }}{% endcall %}"), "x(Ab c)");
  EXPECT_EQ(with_content("{% filter upper %}x{{ c }}{% endfilter %}{% generation %}{{ c }}{% endgeneration %}"),
            "X(AB C)(Ab c)");
  EXPECT_EQ(with_content("{{ {'user': '<user>'}[messages[0].role] }}"), "<user>");  // chosen by a message, not from it
}

TEST(ChatOrigin, OperationsCarryThePiecesAlong) {
  EXPECT_EQ(with_content("{{ c|upper }}{{ c.lower() }}{{ c|title }}{{ c|capitalize }}"), "(AB C)(ab c)(Ab C)(Ab c)");
  EXPECT_EQ(with_content("{{ ('  ' + c + ' x ').strip() }}|{{ (c + 'x')[1:4] }}|{{ ('<' ~ c ~ '>')[1:-1] }}"),
            "(Ab c) x|(b c)|(Ab c)");
  EXPECT_EQ(with_content("{{ ('<' ~ c ~ '>')[::-1] }}|{{ c[::-1] }}|{{ c|reverse }}|{{ c[0] }}"),
            ">(c)( )(b)(A)<|(c bA)|(c bA)|(A)");
  EXPECT_EQ(with_content("{{ c|replace('b', '<b>') }}|{{ ('<' + c)|replace('<', c) }}"), "(A)<b>( c)|(Ab c)(Ab c)");
  EXPECT_EQ(with_content("{{ c.split(' ')|join('+') }}|{{ [c, 'x', c]|join(c) }}"),
            "(Ab)+(c)|(Ab c)(Ab c)x(Ab c)(Ab c)");
  EXPECT_EQ(with_content("{{ c.split(' ')[-1] }}{{ ('a b' + c).split(' ') | last }}"), "(c)(c)");
  EXPECT_EQ(with_content("{{ '%s<%d>' % (c, 3) }}{{ '{}!'.format(c) }}{{ '%s' | format(c) }}"),
            "(Ab c)<3>(Ab c)!(Ab c)");
  EXPECT_EQ(with_content("{{ 'x'.join([c, c]) }}{{ c.center(6) }}{{ c * 2 }}"), "(Ab c)x(Ab c) (Ab c) (Ab c)(Ab c)");
  EXPECT_EQ(with_content("{{ (c + '\\nz')|indent(1, true) }}"), "( Ab c)\n z");
  EXPECT_EQ(with_content("{{ ('<' + c)|e }}{{ c|default('x') }}{{ none|default(c, true) }}"), "&lt;(Ab c)(Ab c)(Ab c)");
  EXPECT_EQ(with_content("{% for x in c %}{{ x }}{% endfor %}{{ c|first }}{{ c|list|last }}"), "(A)(b)( )(c)(A)(c)");
  EXPECT_EQ(with_content("{{ c.partition(' ')[0] }}{{ c.partition(' ')[1] }}{{ c.removeprefix('A') }}"), "(Ab) (b c)");
}

TEST(ChatOrigin, PrintedDataIsContentAsAWhole) {
  EXPECT_EQ(with_content("{{ c|tojson }}:{{ messages|tojson }}"),
            R"(("Ab c"):([{"role": "user", "content": "Ab c"}]))");
  EXPECT_EQ(with_content("{{ {'a': c}|tojson }}{{ {'a': 'b'}|tojson }}{{ [c] }}{{ ['x'] }}"),
            R"(({"a": "Ab c"}){"a": "b"}(['Ab c'])['x'])");
  EXPECT_EQ(render("{{ messages[0].n }}{{ messages[0].n + 1 }}{{ messages[0].o }}{{ messages[0].o|tojson }}{{ 1 }}",
                   R"([{"role": "u", "n": 2, "o": {}}])"),
            "(2)(3)({})({})1");
  EXPECT_EQ(with_content("{{ messages|length }}{{ c|length }}{{ loop is defined }}"), "14False");
}

TEST(ChatOrigin, AnEmptyMessagePartsTheTextAroundIt) {
  const JsonDocument document = json(R"([{"role": "user", "content": ""}])");
  ChatRequest request;
  request.messages_json = document.root();
  const ChatTemplate parsed = ChatTemplate::parse("a{{ 'b' + messages[0].content + 'c' }}d{{ '' }}e", "t").value();
  const RenderedChat chat = parsed.render(request).value();
  ASSERT_EQ(chat.segments.size(), 2u);
  EXPECT_EQ(chat.segments[0].text, "ab");
  EXPECT_EQ(chat.segments[1].text, "cde");
}

TEST(ChatTemplate, MessagesMadeByTheProgram) {
  ChatRequest request;
  request.messages.push_back({.role = "user", .content = "hi"});
  const JsonDocument calls = json(R"([{"function": {"name": "f"}}])");
  ChatMessage call{.role = "assistant", .reasoning_content = "hm", .tool_calls = calls.root()};
  request.messages.push_back(call);
  const JsonDocument variables = json(R"({"flag": true, "word": "<x>"})");
  request.variables = variables.root();
  const ChatTemplate parsed =
      ChatTemplate::parse(
          "{% for m in messages %}{{ m }}{% endfor %}{{ messages[1].tool_calls[0].function.name }}"
          "{{ messages[1].thinking }}{{ flag }}{{ word }}{{ tools }}{{ add_generation_prompt }}",
          "t")
          .value();
  const RenderedChat chat = parsed.render(request).value();
  EXPECT_EQ(chat.text(),
            "{'role': 'user', 'content': 'hi'}{'thinking': 'hm', 'role': 'assistant', 'content': None, "
            "'reasoning_content': 'hm', 'tool_calls': [{'function': {'name': 'f'}}]}fhmTrue<x>NoneTrue");
  EXPECT_EQ(chat.segments[5].text, "<x>");
  EXPECT_EQ(chat.segments[5].origin, Origin::kContent);  // a request's variable is not the template's text
}

TEST(ChatTemplate, BytesThatAreNoUtf8AreReplaced) {
  ChatRequest request;
  request.messages.push_back({.role = "user", .content = "a\xff\xe5\x86"});
  const ChatTemplate parsed = ChatTemplate::parse("{{ messages[0].content[1:] }}", "t").value();
  EXPECT_EQ(parsed.render(request).value().text(), "\xef\xbf\xbd\xef\xbf\xbd");
}

TEST(ChatTemplate, ErrorsSayWhereAndWhat) {
  EXPECT_EQ(render("a\n{{ raise_exception('roles must ' ~ 'alternate') }}"),
            "invalid argument: t:2:19: the template refuses: roles must alternate");
  EXPECT_EQ(render("{% if true %}\n  {{ x.y }}\n{% endif %}"), "invalid argument: t:2:7: 'x' is undefined");
  EXPECT_EQ(render("{{ messages[0].tool.name }}"), "invalid argument: t:1:20: 'dict object' has no attribute 'tool'");
  EXPECT_TRUE(render("ab {% frobnicate x %}").starts_with("unsupported: t:1:7: the tag 'frobnicate' is not supported"));
  EXPECT_TRUE(render("{{ 1|frobnicate }}").starts_with("unsupported: t:1:6: the filter 'frobnicate' is not supported"));
  EXPECT_TRUE(render("{{ 1 is frobnicated }}").starts_with("unsupported: t:1:9: the test 'frobnicated' is not"));
  EXPECT_EQ(render("{{ 'x'.swapcase() }}"), "unsupported: t:1:16: the method 'swapcase' of str is not supported");
  EXPECT_EQ(render("{{ frobnicate(1) }}"), "invalid argument: t:1:14: 'frobnicate' is undefined");
  EXPECT_EQ(render("{{ messages.append(1) }}"),
            "invalid argument: t:1:19: 'append' would change a list: templates may not");
  EXPECT_EQ(render("é{{ 'a }}"), "corrupt: t:1:5: the string has no end, expected '");
  EXPECT_EQ(render("{{ (1, ] }}"), "corrupt: t:1:8: unexpected ']', expected ')'");
  EXPECT_EQ(render("{% if true %}x"),
            "corrupt: t:1:15: unexpected the end of the template, expected '{% elif %}' or "
            "'{% else %}' or '{% endif %}'");
  EXPECT_EQ(render("x", R"([1])"), "invalid argument: t: message 0 is 1, expected an object with role and content");
  EXPECT_EQ(render("x", R"({"a": 1})"), R"(invalid argument: t: the messages are {"a":1}, expected an array)");
  EXPECT_EQ(render("\xff"), "corrupt: t: the template is not valid UTF-8");
  EXPECT_EQ(render("{% macro f(a=g()) %}{% endmacro %}{{ f() }}"), "invalid argument: t:1:15: 'g' is undefined");
  EXPECT_EQ(render("{% macro f() %}{% endmacro %}{{ f(1) }}"),
            "invalid argument: t:1:34: the macro 'f' takes at most 0 arguments, not 1");
  EXPECT_TRUE(render("{% macro f() %}{{ g() }}{% endmacro %}{{ f() }}").starts_with("invalid argument: t:1:20: 'g'"));
}

bool is_exhausted(const std::string& result) {
  return result.starts_with("exhausted: ");
}

TEST(ChatLimits, HostileTemplatesMeetAStatedLimit) {
  const auto hostile = [](std::string_view source) {
    const std::string result = render(source);
    EXPECT_TRUE(is_exhausted(result)) << source.substr(0, 80) << "\n" << result.substr(0, 200);
  };
  const std::string loop = "{% for i in range(100000) %}";
  hostile(loop + loop + loop + "{% endfor %}{% endfor %}{% endfor %}");
  hostile("{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}" + loop + "{% set ns.s = ns.s + ns.s %}{% endfor %}");
  hostile("{% set ns = namespace(s='x') %}" + loop + "{% set ns.s = ns.s|replace('x', 'xx') %}{% endfor %}");
  hostile("{% set ns = namespace(s=[1]) %}" + loop + "{% set ns.s = ns.s + ns.s %}{% endfor %}");
  hostile("{% set ns = namespace(s=[1]) %}" + loop + "{% set ns.s = [ns.s] %}{% endfor %}");
  hostile(
      "{% set ns = namespace(s=[1]) %}{% for i in range(120) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}");
  hostile(
      "{% set ns = namespace(s=[1]) %}{% for i in range(120) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}"
      "{% set m = namespace(s=[1]) %}{% for i in range(120) %}{% set m.s = [m.s, m.s] %}{% endfor %}"
      "{{ ns.s == m.s }}");
  hostile("{% set ns = namespace(s=[1]) %}" + loop + "{% set ns.s = namespace(s=ns.s) %}" + loop +
          "{% endfor %}{% endfor %}");
  hostile(loop + loop + "0123456789012345678901234567890123456789{% endfor %}{% endfor %}");
  hostile("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
  hostile("{% macro f(g) %}{{ g(g) }}{% endmacro %}{{ f(f) }}");
  hostile("{{ 'x' * 1000000000000 }}");
  hostile("{{ [1] * 9223372036854775807 }}");
  hostile("{{ 'x'.center(1000000000000) }}");
  hostile("{{ 'x'|indent(1000000000000, true) }}");
  hostile("{{ 'x'.zfill(1000000000000) }}");
  hostile("{{ '%1000000000000d' % 1 }}");
  hostile("{{ range(100001) }}");
  hostile(loop + "{% macro m() %}{% endmacro %}" + loop + "{% macro n() %}{% endmacro %}{% endfor %}{% endfor %}");
  hostile("{{ " + std::string(100000, '(') + "1" + std::string(100000, ')') + " }}");
  hostile("{{ " + std::string(100000, '[') + std::string(100000, ']') + " }}");
  hostile("{{ " + std::string(100000, '-') + "1 }}");
  std::string nots, sums = "{{ 1", filters = "{{ 1", ifs, elses = "{{ 1";
  for (int i = 0; i < 20000; ++i) nots += "not ";
  for (int i = 0; i < 20000; ++i) sums += "+1";
  for (int i = 0; i < 20000; ++i) filters += "|abs";
  for (int i = 0; i < 20000; ++i) ifs += "{% if 1 %}";
  for (int i = 0; i < 20000; ++i) elses += " if 1 else 1";
  hostile("{{ " + nots + "1 }}");
  hostile(sums + " }}");
  hostile(filters + " }}");
  hostile(elses + " }}");
  hostile(ifs);
  hostile(std::string(600 << 10, 'x'));
  std::string list = "{{ [";
  for (int i = 0; i < 200000; ++i) list += "1,";
  hostile(list + "] }}");
}

TEST(ChatLimits, CallersMayLowerThem) {
  JinjaLimits limits;
  limits.output_bytes = 0;  // the request's own size is added
  EXPECT_TRUE(is_exhausted(render(std::string(100000, 'x'), "[]", limits)));
  limits = {};
  limits.steps = 10;
  EXPECT_TRUE(is_exhausted(render("{% for i in range(100000) %}{% endfor %}", "[]", limits)));
}

TEST(ChatLimits, LongConversationsAreFine) {
  std::string messages = "[";
  for (int i = 0; i < 2000; ++i) {
    messages += R"({"role": "user", "content": ")" + std::string(1000, 'x') + R"("},)";
  }
  messages.back() = ']';
  const std::string out = render(
      "{% set ns = namespace(s='') %}{% for m in messages %}{{ m.content }}{% if loop.index < 200 %}"
      "{% set ns.s = ns.s + m.content %}{% endif %}{% endfor %}{{ ns.s|length }}",
      messages);
  EXPECT_EQ(out.size(), 2000u * 1002 + 6);
}

TEST(ChatTemplate, ManyThreadsRenderOneTemplate) {
  const ChatTemplate parsed =
      ChatTemplate::parse(
          "{% macro m(x) %}[{{ x|upper }}]{% endmacro %}{% for m_ in messages %}{{ m(m_.content) + 'é' "
          "}}{{ {'a': [1, 'lit']}['a'][1] }}{% endfor %}",
          "t")
          .value();
  const JsonDocument document = json(R"([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])");
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      ChatRequest request;
      request.messages_json = document.root();
      for (int i = 0; i < 200; ++i) right += parsed.render(request).value().text() == "[A]élit[B]élit" ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 800);
}

TEST(ChatTemplateFuzz, OldFindingsStayFixed) {
  const std::string folder = WESTLAKE_SOURCE_DIR "/tests/golden/fuzz/chat_template";
  int inputs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    SCOPED_TRACE(entry.path().string());
    fuzz_chat_template(read_file(entry.path().string()).value());
    ++inputs;
  }
  EXPECT_GT(inputs, 0);
}

}  // namespace
}  // namespace westlake
