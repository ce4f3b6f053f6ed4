#include "westlake/chat_terminal.h"

#include <histedit.h>
#include <langinfo.h>
#include <unistd.h>

#include <clocale>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/check.h"

namespace westlake {

std::string terminal_text(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
    if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) {
      out += "\uFFFD";
    } else if (c == 0xc2 && next >= 0x80 && next < 0xa0) {  // U+0080 to U+009F: the 8-bit control codes
      out += "\uFFFD";
      ++i;
    } else {
      out += static_cast<char>(c);
    }
  }
  return out;
}

namespace {

// Between these a terminal that was asked to puts what is pasted (xterm's bracketed paste).
constexpr const char* kAskForBrackets = "\033[?2004h";
constexpr const char* kNoBrackets = "\033[?2004l";
constexpr const char* kPasteBegin = "\\e[200~";  // as the editor's bindings are written
constexpr std::wstring_view kPasteEnd = L"\033[201~";

// Newlines of a paste come as Enter would; those at its end are no part of it.
std::wstring tidy_paste(std::wstring_view pasted) {
  std::wstring text;
  for (const wchar_t c : pasted) {
    if (c != L'\0') text += c == L'\r' ? L'\n' : c;
  }
  while (text.ends_with(L'\n')) text.pop_back();
  return text;
}

}  // namespace

struct LineReader::State {
  FILE* out = nullptr;
  bool brackets = false;  // the terminal is one that can mark a paste
  EditLine* editor = nullptr;
  History* history = nullptr;
  std::string history_path;
  bool interrupted = false;
  bool had_text = false;
  bool continued = false;

  static State* of(EditLine* editor) {
    void* data = nullptr;
    el_get(editor, EL_CLIENTDATA, &data);
    return static_cast<State*>(data);
  }
  static char* prompt(EditLine* editor) {
    static char first[] = "> ", more[] = "... ";
    return of(editor)->continued ? more : first;
  }
  // Ctrl-C, which in the editor is a key like others.
  static unsigned char interrupt(EditLine* editor, int) {
    State* state = of(editor);
    const LineInfo* line = el_line(editor);
    state->interrupted = true;
    state->had_text = line->lastchar > line->buffer;
    return CC_EOF;
  }
  // The editor's own handler of the signal puts the terminal in order before and after.
  static unsigned char suspend(EditLine* editor, int) {
    of(editor)->mark_pastes(false);
    ::raise(SIGTSTP);
    of(editor)->mark_pastes(true);
    return CC_REFRESH;
  }
  // Everything up to the end of a paste goes into the line.
  static unsigned char paste(EditLine* editor, int) {
    std::wstring pasted;
    wchar_t c = 0;
    while (!pasted.ends_with(kPasteEnd) && el_wgetc(editor, &c) == 1) pasted += c;
    if (pasted.ends_with(kPasteEnd)) pasted.resize(pasted.size() - kPasteEnd.size());
    const std::wstring text = tidy_paste(pasted);
    if (!text.empty() && el_winsertstr(editor, text.c_str()) != 0) return CC_ERROR;
    return CC_REFRESH;
  }
  void mark_pastes(bool on) const {
    if (!brackets) return;
    std::fputs(on ? kAskForBrackets : kNoBrackets, out);
    std::fflush(out);
  }
  void remember(const std::string& line);
};

namespace {

constexpr int kHistoryLines = 1000;

// The editor needs to know where characters end. Where the environment has no UTF-8 locale, C.UTF-8 is one.
void use_utf8() {
  std::setlocale(LC_CTYPE, "");
  if (std::strcmp(nl_langinfo(CODESET), "UTF-8") != 0) std::setlocale(LC_CTYPE, "C.UTF-8");
}

}  // namespace

LineReader::LineReader(FILE* out, std::string history_path) : state_(std::make_unique<State>()) {
  use_utf8();
  State& s = *state_;
  s.history_path = std::move(history_path);
  const char* terminal = std::getenv("TERM");
  s.out = out;
  s.brackets = isatty(fileno(out)) == 1 && terminal != nullptr && std::strcmp(terminal, "dumb") != 0;
  s.editor = el_init("westlake", stdin, out, stderr);
  CHECK(s.editor != nullptr, "no editor for lines");
  el_set(s.editor, EL_CLIENTDATA, state_.get());
  el_set(s.editor, EL_PROMPT, &State::prompt);
  el_set(s.editor, EL_SIGNAL, 1);
  el_set(s.editor, EL_EDITOR, "emacs");
  el_set(s.editor, EL_ADDFN, "westlake-interrupt", "drops the line, or leaves", &State::interrupt);
  el_set(s.editor, EL_BIND, "^C", "westlake-interrupt", nullptr);
  el_set(s.editor, EL_ADDFN, "westlake-suspend", "gives the terminal back to the shell", &State::suspend);
  el_set(s.editor, EL_BIND, "^Z", "westlake-suspend", nullptr);
  el_set(s.editor, EL_ADDFN, "westlake-paste", "takes pasted text as it is", &State::paste);
  el_set(s.editor, EL_BIND, kPasteBegin, "westlake-paste", nullptr);
  el_set(s.editor, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  // While a line is edited no key is a signal: Ctrl-C and Ctrl-Z are bound like others.
  el_set(s.editor, EL_SETTY, "-d", "-isig", nullptr);
  s.history = history_init();
  HistEvent event;
  history(s.history, &event, H_SETSIZE, kHistoryLines);
  history(s.history, &event, H_SETUNIQUE, 1);
  if (!s.history_path.empty()) history(s.history, &event, H_LOAD, s.history_path.c_str());
  el_set(s.editor, EL_HIST, history, s.history);
}

LineReader::~LineReader() {
  el_end(state_->editor);
  history_end(state_->history);
}

// A history that cannot be kept is no reason to disturb a conversation.
void LineReader::State::remember(const std::string& line) {
  HistEvent event;
  ::history(history, &event, H_ENTER, line.c_str());
  if (history_path.empty()) return;
  const std::string temporary = history_path + ".tmp";
  std::error_code ignored;
  if (::history(history, &event, H_SAVE, temporary.c_str()) >= 0)
    std::filesystem::rename(temporary, history_path, ignored);
}

LineReader::Event LineReader::read(std::string* line) {
  state_->mark_pastes(true);
  const Event event = read_line(line);
  state_->mark_pastes(false);
  return event;
}

LineReader::Event LineReader::read_line(std::string* line) {
  State& s = *state_;
  line->clear();
  s.continued = false;
  for (;;) {
    s.interrupted = false;
    int count = 0;
    const char* text = el_gets(s.editor, &count);
    if (text == nullptr || count <= 0) {
      el_reset(s.editor);
      if (!s.interrupted) return Event::kEnd;
      return s.had_text || s.continued ? Event::kDropped : Event::kInterrupt;
    }
    std::string_view piece(text, static_cast<size_t>(count));
    while (piece.ends_with('\n') || piece.ends_with('\r')) piece.remove_suffix(1);
    s.continued = piece.ends_with('\\');
    if (s.continued) piece.remove_suffix(1);
    *line += piece;
    if (!s.continued) break;
    *line += '\n';
  }
  if (line->find_first_not_of(" \t\n") != std::string::npos) s.remember(*line);
  return Event::kLine;
}

void AnswerView::begin(bool starts_thinking) {
  splitter_ = ThinkSplitter(starts_thinking);
}

void AnswerView::add(std::string_view piece) {
  if (options_.colours || options_.hide_thinking) {
    splitter_.push(piece, [this](std::string_view text, bool thinking) { show(text, thinking); });
  } else {
    put(piece);
  }
  written_ = written_ && std::fflush(out_) == 0;
}

void AnswerView::show(std::string_view text, bool thinking) {
  if (thinking && options_.hide_thinking) {
    after_thinking_ = true;
    return;
  }
  if (options_.colours && thinking != dim_) {
    std::fputs(thinking ? kDim : kPlain, out_);
    after_thinking_ = !thinking;
    if (!thinking && last_ != '\n') put("\n");
    dim_ = thinking;
  }
  // Between thinking and answer models put empty lines.
  if (after_thinking_ && !thinking) {
    const size_t first = text.find_first_not_of("\r\n");
    if (first == std::string_view::npos) return;
    text.remove_prefix(first);
    after_thinking_ = false;
  }
  put(text);
}

void AnswerView::put(std::string_view text) {
  if (text.empty()) return;
  const std::string safe = options_.terminal ? terminal_text(text) : std::string(text);
  written_ = written_ && std::fwrite(safe.data(), 1, safe.size(), out_) == safe.size();
  last_ = safe.back();
}

void AnswerView::end() {
  splitter_.flush([this](std::string_view text, bool thinking) { show(text, thinking); });
  if (dim_) std::fputs(kPlain, out_);
  if (last_ != '\n') put("\n");
  dim_ = after_thinking_ = false;
  last_ = '\n';
  written_ = std::fflush(out_) == 0 && written_;
}

}  // namespace westlake
