#include "westlake/hub_digest.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <vector>

#include "base/file.h"
#include "base/progress.h"

namespace westlake {
namespace {

constexpr size_t kBlockBytes = size_t{1} << 20;
constexpr uint64_t kShowFromBytes = uint64_t{1} << 30;  // below, checking takes less than a second or two

struct Closer {
  int fd;
  ~Closer() { ::close(fd); }
};

using HashContext = std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>;

HashContext start_hash(Digest::Kind kind, uint64_t bytes) {
  HashContext context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  CHECK(context != nullptr, "no memory for a hash");
  CHECK(EVP_DigestInit_ex(context.get(), kind == Digest::kSha256 ? EVP_sha256() : EVP_sha1(), nullptr) == 1);
  if (kind == Digest::kGitSha1) {
    const std::string head = fmt::format("blob {}", bytes);
    CHECK(EVP_DigestUpdate(context.get(), head.c_str(), head.size() + 1) == 1);  // with the zero byte
  }
  return context;
}

std::string finish_hash(EVP_MD_CTX* context) {
  unsigned char raw[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  CHECK(EVP_DigestFinal_ex(context, raw, &size) == 1);
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) hex += fmt::format("{:02x}", raw[i]);
  return hex;
}

}  // namespace

Digest Digest::parse(std::string_view text) {
  if (text.starts_with("W/")) text.remove_prefix(2);
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') text = text.substr(1, text.size() - 2);
  Digest digest;
  if (text.size() != 64 && text.size() != 40) return digest;
  std::string hex;
  for (char c : text) {
    if (c >= 'A' && c <= 'F') c = static_cast<char>(c - 'A' + 'a');
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return digest;
    hex += c;
  }
  digest.kind = hex.size() == 64 ? kSha256 : kGitSha1;
  digest.hex = std::move(hex);
  return digest;
}

std::string_view Digest::kind_name() const {
  switch (kind) {
    case kSha256:
      return "sha256";
    case kGitSha1:
      return "git sha1";
    case kNone:
      break;
  }
  return "no hash";
}

Result<Digest> digest_of_file(const std::string& path, Digest::Kind kind, const std::string& label) {
  CHECK(kind != Digest::kNone);
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return make_error(Code::kIo, "{}: cannot open: {}", path, errno_text(errno));
  const Closer closer{fd};
  struct stat info {};
  if (fstat(fd, &info) != 0) return make_error(Code::kIo, "{}: cannot read: {}", path, errno_text(errno));
  const uint64_t total = static_cast<uint64_t>(info.st_size);
  const HashContext context = start_hash(kind, total);
  std::unique_ptr<Progress> progress;
  if (total >= kShowFromBytes) progress = std::make_unique<Progress>("checking " + label, total, "bytes");
  std::vector<char> block(kBlockBytes);
  uint64_t done = 0;
  while (true) {
    const ssize_t n = ::read(fd, block.data(), block.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return make_error(Code::kIo, "{}: cannot read at byte {}: {}", path, done, errno_text(errno));
    if (n == 0) break;
    CHECK(EVP_DigestUpdate(context.get(), block.data(), static_cast<size_t>(n)) == 1);
    done += static_cast<uint64_t>(n);
    if (progress) progress->update(done);
  }
  return Digest{kind, finish_hash(context.get())};
}

Result<bool> file_matches(const std::string& path, int64_t bytes, const Digest& expected, const std::string& label) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return false;
  if (bytes >= 0 && info.st_size != bytes) return false;
  if (!expected.known()) return true;
  TRY_ASSIGN(const Digest seen, digest_of_file(path, expected.kind, label));
  return seen.hex == expected.hex;
}

}  // namespace westlake
