// The terminal side of a chat: reading lines with editing and history, showing answers as they come.
// Source: libedit, histedit.h.
#pragma once

#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

#include "infer/thinking.h"

namespace westlake {

// Text of a model or a file, safe for a terminal: control characters other than newline and tab become U+FFFD, so that
// nothing in it can move the cursor or change the terminal.
std::string terminal_text(std::string_view text);

// Lines from a terminal. A line that ends in a backslash goes on in the next. Pasted text is one piece of the line,
// newlines and all: nothing is sent before Enter is pressed.
class LineReader {
 public:
  // `out` gets prompt and echo. Owns: the editor; history is read from and kept in `history_path` (empty: nowhere).
  LineReader(FILE* out, std::string history_path);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  enum class Event {
    kLine,
    kDropped,    // Ctrl-C with something typed: the line is gone
    kInterrupt,  // Ctrl-C at an empty line
    kEnd,        // Ctrl-D, or the terminal is gone
  };
  Event read(std::string* line);

 private:
  struct State;
  Event read_line(std::string* line);
  std::unique_ptr<State> state_;
};

// Shows an answer as it comes. With colours, thinking is dimmed and its tags are left out; without, all is shown as it
// is.
class AnswerView {
 public:
  struct Options {
    bool terminal = false;       // what is shown goes to a terminal
    bool colours = false;        // thinking is dimmed
    bool hide_thinking = false;  // only the answer is shown
  };
  AnswerView(FILE* out, const Options& options) : out_(out), options_(options) {}

  void begin(bool starts_thinking);
  void add(std::string_view piece);
  // Ends colour and line.
  void end();
  // False once the output has refused something.
  bool written() const { return written_; }

  static constexpr const char* kDim = "\033[2m";
  static constexpr const char* kPlain = "\033[0m";

 private:
  void show(std::string_view text, bool thinking);
  void put(std::string_view text);
  FILE* out_;
  Options options_;
  ThinkSplitter splitter_;
  bool dim_ = false, after_thinking_ = false, written_ = true;
  char last_ = '\n';
};

}  // namespace westlake
