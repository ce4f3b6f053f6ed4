#include "model/kept_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <optional>

#include "base/file.h"
#include "base/progress.h"

namespace westlake {
namespace {

namespace fs = std::filesystem;

// The folders of a cache that hold nothing but kept files, and how these end.
struct Kind {
  const char* folder;
  const char* extension;
};
constexpr Kind kKinds[] = {{"panels", ".panels"}, {"quantised", ".gguf"}};

constexpr auto kStaleAfter = std::chrono::minutes(1);  // a .tmp that nobody has locked by then has lost its writer

// Where the time of the last use is noted: the file's own time is part of its identity.
fs::path use_mark(const fs::path& file) {
  return file.parent_path() / "used" / file.filename();
}

fs::file_time_type last_use(const fs::path& file) {
  std::error_code none;
  const fs::file_time_type mark = fs::last_write_time(use_mark(file), none);
  return none ? fs::last_write_time(file, none) : mark;
}

// Opened and locked by this process; -1: another one has it, or it is gone.
int try_lock(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  if (fd >= 0) ::close(fd);
  return -1;
}

// Left by a killed process.
bool remove_if_stale(const fs::path& path) {
  std::error_code error;
  if (fs::last_write_time(path, error) + kStaleAfter > fs::file_time_type::clock::now() || error) return false;
  const int fd = try_lock(path);
  if (fd < 0) return false;
  const bool removed = fs::remove(path, error);
  ::close(fd);
  return removed;
}

// True when fd is still what the path names.
bool is_named(int fd, const std::string& path) {
  struct stat ours = {}, there = {};
  return fstat(fd, &ours) == 0 && stat(path.c_str(), &there) == 0 && ours.st_ino == there.st_ino &&
         ours.st_dev == there.st_dev;
}

// The file of that name, made where there is none, locked; whoever has it is waited for.
Result<int> lock_file(const std::string& path) {
  for (;;) {
    const int fd = ::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644);
    if (fd < 0) return make_error(Code::kIo, "{}: {}", path, errno_text(errno));
    while (flock(fd, LOCK_EX) != 0) {
      if (errno == EINTR) continue;
      const int error = errno;
      ::close(fd);
      return make_error(Code::kIo, "{}: {}", path, errno_text(error));
    }
    if (is_named(fd, path)) return fd;
    ::close(fd);  // the one that was waited for has renamed or removed it
  }
}

}  // namespace

std::string ContentHash::text() const {
  return fmt::format("{:016x}{:016x}", high, low);
}

uint64_t hash_bytes(const void* data, size_t bytes) {
  return XXH3_64bits(data, bytes);
}

uint64_t files_identity(std::span<const std::string> paths) {
  std::vector<uint64_t> facts;
  for (const std::string& path : paths) {
    struct stat s = {};
    if (stat(path.c_str(), &s) != 0) return 0;
    facts.insert(facts.end(), {static_cast<uint64_t>(s.st_dev), static_cast<uint64_t>(s.st_ino),
                               static_cast<uint64_t>(s.st_size), static_cast<uint64_t>(s.st_mtim.tv_sec),
                               static_cast<uint64_t>(s.st_mtim.tv_nsec), static_cast<uint64_t>(s.st_ctim.tv_nsec)});
  }
  return hash_bytes(facts.data(), facts.size() * sizeof(uint64_t));
}

void for_each_piece(size_t n, FunctionRef<int64_t(size_t)> bytes_of, const char* label, ThreadPool& pool,
                    FunctionRef<void(size_t, int)> f) {
  int64_t total = 0, done = 0;
  for (size_t i = 0; i < n; ++i) total += bytes_of(i);
  Progress progress(label, static_cast<uint64_t>(total), "bytes");
  const size_t at_once = 8 * static_cast<size_t>(pool.size());
  for (size_t first = 0; first < n; first += at_once) {
    const size_t count = std::min(at_once, n - first);
    pool.for_each_chunk(static_cast<int64_t>(count), 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; ++i) f(first + static_cast<size_t>(i), thread);
    });
    for (size_t i = first; i < first + count; ++i) done += bytes_of(i);
    progress.update(static_cast<uint64_t>(done));
  }
}

ContentHash hash_content(std::span<const Bytes> pieces, uint64_t extra, ThreadPool& pool) {
  std::vector<XXH128_hash_t> hashes(pieces.size());
  const auto bytes_of = [&](size_t i) { return static_cast<int64_t>(pieces[i].size()); };
  for_each_piece(pieces.size(), bytes_of, "reading the weights", pool, [&](size_t i, int) {
    hashes[i] = XXH3_128bits(pieces[i].data(), pieces[i].size());
    release_pages(pieces[i]);
  });
  hashes.push_back({extra, 0});
  const XXH128_hash_t all = XXH3_128bits(hashes.data(), hashes.size() * sizeof(XXH128_hash_t));
  return {all.high64, all.low64};
}

Status KeptFolder::create() const {
  for (const char* inner : {"known", "used"}) {
    std::error_code error;
    fs::create_directories(fs::path(path_) / inner, error);
    if (error) return make_error(Code::kIo, "{}: cannot be made: {}", path_, error.message());
  }
  return {};
}

Result<ContentHash> KeptFolder::content_hash(uint64_t identity, FunctionRef<ContentHash()> compute) const {
  const std::string known = fmt::format("{}/known/{:016x}", path_, identity);
  if (const Result<std::string> text = read_file(known, 64); text.ok()) {
    unsigned long long high = 0, low = 0;
    if (std::sscanf(text->c_str(), "%16llx%16llx", &high, &low) == 2) return ContentHash{high, low};
  }
  const ContentHash hash = compute();
  TRY(write_file(known, hash.text() + "\n"));
  return hash;
}

void KeptFolder::mark_used(const std::string& target) const {
  const std::string mark = use_mark(target).string();
  const int fd = ::open(mark.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
  if (fd < 0) return;  // a full disk, a read-only one: it is used all the same
  (void)futimens(fd, nullptr);
  ::close(fd);
}

// What killed processes left, else the file not used for longest; false: there is none.
bool KeptFolder::remove_one() const {
  fs::path oldest;
  std::error_code error;
  for (const Kind& kind : kKinds) {
    for (const fs::directory_entry& entry :
         fs::directory_iterator(fs::path(path_).parent_path() / kind.folder, error)) {
      const fs::path& file = entry.path();
      if (file.extension() == ".tmp" && remove_if_stale(file)) return true;
      if (file.extension() != kind.extension) continue;
      const auto same = [&](const std::string& used) { return fs::equivalent(used, file, error); };
      if (std::any_of(in_use_.begin(), in_use_.end(), same)) continue;
      if (oldest.empty() || last_use(file) < last_use(oldest)) oldest = file;
    }
  }
  if (oldest.empty()) return false;
  fs::remove(use_mark(oldest), error);
  return fs::remove(oldest, error);
}

Status KeptFolder::make_room(int64_t bytes) const {
  const int64_t spare = std::min(bytes, int64_t{1} << 30);  // left for others
  for (;;) {
    struct statvfs s = {};
    if (statvfs(path_.c_str(), &s) != 0) return make_error(Code::kIo, "{}: {}", path_, errno_text(errno));
    const int64_t free = static_cast<int64_t>(s.f_bavail) * static_cast<int64_t>(s.f_frsize);
    if (free >= bytes + spare) return {};
    if (!remove_one())
      return make_error(Code::kExhausted, "{}: {} free, {} needed", path_, human_bytes(static_cast<uint64_t>(free)),
                        human_bytes(static_cast<uint64_t>(bytes + spare)));
  }
}

Status KeptFolder::make(const std::string& target, int64_t bytes, FunctionRef<bool()> is_good, Fill fill) const {
  const std::string temporary = target + ".tmp";
  TRY_ASSIGN(const int fd, lock_file(temporary));
  Status status;
  const bool made = is_good();
  if (!made) status = make_room(bytes);
  if (!made && status.ok() && ftruncate(fd, 0) != 0)
    status = make_error(Code::kIo, "{}: {}", temporary, errno_text(errno));
  if (!made && status.ok()) status = fill(fd, temporary);
  if (made || !status.ok()) unlink(temporary.c_str());
  ::close(fd);  // and with it the lock
  return status;
}

}  // namespace westlake
