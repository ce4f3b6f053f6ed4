#include "westlake/hub_download.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <filesystem>
#include <memory>
#include <optional>

#include "base/file.h"
#include "base/progress.h"

namespace westlake {
namespace {

constexpr uint64_t kProgressBytes = uint64_t{1} << 20;  // a try that brought so much was worth it
constexpr uint64_t kSpareBytes = uint64_t{16} << 20;    // what a download leaves free on the disk

std::string part_path(const HubFile& file, const std::string& target) {
  return file.digest.known() ? fmt::format("{}.{}.part", target, file.digest.hex.substr(0, 12)) : target + ".part";
}

uint64_t size_of(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 ? static_cast<uint64_t>(info.st_size) : 0;
}

// "bytes 100-199/200" -> where it begins and how long the whole is ("*": not said).
struct ContentRange {
  uint64_t begin = 0;
  std::optional<uint64_t> total;
};
std::optional<ContentRange> parse_content_range(std::string_view text) {
  if (!text.starts_with("bytes ")) return std::nullopt;
  text.remove_prefix(6);
  const size_t slash = text.find('/');
  ContentRange range;
  if (slash == text.npos) return std::nullopt;
  if (std::from_chars(text.data(), text.data() + slash, range.begin).ec != std::errc()) return std::nullopt;
  uint64_t total = 0;
  if (std::from_chars(text.data() + slash + 1, text.data() + text.size(), total).ec == std::errc()) range.total = total;
  return range;
}

class Download {
 public:
  Download(Hub& hub, const HubName& name, const std::string& commit, const HubFile& file, const std::string& target)
      : hub_(hub), name_(name), file_(file), target_(target), part_(part_path(file, target)) {
    if (!commit.empty()) revisions_.push_back(commit);
    if (commit != name.revision) revisions_.push_back(name.revision);
  }
  ~Download() {
    if (fd_ >= 0) ::close(fd_);
  }

  Result<Fetched> run();

 private:
  bool sized() const { return file_.bytes >= 0; }
  uint64_t size() const { return static_cast<uint64_t>(file_.bytes); }
  bool complete() const { return sized() && have_ == size(); }

  Status open_part();
  Status truncate();
  Status fetch();
  Result<HttpAnswer> one_try();
  Status begin(const HttpAnswer& head);
  Status take(std::string_view piece);
  Error give_up(const HttpAnswer& answer, int tries) const;
  Error size_error(uint64_t seen) const;

  Hub& hub_;
  const HubName& name_;
  const HubFile& file_;
  const std::string target_, part_;
  std::vector<std::string> revisions_;  // the commit first: it cannot change under us
  int fd_ = -1;
  uint64_t have_ = 0, received_ = 0;
  bool begun_ = false;  // this try's answer has been looked at
  std::string etag_;    // of the answer that the part came with, in this process
  std::unique_ptr<Progress> progress_;
};

Status Download::open_part() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = ::open(part_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) return make_error(Code::kIo, "{}: cannot create: {}", part_, errno_text(errno));
  have_ = size_of(part_);
  // Without a hash nobody knows what the part is a part of.
  if (have_ > 0 && (!file_.digest.known() || (sized() && have_ > size()))) return truncate();
  if (::lseek(fd_, 0, SEEK_END) < 0) return make_error(Code::kIo, "{}: cannot seek: {}", part_, errno_text(errno));
  return {};
}

Status Download::truncate() {
  if (::ftruncate(fd_, 0) != 0 || ::lseek(fd_, 0, SEEK_SET) < 0) {
    return make_error(Code::kIo, "{}: cannot empty: {}", part_, errno_text(errno));
  }
  have_ = 0;
  return {};
}

Error Download::size_error(uint64_t seen) const {
  return make_error(Code::kCorrupt,
                    "{}: the hub sends {} bytes, expected {}. Hint: the repository may be changing; "
                    "run the same command again",
                    file_.path, seen, file_.bytes);
}

// Looks at an answer before its first byte is written.
Status Download::begin(const HttpAnswer& head) {
  if (begun_) return {};
  begun_ = true;
  const Digest linked = Digest::parse(head.header("x-linked-etag"));
  if (linked.kind == Digest::kSha256 && file_.digest.kind == Digest::kSha256 && linked.hex != file_.digest.hex) {
    return make_error(Code::kCorrupt,
                      "{}: the hub has a file of sha256 {}, expected {}. Hint: it was replaced there; "
                      "run the same command again",
                      file_.path, linked.hex, file_.digest.hex);
  }
  etag_ = head.header("etag");
  if (etag_.starts_with("W/")) etag_.clear();  // a weak one does not promise the same bytes
  if (head.status == 200) {
    return have_ > 0 ? truncate() : Status();  // the server knows no ranges, or has another file now: all anew
  }
  const std::optional<ContentRange> range = parse_content_range(head.header("content-range"));
  if (!range || range->begin != have_) {
    return make_error(Code::kCorrupt, "{}: the server answers with range '{}', asked for bytes from {} on", file_.path,
                      head.header("content-range"), have_);
  }
  if (sized() && range->total && *range->total != size()) return size_error(*range->total);
  return {};
}

Status Download::take(std::string_view piece) {
  if (sized() && have_ + piece.size() > size()) return size_error(have_ + piece.size());
  while (!piece.empty()) {
    const ssize_t n = ::write(fd_, piece.data(), piece.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      return make_error(Code::kIo,
                        "{}: cannot write after {}: {}. Hint: what came so far is kept; make room, then run "
                        "the same command again: it resumes",
                        part_, human_bytes(have_), n < 0 ? errno_text(errno) : "nothing was taken");
    }
    piece.remove_prefix(static_cast<size_t>(n));
    have_ += static_cast<uint64_t>(n);
    received_ += static_cast<uint64_t>(n);
  }
  if (progress_) progress_->update(have_);
  return {};
}

Result<HttpAnswer> Download::one_try() {
  begun_ = false;
  progress_ = std::make_unique<Progress>(file_.path, sized() ? size() : 0, "bytes", have_);
  HttpGet request{.url = hub_.file_url(name_, revisions_.front(), file_.path), .from_byte = have_, .if_range = etag_};
  request.sink = [this](const HttpAnswer& head, std::string_view piece) -> Status {
    TRY(begin(head));
    return take(piece);
  };
  Result<HttpAnswer> answer = hub_.client.get(request);
  progress_.reset();
  if (answer.ok() && answer->success()) TRY(begin(*answer));  // an empty file has no first byte
  return answer;
}

Error Download::give_up(const HttpAnswer& answer, int tries) const {
  if (answer.broken.empty()) return hub_error(hub_, name_, file_.path, answer);
  return make_error(Code::kIo, "{}: {}: cut at {}{}, {} tries: {}. Hint: run the same command again: it resumes",
                    name_.text(), file_.path, human_bytes(have_), sized() ? " of " + human_bytes(size()) : "", tries,
                    answer.reason());
}

Status Download::fetch() {
  Retries retries(hub_.tries, hub_.wait_s);
  uint64_t best = have_;
  while (!complete()) {
    TRY_ASSIGN(HttpAnswer answer, one_try());
    if (answer.success() && (!sized() || complete())) return {};
    if (answer.success()) answer.broken = "the server stopped early";
    if (answer.status == 404 && revisions_.size() > 1) {  // a mirror that knows branches and no commits
      revisions_.erase(revisions_.begin());
      continue;
    }
    if (answer.status == 416 && have_ > 0) {  // no such range: the file there is another one
      TRY(truncate());
      etag_.clear();
      continue;
    }
    if (have_ >= best + kProgressBytes) {
      retries.progressed();
      best = have_;
    }
    if (!answer.transient()) return hub_error(hub_, name_, file_.path, answer);
    if (!retries.again(answer, fmt::format("{} at {}", file_.path, human_bytes(have_)))) {
      return give_up(answer, retries.used());
    }
  }
  return {};
}

Result<Fetched> Download::run() {
  TRY_ASSIGN(const bool right, file_matches(target_, file_.bytes, file_.digest, file_.path));
  // Without a hash only the hub's own file is known to be right.
  if (right && file_.digest.known()) return Fetched{.was_there = true};
  TRY(open_part());
  bool resumed = have_ > 0;
  while (true) {
    if (Status status = fetch(); !status.ok()) {
      if (status.error().code == Code::kCorrupt) ::unlink(part_.c_str());
      return status.error();
    }
    if (!file_.digest.known()) break;
    TRY_ASSIGN(const Digest seen, digest_of_file(part_, file_.digest.kind, file_.path));
    if (seen.hex == file_.digest.hex) break;
    TRY(truncate());
    etag_.clear();
    if (resumed) {  // the old part may be what is wrong: once more from the start
      resumed = false;
      continue;
    }
    ::unlink(part_.c_str());
    return make_error(Code::kCorrupt,
                      "{}: {}: wrong {}: seen {}, expected {}. The file was removed. Hint: run the "
                      "same command again; if it stays so, the hub's copy is damaged",
                      name_.text(), file_.path, seen.kind_name(), seen.hex, file_.digest.hex);
  }
  TRY(sync_and_rename(part_, target_));
  return Fetched{.received_bytes = received_};
}

// Parts of other versions of the file are of no use any more.
void remove_old_parts(const std::string& target) {
  std::error_code ignored;
  const std::filesystem::path path(target);
  const std::string begin = path.filename().string() + ".";
  for (const auto& entry : std::filesystem::directory_iterator(path.parent_path(), ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(begin) && name.ends_with(".part") && name.size() <= begin.size() + 12 + 5) {
      std::filesystem::remove(entry.path(), ignored);
    }
  }
}

}  // namespace

Result<Fetched> download_file(Hub& hub, const HubName& name, const std::string& commit, const HubFile& file,
                              const std::string& target) {
  TRY(make_folders(std::filesystem::path(target).parent_path().string()));
  Download download(hub, name, commit, file, target);
  TRY_ASSIGN(const Fetched fetched, download.run());
  remove_old_parts(target);
  return fetched;
}

uint64_t missing_bytes(const HubFile& file, const std::string& target) {
  if (file.bytes < 0) return 0;
  const uint64_t bytes = static_cast<uint64_t>(file.bytes);
  if (is_file(target) && size_of(target) == bytes) return 0;
  const uint64_t have = size_of(part_path(file, target));
  return have < bytes ? bytes - have : 0;
}

Status make_folders(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return make_error(Code::kIo, "{}: cannot create the folder: {}", path, error.message());
  return {};
}

Status check_free_space(const std::string& folder, uint64_t bytes) {
  struct statvfs info {};
  if (bytes == 0 || statvfs(folder.c_str(), &info) != 0) return {};
  const uint64_t free_bytes = static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
  if (free_bytes >= bytes + std::min(kSpareBytes, bytes / 8)) return {};
  return make_error(Code::kIo,
                    "{}: {} are needed, the disk has {} free. Hint: make room, or set WESTLAKE_CACHE to a "
                    "folder on another disk",
                    folder, human_bytes(bytes), human_bytes(free_bytes));
}

Status sync_and_rename(const std::string& from, const std::string& to) {
  const int fd = ::open(from.c_str(), O_RDONLY | O_CLOEXEC);
  const bool synced = fd >= 0 && ::fsync(fd) == 0;
  const int error_number = errno;
  if (fd >= 0) ::close(fd);
  if (!synced) return make_error(Code::kIo, "{}: cannot be written to the disk: {}", from, errno_text(error_number));
  if (::rename(from.c_str(), to.c_str()) != 0) {
    return make_error(Code::kIo, "{}: cannot be named so: {}", to, errno_text(errno));
  }
  const std::string parent = std::filesystem::path(to).parent_path().string();
  if (const int folder = ::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); folder >= 0) {
    ::fsync(folder);
    ::close(folder);
  }
  return {};
}

Result<FolderLock> FolderLock::take(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return make_error(Code::kIo, "{}: cannot create: {}", path, errno_text(errno));
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int error_number = errno;
    ::close(fd);
    if (error_number == EWOULDBLOCK) {
      return make_error(Code::kIo, "another `westlake pull` is fetching this model ({} is locked). Hint: wait for it",
                        path);
    }
    return make_error(Code::kIo, "{}: cannot lock: {}", path, errno_text(error_number));
  }
  return FolderLock(fd);
}

FolderLock::FolderLock(FolderLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

FolderLock::~FolderLock() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace westlake
