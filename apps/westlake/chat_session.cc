#include "westlake/chat_session.h"

#include <charconv>

#include "base/file.h"
#include "base/json.h"

namespace westlake {
namespace {

constexpr uint64_t kMostChatBytes = uint64_t{256} << 20;

constexpr std::string_view kHelp =
    "/new              begins a new conversation\n"
    "/save FILE        writes the conversation and the settings as JSON\n"
    "/load FILE        goes on with a saved conversation\n"
    "/set              shows the settings\n"
    "/set KEY VALUE    changes one: temp, top_p, top_k, min_p, repeat_penalty, repeat_window,\n"
    "                  presence_penalty, frequency_penalty, seed, max_tokens, system\n"
    "/help             this list\n"
    "/quit             leaves, as Ctrl-D does\n"
    "Ctrl-C stops an answer; at an empty line it leaves. A line that ends in \\ goes on in the next.";

std::string_view trim(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

// "word rest" -> {word, rest}
std::pair<std::string_view, std::string_view> cut_word(std::string_view text) {
  text = trim(text);
  const size_t end = text.find_first_of(" \t");
  if (end == std::string_view::npos) return {text, {}};
  return {text.substr(0, end), trim(text.substr(end))};
}

// "~/x" -> "$HOME/x", as a shell would.
std::string expand_home(std::string_view path) {
  const char* home = std::getenv("HOME");
  if (!path.starts_with("~/") || home == nullptr) return std::string(path);
  return std::string(home) + std::string(path.substr(1));
}

Status read_message(JsonElement element, std::string_view place, ChatMessage* out) {
  JsonObject object;
  std::string_view role, content;
  if (element.get(object) != simdjson::SUCCESS || object.at_key("role").get(role) != simdjson::SUCCESS ||
      object.at_key("content").get(content) != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: a message is {}, expected an object with strings 'role' and 'content'",
                      place, json_preview(element));
  }
  out->role = role;
  out->content = content;
  return {};
}

// A setting's value as /set takes it.
Result<std::string> setting_text(JsonElement value, std::string_view key, std::string_view place) {
  std::string_view text;
  if (value.get(text) == simdjson::SUCCESS) return std::string(text);
  if (value.is_number()) return std::string(simdjson::minify(value));
  return make_error(Code::kCorrupt, "{}: setting '{}' is {}, expected a number or a string", place, key,
                    json_preview(value));
}

}  // namespace

ChatSession::ChatSession(Session session, const TextBundle& bundle, std::vector<int32_t> stop_ids,
                         ChatSettings settings)
    : session_(std::move(session)),
      conversation_(bundle),
      stop_ids_(std::move(stop_ids)),
      settings_(std::move(settings)) {
  conversation_.set_system(settings_.system);
}

Result<Reply> ChatSession::say(std::string_view text, const std::atomic<bool>* cancel,
                               FunctionRef<void(bool starts_thinking)> on_start, TokenCallback callback) {
  GenerateOptions options;
  TRY_ASSIGN(options.sampler, sampler_options(settings_.sampling));
  // A fixed seed fixes the conversation, but not so that every answer draws the same numbers.
  options.sampler.seed += conversation_.messages().size();
  options.max_tokens = settings_.max_tokens;
  options.stop_ids = stop_ids_;
  options.cancel = cancel;
  Result<Reply> reply = conversation_.say(session_, text, options, on_start, callback);
  if (reply.ok() || reply.error().code != Code::kExhausted) return reply;
  return make_error(Code::kExhausted,
                    "{}. Nothing was added to the conversation. Hint: say it shorter, /new, or start "
                    "with a larger --ctx",
                    reply.error().message);
}

Result<std::string> ChatSession::command(std::string_view line) {
  const auto [name, arguments] = cut_word(line);
  if (name == "/help") return std::string(kHelp);
  if (name == "/quit" || name == "/exit") {
    quit_ = true;
    return std::string();
  }
  if (name == "/new") {
    conversation_.clear();
    session_.truncate(0);
    return std::string("A new conversation.");
  }
  if (name == "/set") return set(arguments);
  if (name == "/save" || name == "/load") {
    if (arguments.empty()) return make_error(Code::kInvalidArgument, "{} needs a file: {} FILE", name, name);
    return name == "/save" ? save(expand_home(arguments)) : load(expand_home(arguments));
  }
  return make_error(Code::kNotFound, "no command is called {}. Hint: /help lists them; a space in front makes it text",
                    name);
}

Status ChatSession::set_one(std::string_view key, std::string_view value) {
  if (key == "system") {
    settings_.system = value;
    conversation_.set_system(settings_.system);
    return {};
  }
  if (key == "max_tokens") {
    int64_t n = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), n);
    if (error != std::errc() || end != value.data() + value.size() || n < -1 || n == 0) {
      return make_error(Code::kInvalidArgument, "max_tokens is '{}', expected a number from 1 on, or -1 for no limit",
                        value);
    }
    settings_.max_tokens = n;
    return {};
  }
  return set_sampling(&settings_.sampling, key, value);
}

namespace {

std::string setting_line(const NamedSetting& s) {
  return fmt::format("{} {}{}", s.name, s.value, s.origin.empty() ? "" : fmt::format("  ({})", s.origin));
}

}  // namespace

Result<std::string> ChatSession::set(std::string_view arguments) {
  const auto [key, value] = cut_word(arguments);
  if (key.empty()) {
    std::string all;
    for (const NamedSetting& s : settings()) all += (all.empty() ? "" : "\n") + setting_line(s);
    return all;
  }
  if (value.empty() && key != "system") {
    for (const NamedSetting& s : settings()) {
      if (s.name == key) return setting_line(s);
    }
  }
  const Status done = set_one(key, value);
  if (done.ok()) return fmt::format("{} {}", key, value.empty() ? "(none)" : value);
  if (done.error().code != Code::kNotFound) return done.error();
  return make_error(Code::kNotFound, "{}. Hint: /set alone lists them", done.error().message);
}

std::vector<NamedSetting> ChatSession::settings() const {
  std::vector<NamedSetting> all = sampling_settings(settings_.sampling);
  all.push_back({"max_tokens", fmt::format("{}", settings_.max_tokens), ""});
  all.push_back({"system", settings_.system, ""});
  return all;
}

Result<std::string> ChatSession::save(const std::string& path) const {
  JsonWriter w;
  w.begin_object().key("messages").begin_array();
  auto put = [&](std::string_view role, std::string_view content) {
    w.begin_object().key("role").value(role).key("content").value(content).end_object();
  };
  if (!conversation_.system().empty()) put("system", conversation_.system());
  for (const ChatMessage& m : conversation_.messages()) put(m.role, *m.content);
  w.end_array().key("settings").begin_object();
  for (const NamedSetting& s : settings()) {
    if (s.name == "system") continue;
    double number = 0;
    const char* end = s.value.data() + s.value.size();
    w.key(s.name);
    if (std::from_chars(s.value.data(), end, number).ptr == end) {
      w.raw(s.value);
    } else {
      w.value(s.value);
    }
  }
  w.end_object().end_object();
  TRY(write_file(path, w.text() + "\n"));
  return fmt::format("Saved {} messages to {}.", conversation_.messages().size(), path);
}

Result<std::string> ChatSession::load(const std::string& path) {
  TRY_ASSIGN(const std::string text, read_file(path, kMostChatBytes));
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(text, path));
  JsonArray list;
  if (document.root()["messages"].get(list) != simdjson::SUCCESS)
    return make_error(Code::kCorrupt, "{}: no list 'messages'. Hint: a file that /save wrote", path);
  std::string system;
  std::vector<ChatMessage> messages;
  for (JsonElement element : list) {
    ChatMessage message;
    TRY(read_message(element, path, &message));
    if (messages.empty() && system.empty() && message.role == "system") {
      system = *message.content;
    } else {
      messages.push_back(std::move(message));
    }
  }
  // Settings are tried before anything changes, so that a bad file changes nothing.
  const ChatSettings before = settings_;
  JsonObject saved;
  if (document.root()["settings"].get(saved) == simdjson::SUCCESS) {
    for (const auto field : saved) {
      Result<std::string> value = setting_text(field.value, field.key, path);
      const Status done = value.ok() ? set_one(field.key, *value) : Status(value.error());
      if (!done.ok()) {
        settings_ = before;
        conversation_.set_system(before.system);
        return done.error().at(path);
      }
    }
  }
  const size_t count = messages.size();
  if (const Status done = conversation_.assign(system, std::move(messages)); !done.ok()) {
    settings_ = before;
    conversation_.set_system(before.system);
    return done.error().at(path);
  }
  settings_.system = system;
  return fmt::format("Loaded {} messages from {}.", count, path);
}

}  // namespace westlake
