#include "base/file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

namespace westlake {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;

Error open_error(const std::string& path, int error_number) {
  const Code code = error_number == ENOENT || error_number == ENOTDIR ? Code::kNotFound : Code::kIo;
  return make_error(code, "{}: cannot open: {}", path, errno_text(error_number));
}

}  // namespace

std::string errno_text(int error_number) {
  char buffer[256];
  return strerror_r(error_number, buffer, sizeof buffer);  // the GNU form returns the text
}

bool is_directory(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

bool is_file(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

Result<MappedFile> MappedFile::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return open_error(path, errno);
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    return make_error(Code::kInvalidArgument, "{}: is not a regular file. Hint: name a file, or a model folder", path);
  }
  MappedFile file;
  file.path_ = path;
  file.size_bytes_ = static_cast<size_t>(info.st_size);
  if (file.size_bytes_ > 0) {
    void* data = mmap(nullptr, file.size_bytes_, PROT_READ, MAP_SHARED, fd, 0);
    const int error_number = errno;
    ::close(fd);
    if (data == MAP_FAILED) {
      file.size_bytes_ = 0;
      return make_error(Code::kIo, "{}: cannot map {} bytes: {}", path, info.st_size, errno_text(error_number));
    }
    file.data_ = static_cast<const std::byte*>(data);
  } else {
    ::close(fd);
  }
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_bytes_);
}

void MappedFile::use_large_pages() const {
  if (size_bytes_ > 0) madvise(const_cast<std::byte*>(data_), size_bytes_, MADV_HUGEPAGE);  // no error where it cannot be
}

void MappedFile::will_need() const {
  if (data_ != nullptr) madvise(const_cast<std::byte*>(data_), size_bytes_, MADV_WILLNEED);
}

void release_pages(std::span<const std::byte> mapped) {
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(mapped.data()) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(mapped.data()) + mapped.size()) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

namespace {

// "PATH.<pid>.tmp" of processes that are gone. A living writer holds a lock on its file: a pid alone could be one of
// another machine or container that shares the folder.
void remove_stale_temporaries(const std::string& path) {
  namespace fs = std::filesystem;
  const fs::path target(path);
  const std::string prefix = target.filename().string() + ".";
  std::error_code error;
  fs::directory_iterator entry(target.has_parent_path() ? target.parent_path() : fs::path("."), error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (!name.starts_with(prefix) || !name.ends_with(".tmp") || name.size() <= prefix.size() + 4) continue;
    const std::string owner = name.substr(prefix.size(), name.size() - prefix.size() - 4);
    if (owner.size() > 9 || owner.find_first_not_of("0123456789") != std::string::npos) continue;
    if (kill(std::stoi(owner), 0) == 0 || errno != ESRCH) continue;
    const int fd = ::open(entry->path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) continue;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) ::unlink(entry->path().c_str());
    ::close(fd);
  }
}

}  // namespace

Result<AtomicFile> AtomicFile::create(const std::string& path) {
  AtomicFile file;
  file.path_ = path;
  struct stat info {};
  if (stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) {
    file.fd_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);  // a device or a pipe: renaming would replace it
    if (file.fd_ < 0) return open_error(path, errno);
    return file;
  }
  remove_stale_temporaries(path);
  file.temporary_ = fmt::format("{}.{}.tmp", path, getpid());
  file.fd_ = ::open(file.temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file.fd_ < 0) {
    const int error_number = errno;
    file.temporary_.clear();
    return make_error(Code::kIo, "{}: cannot create: {}", path, errno_text(error_number));
  }
  (void)flock(file.fd_, LOCK_SH | LOCK_NB);  // where there are no locks, the pid alone protects the file
  file.buffer_.reserve(kBufferBytes);
  return file;
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      buffer_(std::move(other.buffer_)),
      fd_(std::exchange(other.fd_, -1)),
      written_bytes_(other.written_bytes_) {
  other.temporary_.clear();
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Status AtomicFile::flush() {
  size_t done = 0;
  while (done < buffer_.size()) {
    const ssize_t n = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return make_error(Code::kIo, "{}: cannot write after {} bytes: {}. The old file, if any, is untouched", path_,
                        written_bytes_ - (buffer_.size() - done), errno_text(errno));
    }
    done += static_cast<size_t>(n);
  }
  buffer_.clear();
  return {};
}

Status AtomicFile::write(std::span<const std::byte> bytes) {
  return write(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

Status AtomicFile::write(std::string_view text) {
  while (!text.empty()) {
    const size_t room = kBufferBytes - buffer_.size();
    const std::string_view part = text.substr(0, room);
    buffer_.append(part);
    written_bytes_ += part.size();
    text.remove_prefix(part.size());
    if (buffer_.size() == kBufferBytes) TRY(flush());
  }
  return {};
}

Status AtomicFile::pad_to(size_t alignment) {
  const size_t past = written_bytes_ & (alignment - 1);
  return past == 0 ? Status() : write(std::string(alignment - past, '\0'));
}

Status AtomicFile::commit() {
  TRY(flush());
  if (fsync(fd_) != 0 && !temporary_.empty())
    return make_error(Code::kIo, "{}: cannot sync: {}", path_, errno_text(errno));
  const int closed = ::close(std::exchange(fd_, -1));
  if (closed != 0) return make_error(Code::kIo, "{}: cannot close: {}", path_, errno_text(errno));
  if (!temporary_.empty() && rename(temporary_.c_str(), path_.c_str()) != 0)
    return make_error(Code::kIo, "{}: cannot rename {} to it: {}", path_, temporary_, errno_text(errno));
  temporary_.clear();
  return {};
}

Result<std::string> read_file(const std::string& path, uint64_t limit_bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return open_error(path, errno);
  std::string content;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int error_number = errno;
      ::close(fd);
      return make_error(Code::kIo, "{}: cannot read: {}", path, errno_text(error_number));
    }
    if (n == 0) break;
    if (content.size() + static_cast<size_t>(n) > limit_bytes) {
      ::close(fd);
      return make_error(Code::kExhausted, "{}: larger than the limit of {} bytes for this kind of file", path,
                        limit_bytes);
    }
    content.append(buffer, static_cast<size_t>(n));
  }
  ::close(fd);
  return content;
}

Status write_file(const std::string& path, std::string_view content) {
  TRY_ASSIGN(AtomicFile file, AtomicFile::create(path));
  TRY(file.write(content));
  return file.commit();
}

}  // namespace westlake
