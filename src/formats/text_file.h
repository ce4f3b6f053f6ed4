// Texts out of files: .txt and .jsonl, plain or compressed with zstd or gzip, read as a stream.
// Idea: the compression is told by the first bytes (a name ending in .zst or .gz must keep its promise), so a pipe can
// be compressed too. Memory is two fixed buffers and the decoder's window, whatever the length of the text. Source: RFC
// 8878 (zstd frames, also several after one another), RFC 1952 (gzip members, the same).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace westlake {

class TextReader {
 public:
  static Result<TextReader> open(const std::string& path);

  // From a descriptor that the caller owns and keeps open: standard input, a pipe. `place` opens every message.
  static Result<TextReader> from_fd(int fd, std::string_view place);

  // Requires: bytes outlive the reader.
  static Result<TextReader> from_bytes(std::span<const std::byte> bytes, std::string_view place);

  TextReader(TextReader&&) noexcept;
  TextReader& operator=(TextReader&&) noexcept;
  ~TextReader();

  // Fills some of `out` and returns how much; 0 is the end of the text. Errors: kIo; kCorrupt for a damaged or
  // truncated stream, with its place in the compressed file.
  Result<size_t> read(std::span<char> out);

  // All that is left. Errors: kExhausted when that is more than `limit_bytes`.
  Result<std::string> read_all(uint64_t limit_bytes);

  // The next line without its '\n' ('\r' stays); false at the end. A last line needs no '\n'. Errors: kExhausted when a
  // line has more than `limit_bytes`; the line's number is in the message.
  Result<bool> next_line(std::string* line, uint64_t limit_bytes = uint64_t{1} << 30);

  // Number of the line that next_line gave last, from 1.
  int64_t line_number() const;

  // Bytes taken from the file so far, compressed as they lie there: what progress is measured by.
  uint64_t source_bytes_read() const;

 private:
  struct State;
  explicit TextReader(std::unique_ptr<State> state);
  static Result<TextReader> start(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace westlake
