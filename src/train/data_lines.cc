// Files and lines. See data_lines.h.
#include "train/data_lines.h"

#include <unistd.h>

#include <filesystem>

namespace westlake {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kLongestLine = uint64_t{64} << 20;
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";  // what some editors put before UTF-8

}  // namespace

DataLines::DataLines(std::vector<std::string> files) : files_(std::move(files)) {
  for (const std::string& file : files_) {
    std::error_code error;
    const uint64_t size = file == kStandardInput ? 0 : fs::file_size(file, error);
    sizes_.push_back(error ? 0 : size);
  }
}

Result<DataLines::Event> DataLines::next(std::string* line) {
  if (!reader_) {
    if (opened_ == files_.size()) return Event::kEnd;
    const std::string& path = files_[opened_++];
    file_ = path == kStandardInput ? "standard input" : path;
    auto made = path == kStandardInput ? TextReader::from_fd(STDIN_FILENO, file_) : TextReader::open(path);
    if (!made.ok()) return made.error();
    reader_.emplace(std::move(made).value());
    line_number_ = 0;
  }
  TRY_ASSIGN(const bool more, reader_->next_line(line, kLongestLine));
  if (!more) {
    reader_.reset();
    return Event::kFileEnd;
  }
  line_number_ = reader_->line_number();
  if (line_number_ == 1 && line->starts_with(kByteOrderMark)) line->erase(0, kByteOrderMark.size());
  return Event::kLine;
}

std::string DataLines::place() const {
  return fmt::format("{}:{}", file_, line_number_);
}

uint64_t DataLines::bytes_total() const {
  uint64_t total = 0;
  for (const uint64_t size : sizes_) total += size;
  return total;
}

uint64_t DataLines::bytes_read() const {
  uint64_t read = 0;
  const size_t behind = opened_ - (reader_ ? 1 : 0);
  for (size_t i = 0; i < behind; ++i) read += sizes_[i];
  if (reader_ && files_[behind] != kStandardInput) read += reader_->source_bytes_read();
  return read;
}

}  // namespace westlake
