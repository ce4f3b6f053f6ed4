#include "formats/text_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/file.h"

namespace westlake {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 16;
constexpr std::string_view kZstdMagic = "\x28\xb5\x2f\xfd", kGzipMagic = "\x1f\x8b";

enum class Coding { kPlain, kZstd, kGzip };

// A skippable frame (0x184D2A50 to 5F, little-endian) may come before the first frame with data.
bool is_zstd(std::string_view head) {
  const bool skippable = head.size() >= 4 && (head[0] & 0xf0) == 0x50 && head.substr(1, 3) == "\x2a\x4d\x18";
  return head.starts_with(kZstdMagic) || skippable;
}

// The window a stream may ask for: a decoder holds that much of the text. The format allows gigabytes; the zstd tool's
// own limit is 128 MB, and a file that is itself small has no use for that.
int window_log_max(uint64_t file_bytes) {
  constexpr int kSmallest = 23, kLargest = 27;
  constexpr uint64_t kBytesPerByte = 64;
  if (file_bytes >= (uint64_t{1} << kLargest)) return kLargest;
  return std::clamp(static_cast<int>(std::bit_width(file_bytes * kBytesPerByte)), kSmallest, kLargest);
}

}  // namespace

struct TextReader::State {
  std::string place;
  int fd = -1;
  bool owns_fd = false;
  bool at_end = false;                 // the source has no more
  std::span<const std::byte> memory;   // the source when fd < 0
  uint64_t source_bytes = UINT64_MAX;  // size of the source, where known
  uint64_t source_read = 0;            // bytes taken from it

  Coding coding = Coding::kPlain;
  ZSTD_DStream* zstd = nullptr;
  z_stream gzip{};
  bool gzip_ready = false;
  bool inside = false;  // of a frame or member that has not ended

  std::string input;  // bytes from the source; [taken, end) are not decoded yet
  size_t taken = 0;
  uint64_t taken_before = 0;  // bytes of the source before input[0]

  std::vector<char> decoded;  // for next_line; [shown, filled) have not been given out
  size_t shown = 0, filled = 0;
  int64_t line = 0;

  ~State() {
    ZSTD_freeDStream(zstd);
    if (gzip_ready) inflateEnd(&gzip);
    if (owns_fd) ::close(fd);
  }

  Error damaged(std::string_view reason) const {
    return make_error(Code::kCorrupt, "{}: the {} stream is damaged at byte {}: {}", place,
                      coding == Coding::kZstd ? "zstd" : "gzip", taken_before + taken, reason);
  }
  Error zstd_error(size_t outcome) const {
    if (ZSTD_getErrorCode(outcome) == ZSTD_error_frameParameter_windowTooLarge) {
      return make_error(Code::kUnsupported,
                        "{}: the zstd frame at byte {} asks for a larger window than a file of this size may. Hint: "
                        "compress it again without --long",
                        place, taken_before + taken);
    }
    return damaged(ZSTD_getErrorName(outcome));
  }
  Error truncated() const {
    return make_error(
        Code::kCorrupt, "{}: the {} stream ends after {} bytes, inside a {}. Hint: an interrupted download?", place,
        coding == Coding::kZstd ? "zstd" : "gzip", taken_before + taken, coding == Coding::kZstd ? "frame" : "member");
  }

  Result<size_t> read_source(std::span<char> out);
  Status refill();
  Status start_decoder();
  Result<size_t> read_plain(std::span<char> out);
  Result<size_t> read_zstd(std::span<char> out);
  Result<size_t> read_gzip(std::span<char> out);
  Result<size_t> decode(std::span<char> out);
};

Result<size_t> TextReader::State::read_source(std::span<char> out) {
  if (fd < 0) {
    const size_t n = std::min(out.size(), memory.size());
    std::copy_n(reinterpret_cast<const char*>(memory.data()), n, out.data());
    memory = memory.subspan(n);
    source_read += n;
    return n;
  }
  for (;;) {
    const ssize_t n = ::read(fd, out.data(), out.size());
    if (n >= 0) {
      source_read += static_cast<uint64_t>(n);
      return static_cast<size_t>(n);
    }
    if (errno != EINTR) return make_error(Code::kIo, "{}: cannot read: {}", place, errno_text(errno));
  }
}

// Replaces a used-up input by the next bytes of the source. Requires: taken == input.size().
Status TextReader::State::refill() {
  taken_before += input.size();
  taken = 0;
  input.resize(kBufferBytes);
  auto got = read_source(input);
  input.resize(got.ok() ? *got : 0);
  if (!got.ok()) return got.error();
  at_end = input.empty();
  return {};
}

Status TextReader::State::start_decoder() {
  // A pipe may give its first bytes one by one; four are enough to tell.
  while (input.size() < 4 && !at_end) {
    char more[4];
    TRY_ASSIGN(const size_t n, read_source(std::span(more, 4 - input.size())));
    input.append(more, n);
    at_end = n == 0;
  }
  at_end = false;
  coding = is_zstd(input) ? Coding::kZstd : input.starts_with(kGzipMagic) ? Coding::kGzip : Coding::kPlain;
  const bool promised = place.ends_with(".zst") || place.ends_with(".gz");
  if (coding == Coding::kPlain && promised) {
    return make_error(Code::kCorrupt,
                      "{}: does not begin as a {} stream does. Hint: not compressed, or an interrupted "
                      "download?",
                      place, place.ends_with(".gz") ? "gzip" : "zstd");
  }
  if (coding == Coding::kZstd) {
    zstd = ZSTD_createDStream();
    if (zstd == nullptr) return make_error(Code::kExhausted, "{}: no memory for a zstd decoder", place);
    ZSTD_DCtx_setParameter(zstd, ZSTD_d_windowLogMax, window_log_max(source_bytes));
  } else if (coding == Coding::kGzip) {
    constexpr int kGzipOnly = 16;
    if (inflateInit2(&gzip, MAX_WBITS + kGzipOnly) != Z_OK)
      return make_error(Code::kExhausted, "{}: no memory for a gzip decoder", place);
    gzip_ready = true;
  }
  return {};
}

Result<size_t> TextReader::State::read_plain(std::span<char> out) {
  if (taken == input.size()) return read_source(out);
  const size_t n = std::min(out.size(), input.size() - taken);
  std::copy_n(input.data() + taken, n, out.data());
  taken += n;
  return n;
}

Result<size_t> TextReader::State::read_zstd(std::span<char> out) {
  for (;;) {
    if (taken == input.size() && !at_end) TRY(refill());
    if (at_end && !inside) return size_t{0};
    ZSTD_inBuffer from = {input.data(), input.size(), taken};
    ZSTD_outBuffer to = {out.data(), out.size(), 0};
    const size_t more = ZSTD_decompressStream(zstd, &to, &from);
    taken = from.pos;
    if (ZSTD_isError(more)) return zstd_error(more);
    inside = more != 0;
    if (to.pos > 0) return to.pos;
    if (at_end && inside) return truncated();  // nothing came in and nothing came out
  }
}

Result<size_t> TextReader::State::read_gzip(std::span<char> out) {
  for (;;) {
    if (taken == input.size() && !at_end) TRY(refill());
    if (at_end && !inside) return size_t{0};
    gzip.next_in = reinterpret_cast<Bytef*>(input.data()) + taken;
    gzip.avail_in = static_cast<uInt>(input.size() - taken);
    gzip.next_out = reinterpret_cast<Bytef*>(out.data());
    gzip.avail_out = static_cast<uInt>(std::min(out.size(), kBufferBytes));
    const uInt room = gzip.avail_out;
    const int outcome = inflate(&gzip, Z_NO_FLUSH);
    taken = input.size() - gzip.avail_in;
    const size_t produced = room - gzip.avail_out;
    if (outcome != Z_OK && outcome != Z_STREAM_END && outcome != Z_BUF_ERROR)
      return damaged(gzip.msg != nullptr ? gzip.msg : "not a gzip member");
    inside = outcome != Z_STREAM_END;
    if (!inside) inflateReset(&gzip);
    if (produced > 0) return produced;
    if (at_end && inside) return truncated();
  }
}

Result<size_t> TextReader::State::decode(std::span<char> out) {
  if (out.empty()) return size_t{0};
  switch (coding) {
    case Coding::kZstd:
      return read_zstd(out);
    case Coding::kGzip:
      return read_gzip(out);
    case Coding::kPlain:
      break;
  }
  return read_plain(out);
}

TextReader::TextReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
TextReader::TextReader(TextReader&&) noexcept = default;
TextReader& TextReader::operator=(TextReader&&) noexcept = default;
TextReader::~TextReader() = default;

Result<TextReader> TextReader::start(std::unique_ptr<State> state) {
  TRY(state->start_decoder());
  return TextReader(std::move(state));
}

Result<TextReader> TextReader::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const int error_number = errno;
    const Code code = error_number == ENOENT || error_number == ENOTDIR ? Code::kNotFound : Code::kIo;
    return make_error(code, "{}: cannot open: {}", path, errno_text(error_number));
  }
  auto state = std::make_unique<State>();
  state->place = path;
  state->fd = fd;
  state->owns_fd = true;
  struct stat info {};
  if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) state->source_bytes = static_cast<uint64_t>(info.st_size);
  return start(std::move(state));
}

Result<TextReader> TextReader::from_fd(int fd, std::string_view place) {
  auto state = std::make_unique<State>();
  state->place = place;
  state->fd = fd;
  return start(std::move(state));
}

Result<TextReader> TextReader::from_bytes(std::span<const std::byte> bytes, std::string_view place) {
  auto state = std::make_unique<State>();
  state->place = place;
  state->memory = bytes;
  state->source_bytes = bytes.size();
  return start(std::move(state));
}

Result<size_t> TextReader::read(std::span<char> out) {
  State& s = *state_;
  if (s.shown == s.filled) return s.decode(out);
  const size_t n = std::min(out.size(), s.filled - s.shown);
  std::copy_n(s.decoded.data() + s.shown, n, out.data());
  s.shown += n;
  return n;
}

Result<std::string> TextReader::read_all(uint64_t limit_bytes) {
  std::string text;
  char piece[kBufferBytes];
  for (;;) {
    TRY_ASSIGN(const size_t n, read(piece));
    if (n == 0) return text;
    if (n > limit_bytes - text.size()) {
      return make_error(Code::kExhausted, "{}: the text is longer than the limit of {} bytes", state_->place,
                        limit_bytes);
    }
    text.append(piece, n);
  }
}

Result<bool> TextReader::next_line(std::string* line, uint64_t limit_bytes) {
  State& s = *state_;
  line->clear();
  ++s.line;
  for (bool any = false;; any = true) {
    if (s.shown == s.filled) {
      s.decoded.resize(kBufferBytes);
      s.shown = s.filled = 0;
      TRY_ASSIGN(s.filled, s.decode(s.decoded));
      if (s.filled == 0) {
        if (!any) --s.line;
        return any;
      }
    }
    const char* from = s.decoded.data() + s.shown;
    const auto* newline = static_cast<const char*>(std::memchr(from, '\n', s.filled - s.shown));
    const size_t n = newline != nullptr ? static_cast<size_t>(newline - from) : s.filled - s.shown;
    if (n > limit_bytes - line->size()) {
      return make_error(Code::kExhausted, "{}:{}: the line is longer than the limit of {} bytes", s.place, s.line,
                        limit_bytes);
    }
    line->append(from, n);
    s.shown += n;
    if (newline != nullptr) {
      ++s.shown;
      return true;
    }
  }
}

int64_t TextReader::line_number() const {
  return state_->line;
}

uint64_t TextReader::source_bytes_read() const {
  return state_->source_read;
}

}  // namespace westlake
