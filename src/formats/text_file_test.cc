// Texts: plain, zstd and gzip, in pieces and lines, whole and damaged.
#include "formats/text_file.h"

#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <thread>

#include "formats/test_support.h"

namespace westlake {
namespace {

std::string zstd(const std::string& text, int level = 3) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), level));
  return out;
}

std::string gzip(const std::string& text) {
  z_stream stream{};
  CHECK(deflateInit2(&stream, 6, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  CHECK(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// 300 kB that do not compress to nothing, in lines of many lengths.
std::string long_text() {
  std::string text;
  uint32_t state = 1;
  while (text.size() < 300'000) {
    state = state * 1664525 + 1013904223;
    text += static_cast<char>('a' + (state >> 24) % 26);
    if (state % 97 == 0) text += '\n';
  }
  return text;
}

Result<std::string> read_all(const std::string& file, std::string_view place = "x") {
  TRY_ASSIGN(TextReader reader, TextReader::from_bytes(as_bytes(file), place));
  return reader.read_all(1 << 20);
}

TEST(TextReader, SameTextWhateverTheCompression) {
  const std::string text = long_text();
  for (const std::string& whole : {std::string(), std::string("a"), std::string("ab\ncd"), text}) {
    for (const std::string& file : {whole, zstd(whole), gzip(whole), zstd(whole, 19)}) {
      auto read = read_all(file);
      ASSERT_TRUE(read.ok()) << read.error().message;
      EXPECT_TRUE(*read == whole);
    }
  }
}

TEST(TextReader, FramesAndMembersFollowOneAnother) {
  const std::string skippable = std::string("\x50\x2a\x4d\x18\x03\x00\x00\x00", 8) + "abc";
  EXPECT_EQ(*read_all(zstd("one ") + zstd("") + zstd("two")), "one two");
  EXPECT_EQ(*read_all(skippable + zstd("one ") + skippable + zstd("two")), "one two");
  EXPECT_EQ(*read_all(gzip("one ") + gzip("") + gzip("two")), "one two");
}

TEST(TextReader, PiecesOfAnySize) {
  const std::string text = long_text();
  for (const std::string& file : {text, zstd(text), gzip(text)}) {
    for (size_t piece : {size_t{1}, size_t{7}, size_t{1} << 20}) {
      auto reader = TextReader::from_bytes(as_bytes(file), "x");
      ASSERT_TRUE(reader.ok());
      std::string all, buffer(piece, '\0');
      for (;;) {
        auto n = reader->read(buffer);
        ASSERT_TRUE(n.ok()) << n.error().message;
        if (*n == 0) break;
        all.append(buffer, 0, *n);
        if (piece == 1 && all.size() > 2000) break;
      }
      EXPECT_TRUE(all == text.substr(0, all.size()));
      EXPECT_TRUE(piece == 1 || all.size() == text.size());
    }
  }
}

TEST(TextReader, Lines) {
  struct Case {
    std::string text;
    std::vector<std::string> lines;
  };
  const std::string huge(200'000, 'x');
  const Case cases[] = {{"", {}},
                        {"\n", {""}},
                        {"a", {"a"}},
                        {"a\n", {"a"}},
                        {"a\n\nb", {"a", "", "b"}},
                        {"a\r\nb\n", {"a\r", "b"}},
                        {huge + "\nb", {huge, "b"}}};
  for (const Case& c : cases) {
    for (const std::string& file : {c.text, zstd(c.text), gzip(c.text)}) {
      auto reader = TextReader::from_bytes(as_bytes(file), "x");
      ASSERT_TRUE(reader.ok());
      std::vector<std::string> lines;
      std::string line;
      for (;;) {
        auto more = reader->next_line(&line);
        ASSERT_TRUE(more.ok()) << more.error().message;
        if (!*more) break;
        lines.push_back(line);
        EXPECT_EQ(reader->line_number(), static_cast<int64_t>(lines.size()));
      }
      EXPECT_EQ(lines, c.lines);
      EXPECT_FALSE(*reader->next_line(&line)) << "the end stays the end";
    }
  }
}

TEST(TextReader, LinesThenTheRest) {
  auto reader = TextReader::from_bytes(as_bytes("one\ntwo\nthree"), "x");
  std::string line;
  ASSERT_TRUE(*reader->next_line(&line));
  EXPECT_EQ(*reader->read_all(100), "two\nthree");
}

TEST(TextReader, Limits) {
  const std::string text(100'000, 'x');
  for (const std::string& file : {text, zstd(text), gzip(text)}) {
    auto reader = TextReader::from_bytes(as_bytes(file), "big.txt");
    expect_error(reader->read_all(99'999), Code::kExhausted, {"big.txt", "99999"});
    auto exact = TextReader::from_bytes(as_bytes(file), "big.txt");
    EXPECT_TRUE(exact->read_all(100'000).ok());
    auto lines = TextReader::from_bytes(as_bytes(file), "big.txt");
    std::string line;
    expect_error(lines->next_line(&line, 1000), Code::kExhausted, {"big.txt:1", "1000"});
  }
}

TEST(TextReader, EveryTruncationIsAnError) {
  const std::string text = long_text().substr(0, 2000);
  for (const std::string& whole : {zstd(text), gzip(text)}) {
    for (size_t n = 4; n < whole.size(); ++n) {  // fewer bytes than a magic number are a plain text
      auto read = read_all(whole.substr(0, n), "cut.zst");
      ASSERT_FALSE(read.ok()) << n << " of " << whole.size();
      EXPECT_EQ(read.error().code, Code::kCorrupt);
      EXPECT_NE(read.error().message.find("cut.zst"), std::string::npos);
      EXPECT_NE(read.error().message.find(fmt::format("after {} bytes", n)), std::string::npos) << read.error().message;
    }
  }
}

TEST(TextReader, Damage) {
  const std::string text = long_text().substr(0, 2000);
  for (const std::string& whole : {zstd(text), gzip(text)}) {
    for (size_t i = 0; i < whole.size(); ++i) {
      std::string changed = whole;
      changed[i] = static_cast<char>(changed[i] ^ 0x40);
      (void)read_all(changed).ok();  // some bytes do not matter; no input may crash
    }
    expect_error(read_all(whole + "garbage", "x.bin"), Code::kCorrupt, {"x.bin", "at byte", "damaged"});
  }
  std::string checked = gzip(text);
  checked[checked.size() - 8] ^= 1;  // the checksum
  expect_error(read_all(checked), Code::kCorrupt, {"gzip"});
  expect_error(read_all("plain text", "x.txt.zst"), Code::kCorrupt, {"x.txt.zst", "zstd"});
  expect_error(read_all("plain text", "x.jsonl.gz"), Code::kCorrupt, {"x.jsonl.gz", "gzip"});
  expect_error(read_all("", "x.gz"), Code::kCorrupt, {"x.gz"});
}

// A few bytes that ask for a window of 64 MB, which the zstd library alone would grant.
TEST(TextReader, NoMemoryBeyondReason) {
  const std::string frame = std::string("\x28\xb5\x2f\xfd\x00\x80", 6) + std::string("\x01\x00\x00", 3);
  expect_error(read_all(frame, "bomb.zst"), Code::kUnsupported, {"bomb.zst", "window"});
}

TEST(TextReader, FilesAndPipes) {
  const TempFolder folder;
  const std::string text = long_text();
  ASSERT_TRUE(write_file(folder.file("x.txt.zst"), zstd(text)).ok());
  auto file = TextReader::open(folder.file("x.txt.zst"));
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE(*file->read_all(1 << 20) == text);
  expect_error(TextReader::open(folder.file("none.txt")), Code::kNotFound, {"none.txt"});

  const std::string compressed = gzip(text);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  std::thread producer([&] {
    for (size_t i = 0; i < compressed.size();) {  // the first bytes one by one
      const ssize_t n =
          ::write(ends[1], compressed.data() + i, i < 8 ? 1 : std::min<size_t>(1000, compressed.size() - i));
      if (n < 0) break;
      i += static_cast<size_t>(n);
    }
    close(ends[1]);
  });
  auto piped = TextReader::from_fd(ends[0], "standard input");
  ASSERT_TRUE(piped.ok());
  EXPECT_TRUE(*piped->read_all(1 << 20) == text);
  producer.join();
  close(ends[0]);

  auto folder_as_text = TextReader::open(folder.path());
  expect_error(folder_as_text, Code::kIo, {folder.path()});
}

}  // namespace
}  // namespace westlake
