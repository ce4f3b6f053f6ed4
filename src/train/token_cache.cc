// Keys, the writer, and the checks of the reader. See token_cache.h.
#include "train/token_cache.h"

#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <memory>

#include "train/documents.h"

namespace westlake {
namespace {

namespace fs = std::filesystem;

constexpr char kMagic[8] = {'W', 'L', 'T', 'O', 'K', 'E', 'N', '1'};  // the last character is the version
constexpr uint64_t kRoundBytes = uint64_t{16} << 20;                  // text that is tokenised at once

struct Header {
  char magic[8];
  uint32_t bytes_per_id, vocab_size;
};
struct Trailer {
  uint64_t tokens, documents;
  uint64_t key[2], hash[2];
  char magic[8];
};
static_assert(sizeof(Header) == 16 && sizeof(Trailer) == 56);

class Hash {
 public:
  Hash() : state_(XXH3_createState(), &XXH3_freeState) { XXH3_128bits_reset(state_.get()); }
  void add(const void* data, size_t bytes) { XXH3_128bits_update(state_.get(), data, bytes); }
  void add(std::string_view text) {
    add_number(text.size());
    add(text.data(), text.size());
  }
  void add_number(uint64_t number) { add(&number, sizeof number); }
  XXH128_hash_t value() const { return XXH3_128bits_digest(state_.get()); }

 private:
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state_;
};

std::string key_text(const uint64_t key[2]) {
  return fmt::format("{:016x}{:016x}", key[0], key[1]);
}

// Size and time of a file: whether it is still the one that was hashed.
struct Stamp {
  int64_t bytes = 0, seconds = 0, nanoseconds = 0;
  bool operator==(const Stamp&) const = default;
};

Stamp stamp_of(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return {-1, 0, 0};
  return {info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec};
}

// The ending says how a file is read, so it is part of what the file is.
std::string_view ending_of(std::string_view path) {
  const size_t name = path.find_last_of('/') + 1, dot = path.find('.', name);
  return dot == std::string_view::npos ? std::string_view() : path.substr(dot);
}

Status add_file(Hash& hash, const std::string& path) {
  TRY_ASSIGN(const MappedFile file, MappedFile::open(path));
  file.will_need();
  hash.add(ending_of(path));
  constexpr size_t kPiece = size_t{64} << 20;
  std::span<const std::byte> left = file.bytes();
  hash.add_number(left.size());
  while (!left.empty()) {
    const auto piece = left.first(std::min(left.size(), kPiece));
    hash.add(piece.data(), piece.size());
    release_pages(piece);
    left = left.subspan(piece.size());
  }
  return {};
}

// Writes ids as they come, then starts and trailer.
class Writer {
 public:
  static Result<Writer> create(const std::string& path, const TokenRecipe& recipe) {
    TRY_ASSIGN(AtomicFile file, AtomicFile::create(path));
    Writer writer(std::move(file), recipe);
    Header header{};
    std::memcpy(header.magic, kMagic, sizeof kMagic);
    header.bytes_per_id = writer.bytes_per_id_;
    header.vocab_size = static_cast<uint32_t>(recipe.vocab_size);
    TRY(writer.put(&header, sizeof header));
    return writer;
  }

  void begin_document() { starts_.push_back(tokens_); }

  Status add(std::span<const uint32_t> ids) {
    tokens_ += ids.size();
    if (bytes_per_id_ == sizeof(uint32_t)) return put(ids.data(), ids.size_bytes());
    narrow_.assign(ids.begin(), ids.end());
    return put(narrow_.data(), narrow_.size() * sizeof(uint16_t));
  }

  uint64_t tokens() const { return tokens_; }
  uint64_t documents() const { return starts_.size(); }

  // `key` null: the key of what was written.
  Status finish(Hash& key_hash, const uint64_t* known_key, std::string* key) {
    const uint64_t zero = 0;
    TRY(put(&zero, (8 - file_.written_bytes() % 8) % 8));
    starts_.push_back(tokens_);
    TRY(put(starts_.data(), starts_.size() * sizeof(uint64_t)));
    Trailer trailer{};
    trailer.tokens = tokens_;
    trailer.documents = starts_.size() - 1;
    if (known_key == nullptr) {
      const XXH128_hash_t content = hash_.value();
      key_hash.add_number(content.high64);
      key_hash.add_number(content.low64);
      const XXH128_hash_t made = key_hash.value();
      trailer.key[0] = made.high64;
      trailer.key[1] = made.low64;
    } else {
      std::copy_n(known_key, 2, trailer.key);
    }
    hash_.add(&trailer, offsetof(Trailer, hash));
    const XXH128_hash_t hash = hash_.value();
    trailer.hash[0] = hash.high64;
    trailer.hash[1] = hash.low64;
    std::memcpy(trailer.magic, kMagic, sizeof kMagic);
    *key = key_text(trailer.key);
    TRY(file_.write(std::as_bytes(std::span(&trailer, 1))));
    return file_.commit();
  }

 private:
  Writer(AtomicFile file, const TokenRecipe& recipe)
      : file_(std::move(file)), bytes_per_id_(recipe.vocab_size <= 0x10000 && !recipe.marked ? 2 : 4) {}

  Status put(const void* data, size_t bytes) {
    hash_.add(data, bytes);
    return file_.write(std::span(static_cast<const std::byte*>(data), bytes));
  }

  AtomicFile file_;
  uint32_t bytes_per_id_;
  Hash hash_;
  uint64_t tokens_ = 0;
  std::vector<uint64_t> starts_;
  std::vector<uint16_t> narrow_;
};

// The ids of parts, each with the tokens that belong around it.
void tokenise(ThreadPool& pool, const Tokenizer& tokenizer, const std::vector<TextPart>& parts,
              std::vector<TokenPiece>* pieces) {
  const size_t before = pieces->size();
  pieces->resize(before + parts.size());
  EncodeOptions plain;
  plain.parse_added_tokens = false;
  pool.for_each_chunk(static_cast<int64_t>(parts.size()), 1, [&](int64_t begin, int64_t end, int) {
    std::vector<int32_t> ids;
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      ids.clear();
      if (parts[i].begins && tokenizer.adds_bos()) ids.push_back(tokenizer.bos_id());
      tokenizer.encode(parts[i].text, plain, ids);
      if (parts[i].ends) ids.push_back(tokenizer.eos_id());
      TokenPiece& piece = (*pieces)[before + i];
      piece.ids.assign(ids.begin(), ids.end());
      piece.begins = parts[i].begins;
    }
  });
}

Status write_tokens(const TokenRecipe& recipe, Writer& writer, const TokenizeProgress& progress) {
  std::vector<TokenPiece> pieces;
  for (bool more = true; more;) {
    pieces.clear();
    TRY_ASSIGN(more, recipe.next(&pieces));
    for (const TokenPiece& piece : pieces) {
      if (piece.begins) writer.begin_document();
      TRY(writer.add(piece.ids));
    }
    const auto [done, total] = recipe.bytes();
    if (progress && !progress(done, total, static_cast<int64_t>(writer.tokens())))
      return make_error(Code::kCancelled, "stopped while the data was tokenised");
  }
  return {};
}

std::string path_in(const std::string& folder, std::string_view name) {
  return fmt::format("{}/tokens-{}.bin", folder, name);
}

}  // namespace

Result<TokenStore> TokenStore::open(const std::string& path) {
  TokenStore store;
  TRY_ASSIGN(store.file_, MappedFile::open(path));
  const std::span<const std::byte> bytes = store.file_.bytes();
  const auto damaged = [&](std::string_view what) {
    return make_error(Code::kCorrupt, "{}: {}. Hint: remove the file, it is made again from the data", path, what);
  };
  Header header;
  Trailer trailer;
  if (bytes.size() < sizeof header + sizeof(uint64_t) + sizeof trailer) return damaged("is too short for a token file");
  std::memcpy(&header, bytes.data(), sizeof header);
  std::memcpy(&trailer, bytes.data() + bytes.size() - sizeof trailer, sizeof trailer);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0 || std::memcmp(trailer.magic, kMagic, sizeof kMagic) != 0)
    return damaged("is no token file of this version, or is cut off");
  const uint64_t limit = bytes.size();  // before any product, so that none wraps
  const bool width_ok = header.bytes_per_id == 2 || header.bytes_per_id == 4;
  if (!width_ok || trailer.tokens > limit || trailer.documents > limit) return damaged("has impossible sizes");
  const uint64_t ids_bytes = (sizeof header + trailer.tokens * header.bytes_per_id + 7) / 8 * 8 - sizeof header;
  if (sizeof header + ids_bytes + (trailer.documents + 1) * sizeof(uint64_t) + sizeof trailer != bytes.size())
    return damaged(fmt::format("has {} bytes, which do not fit its {} tokens and {} documents", bytes.size(),
                               trailer.tokens, trailer.documents));
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size() - sizeof trailer + offsetof(Trailer, hash));
  if (hash.high64 != trailer.hash[0] || hash.low64 != trailer.hash[1]) return damaged("does not match its checksum");
  store.ids_ = bytes.data() + sizeof header;
  store.bytes_per_id_ = static_cast<int>(header.bytes_per_id);
  store.tokens_ = static_cast<int64_t>(trailer.tokens);
  store.vocab_size_ = header.vocab_size;
  store.starts_ = {reinterpret_cast<const uint64_t*>(bytes.data() + sizeof header + ids_bytes), trailer.documents + 1};
  store.key_ = key_text(trailer.key);
  bool rising = store.starts_.front() == 0 && store.starts_.back() == trailer.tokens;
  for (size_t i = 1; i < store.starts_.size(); ++i) rising &= store.starts_[i] > store.starts_[i - 1];
  uint32_t largest = 0;
  for (int64_t i = 0; i < store.tokens_; ++i) largest = std::max(largest, static_cast<uint32_t>(store.token(i)));
  if (!rising || largest >= header.vocab_size) return damaged("has documents out of order or ids out of range");
  return store;
}

void TokenStore::copy(int64_t begin, std::span<int32_t> out) const {
  CHECK(begin >= 0 && begin + static_cast<int64_t>(out.size()) <= tokens_, "tokens {} + {} of {}", begin, out.size(),
        tokens_);
  for (size_t i = 0; i < out.size(); ++i) out[i] = token(begin + static_cast<int64_t>(i));
}

Result<TokenStore> open_store(const std::vector<std::string>& files, const std::string& folder,
                              const TokenRecipe& recipe, const TokenizeProgress& progress) {
  const bool piped = std::find(files.begin(), files.end(), kStandardInput) != files.end();
  Hash key_hash;
  key_hash.add(std::string_view(kMagic, sizeof kMagic));
  key_hash.add(recipe.identity.data(), recipe.identity.size());
  std::vector<Stamp> stamps;
  for (const std::string& file : files) {
    stamps.push_back(stamp_of(file));
    if (!piped) TRY(add_file(key_hash, file));
  }
  const XXH128_hash_t hash = key_hash.value();
  const uint64_t key[2] = {hash.high64, hash.low64};
  std::string path = path_in(folder, piped ? fmt::format("input-{}", getpid()) : key_text(key));
  if (!piped && is_file(path)) {
    auto found = TokenStore::open(path);
    if (found.ok() ? found->key() == key_text(key) : found.error().code != Code::kCorrupt) return found;
  }
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return make_error(Code::kIo, "{}: cannot make the cache folder: {}", folder, error.message());

  TRY_ASSIGN(Writer writer, Writer::create(path, recipe));
  TRY(write_tokens(recipe, writer, progress));
  if (writer.documents() == 0) return make_error(Code::kInvalidArgument, "{}", recipe.empty);
  for (size_t i = 0; i < files.size(); ++i) {
    if (files[i] != kStandardInput && stamp_of(files[i]) != stamps[i])
      return make_error(Code::kIo, "{}: changed while it was read. Hint: start again when it is whole", files[i]);
  }
  std::string name;
  TRY(writer.finish(key_hash, piped ? nullptr : key, &name));
  if (piped) {
    const std::string made = path_in(folder, name);
    fs::rename(path, made, error);
    if (error) return make_error(Code::kIo, "{}: cannot rename to {}: {}", path, made, error.message());
    path = made;
  }
  return TokenStore::open(path);
}

Result<TokenStore> open_tokens(ThreadPool& pool, const Tokenizer& tokenizer, const std::vector<std::string>& files,
                               const std::string& folder, const TokenizeProgress& progress) {
  if (tokenizer.eos_id() < 0) {
    return make_error(Code::kInvalidArgument,
                      "the tokenizer has no end token (eos), which every document ends with. Hint: \"eos_token\" in "
                      "tokenizer_config.json");
  }
  DocumentReader reader(files);
  std::vector<TextPart> parts;
  TokenRecipe recipe;
  recipe.identity = tokenizer_identity(tokenizer);
  recipe.vocab_size = tokenizer.vocab_size();
  recipe.next = [&](std::vector<TokenPiece>* pieces) -> Result<bool> {
    parts.clear();
    TRY_ASSIGN(const bool more, reader.read_parts(kRoundBytes, &parts));
    tokenise(pool, tokenizer, parts, pieces);
    return more;
  };
  recipe.bytes = [&] { return std::pair(reader.bytes_read(), reader.bytes_total()); };
  return open_store(files, folder, recipe, progress);
}

std::string tokenizer_identity(const Tokenizer& tokenizer) {
  const std::string json = tokenizer.to_json();
  std::string bytes;
  const auto number = [&](uint64_t n) { bytes.append(reinterpret_cast<const char*>(&n), sizeof n); };
  number(json.size());
  bytes += json;
  for (const int32_t id : {tokenizer.bos_id(), tokenizer.eos_id()}) number(static_cast<uint32_t>(id));
  return bytes;
}

}  // namespace westlake
