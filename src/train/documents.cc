// Files, lines, documents, parts. See documents.h.
#include "train/documents.h"

#include <algorithm>
#include <deque>
#include <filesystem>

#include "base/file.h"
#include "base/json.h"
#include "text/char_table.h"

namespace westlake {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSeparator = "<|endoftext|>";
constexpr size_t kPartBytes = size_t{256} << 10;  // a part ends at the first good place from here on
constexpr size_t kLongestPart = 16 * kPartBytes;  // and at any character from here on
constexpr std::string_view kBlank = " \t\r\n\v\f";

enum class Kind { kText, kJsonLines, kByFirstByte };

Kind kind_of(std::string_view name) {
  if (name.ends_with(".zst")) name.remove_suffix(4);
  if (name.ends_with(".gz")) name.remove_suffix(3);
  if (name.ends_with(".txt")) return Kind::kText;
  if (name.ends_with(".jsonl")) return Kind::kJsonLines;
  return Kind::kByFirstByte;
}

bool is_blank(std::string_view line) {
  return line.find_first_not_of(kBlank) == std::string_view::npos;
}

// The first place from `from` on where a part may end; npos when there is none. Requires: valid UTF-8, from > 0.
size_t find_cut(std::string_view text, size_t from) {
  const CharTable& table = char_table();
  const auto is_letter = [&](size_t at) { return CharTable::is_ascii_letter(text[at]); };
  for (size_t at = from; at + 1 < text.size(); ++at) {
    if (text[at] == ' ' && is_letter(at - 1) && is_letter(at + 1)) return at;
    if (text[at] != '\n') continue;
    const uint32_t before = table.at(utf8_before(text.data(), text.data() + at)).bits;
    if (!(before & kSpace) && (table.at(text.data() + at + 1).bits & kL)) return at + 1;
  }
  return std::string_view::npos;
}

// The position of the first byte that is not UTF-8's.
size_t invalid_at(std::string_view text) {
  size_t at = 0, size = 0;
  while (at < text.size() && utf8_probe(text.substr(at), &size) == Utf8State::kWhole) at += size;
  return at;
}

Status list_folder(const std::string& folder, DataKind wanted, std::vector<std::string>* files) {
  std::vector<std::string> found;
  std::error_code error;
  for (fs::recursive_directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (name.starts_with(".")) {
      if (at->is_directory(error)) at.disable_recursion_pending();
      continue;
    }
    const Kind kind = kind_of(name);
    const bool fits = kind == Kind::kJsonLines || (kind == Kind::kText && wanted == DataKind::kTexts);
    if (fits && is_file(at->path().string())) found.push_back(at->path().string());
  }
  if (error) return make_error(Code::kIo, "{}: cannot list the folder: {}", folder, error.message());
  if (found.empty()) {
    return make_error(
        Code::kNotFound,
        "{}: the folder has no {} (also .zst or .gz). Hint: a file of another name is read when it is named "
        "itself",
        folder, wanted == DataKind::kTexts ? ".txt and no .jsonl" : ".jsonl");
  }
  std::sort(found.begin(), found.end());
  files->insert(files->end(), found.begin(), found.end());
  return {};
}

}  // namespace

Result<std::vector<std::string>> list_data_files(std::span<const std::string> arguments, DataKind kind) {
  if (arguments.empty())
    return make_error(Code::kInvalidArgument, "no data: name files, folders or - for standard input");
  std::vector<std::string> files;
  for (const std::string& argument : arguments) {
    if (argument == kStandardInput) {
      if (std::count(arguments.begin(), arguments.end(), argument) > 1)
        return make_error(Code::kInvalidArgument, "data: standard input (-) is named twice, it can be read once");
      files.push_back(argument);
    } else if (is_directory(argument)) {
      TRY(list_folder(argument, kind, &files));
    } else {
      std::error_code error;
      if (!fs::exists(argument, error)) return make_error(Code::kNotFound, "{}: no such file or folder", argument);
      files.push_back(argument);
    }
  }
  return files;
}

struct DocumentReader::State {
  explicit State(std::vector<std::string> files) : lines(std::move(files)) {}

  DataLines lines;
  bool in_file = false;     // a line of the file has been read
  Kind kind = Kind::kText;  // of the file

  std::string line;
  std::string text;            // of a document, not handed out yet
  size_t searched = 0;         // bytes of it that have no place to cut
  bool begun = false;          // a part of it has been
  std::deque<TextPart> ready;  // parts to hand out

  Error bad(std::string_view what) const { return make_error(Code::kCorrupt, "{}: {}", lines.place(), what); }

  // A blank line is of no document's text as long as there is none.
  Status add_text_line() {
    if (line == kSeparator ||
        (line.size() == kSeparator.size() + 1 && line.starts_with(kSeparator) && line.back() == '\r'))
      return end_document();
    if (text.empty() && !begun && is_blank(line)) return {};
    if (!simdjson::validate_utf8(line)) {
      const size_t at = invalid_at(line);
      return bad(
          fmt::format("byte {} of the line is 0x{:02x}, which is not valid UTF-8. Hint: another encoding? "
                      "Convert the file (iconv -t utf-8)",
                      at + 1, static_cast<unsigned char>(line[at])));
    }
    text += line;
    text += '\n';
    give_long_text();
    return {};
  }

  void give_part(std::string part, bool ends) {
    ready.push_back({std::move(part), !begun, ends});
    begun = !ends;
  }

  // Gives out parts as long as a long text has places to cut; the rest stays.
  void give_long_text() {
    size_t given = 0;
    while (text.size() - given > kPartBytes) {
      const std::string_view left = std::string_view(text).substr(given);
      size_t cut = find_cut(left, std::max(searched, kPartBytes));
      searched = left.size() - 1;  // the last byte has not been seen with what follows it
      if (cut == std::string_view::npos && left.size() > kLongestPart) {
        cut = kLongestPart;
        while ((static_cast<unsigned char>(left[cut]) & 0xc0) == 0x80) --cut;
      }
      if (cut == std::string_view::npos) break;
      give_part(std::string(left.substr(0, cut)), false);
      given += cut;
      searched = 0;
    }
    text.erase(0, given);
  }

  Status end_document() {
    const size_t last = text.find_last_not_of("\r\n");
    text.resize(last == std::string::npos ? 0 : last + 1);
    if (begun || !is_blank(text)) give_part(std::move(text), true);
    text.clear();
    searched = 0;
    return {};
  }

  Status add_json_line() {
    if (is_blank(line)) return {};
    TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(line, lines.place()));
    JsonObject object;
    std::string_view whole;
    if (document.root().get(object) != simdjson::SUCCESS || object.at_key("text").get(whole) != simdjson::SUCCESS) {
      const bool chat = document.root().get(object) == simdjson::SUCCESS && json_has(object, "messages");
      return bad(fmt::format("expected an object with a string \"text\", seen {}{}", json_preview(document.root()),
                             chat ? ". Hint: conversations (\"messages\") are read by finetune --chat" : ""));
    }
    if (is_blank(whole)) return {};
    text = whole;
    give_long_text();
    give_part(std::move(text), true);
    text.clear();
    searched = 0;
    return {};
  }

  // Reads one line of one file, or steps to the next file. False when all files are read.
  Result<bool> step() {
    TRY_ASSIGN(const DataLines::Event event, lines.next(&line));
    if (event == DataLines::Event::kEnd) return false;
    if (!in_file) kind = kind_of(lines.file());
    in_file = event == DataLines::Event::kLine;
    if (!in_file) {
      if (kind != Kind::kJsonLines) TRY(end_document());
      return true;
    }
    if (kind == Kind::kByFirstByte && !is_blank(line))
      kind = line[line.find_first_not_of(kBlank)] == '{' ? Kind::kJsonLines : Kind::kText;
    TRY(kind == Kind::kJsonLines ? add_json_line() : add_text_line());
    return true;
  }
};

DocumentReader::DocumentReader(std::vector<std::string> files) : state_(std::make_unique<State>(std::move(files))) {}
DocumentReader::DocumentReader(DocumentReader&&) noexcept = default;
DocumentReader::~DocumentReader() = default;

Result<bool> DocumentReader::next(TextPart* part) {
  while (state_->ready.empty()) {
    TRY_ASSIGN(const bool more, state_->step());
    if (!more && state_->ready.empty()) return false;
  }
  *part = std::move(state_->ready.front());
  state_->ready.pop_front();
  return true;
}

Result<bool> DocumentReader::read_parts(uint64_t bytes, std::vector<TextPart>* parts) {
  for (uint64_t got = 0; got < bytes;) {
    TextPart part;
    TRY_ASSIGN(const bool more, next(&part));
    if (!more) return false;
    got += part.text.size();
    parts->push_back(std::move(part));
  }
  return true;
}

uint64_t DocumentReader::bytes_total() const {
  return state_->lines.bytes_total();
}
uint64_t DocumentReader::bytes_read() const {
  return state_->lines.bytes_read();
}

}  // namespace westlake
