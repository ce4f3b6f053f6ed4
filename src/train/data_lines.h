// The lines of several files, one file after the other: plain or compressed, standard input too. What DocumentReader
// and ConversationReader stand on; a line knows its place, for messages.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "formats/text_file.h"

namespace westlake {

inline constexpr std::string_view kStandardInput = "-";

class DataLines {
 public:
  enum class Event { kLine, kFileEnd, kEnd };

  // `files` as list_data_files gives them.
  explicit DataLines(std::vector<std::string> files);

  // The next line without its '\n' and without a byte order mark; the end of every file is an event of its own. Errors:
  // those of TextReader.
  Result<Event> next(std::string* line);

  // Of the file of the last event: its path or "standard input", and the path and line.
  const std::string& file() const { return file_; }
  std::string place() const;

  // Bytes of the files behind and in all, as they lie on disk; standard input counts as empty.
  uint64_t bytes_read() const;
  uint64_t bytes_total() const;

 private:
  std::vector<std::string> files_;
  std::vector<uint64_t> sizes_;
  size_t opened_ = 0;  // files opened so far; the last of them is being read
  std::optional<TextReader> reader_;
  std::string file_;
  int64_t line_number_ = 0;
};

}  // namespace westlake
