// What a chat in the terminal does, without the terminal: the conversation, its settings, its commands and its files.
#pragma once

#include <atomic>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "infer/chat.h"
#include "infer/session.h"
#include "westlake/sampling_flags.h"

namespace westlake {

struct ChatSettings {
  SamplingFlags sampling;
  int64_t max_tokens = -1;  // of an answer; -1: to the end of the context
  std::string system;
};

class ChatSession {
 public:
  // Requires: the bundle has a chat template and outlives this.
  ChatSession(Session session, const TextBundle& bundle, std::vector<int32_t> stop_ids, ChatSettings settings);

  // One turn. Errors: as Conversation::say; a prompt beyond the context says what to do.
  Result<Reply> say(std::string_view text, const std::atomic<bool>* cancel,
                    FunctionRef<void(bool starts_thinking)> on_start, TokenCallback callback);

  // Runs a line that begins with '/'; returns what to tell the user. Errors: an unknown command, with a hint.
  Result<std::string> command(std::string_view line);
  static bool is_command(std::string_view line) { return line.starts_with('/'); }
  bool wants_to_quit() const { return quit_; }

  const Session& session() const { return session_; }

 private:
  Result<std::string> save(const std::string& path) const;
  Result<std::string> load(const std::string& path);
  Result<std::string> set(std::string_view arguments);
  Status set_one(std::string_view key, std::string_view value);
  std::vector<NamedSetting> settings() const;

  Session session_;
  Conversation conversation_;
  std::vector<int32_t> stop_ids_;
  ChatSettings settings_;
  bool quit_ = false;
};

}  // namespace westlake
