// The documents of a corpus, one after the other: files of text and of JSON lines, plain or compressed, folders of
// them, standard input.
// Idea: a document is handed out in parts of some hundred kilobytes, so that a book or a file without separators needs
// no more memory than a story, and the work on it can be shared out. A part ends where every published pre-tokenizer
// has a border anyway (before a space between two letters, after a line break between a sign and a letter): the parts'
// tokens are the document's. Only text of megabytes without such a place is cut elsewhere.
// Documents of a .txt end at a line "<|endoftext|>" and at the file's end; blank lines around them are no part of them.
// A .jsonl has one object a line with a string "text". A file of another name is one or the other by its first byte.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "train/data_lines.h"

namespace westlake {

enum class DataKind { kTexts, kConversations };

// The files that the arguments name: files as they are, folders as the .txt and .jsonl (also .zst, .gz; conversations:
// .jsonl alone) in them and below, sorted; "-" stays. Errors: kInvalidArgument without arguments or with "-" twice,
// kNotFound for a path that is not there and for a folder without such files.
Result<std::vector<std::string>> list_data_files(std::span<const std::string> arguments,
                                                 DataKind kind = DataKind::kTexts);

struct TextPart {
  std::string text;     // valid UTF-8
  bool begins = false;  // the document's first part
  bool ends = false;    // its last; may be empty when there was one before
};

class DocumentReader {
 public:
  // `files` as list_data_files gives them.
  explicit DocumentReader(std::vector<std::string> files);
  DocumentReader(DocumentReader&&) noexcept;
  ~DocumentReader();

  // The next part; false at the end of the last file. Documents without text are passed over. Errors, with file and
  // line: what TextReader has, kCorrupt for text that is not UTF-8 and for a line that is not such an object.
  Result<bool> next(TextPart* part);

  // Adds parts until they have `bytes` bytes together or the files end. True when there may be more.
  Result<bool> read_parts(uint64_t bytes, std::vector<TextPart>* parts);

  // Bytes of the files behind and in all, as they lie on disk; standard input counts as empty.
  uint64_t bytes_read() const;
  uint64_t bytes_total() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace westlake
