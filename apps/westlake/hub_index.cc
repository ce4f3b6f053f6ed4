#include "westlake/hub_index.h"

#include <algorithm>

#include "base/json.h"

namespace westlake {
namespace {

constexpr size_t kMaxPathBytes = 1024;
constexpr size_t kMaxSegmentBytes = 200;  // with ".<hash>.part" behind it still a file name

bool is_repo_segment(std::string_view text) {
  if (text.empty() || text.front() == '.' || text.front() == '-' || text.size() > kMaxSegmentBytes) return false;
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' ||
           c == '.';
  });
}

std::string json_text(const JsonObject& object, std::string_view key) {
  std::string_view text;
  if (object[key].get(text) != simdjson::SUCCESS) return "";
  return std::string(text);
}

int64_t json_size(const JsonObject& object) {
  int64_t bytes = -1;
  if (object["size"].get(bytes) != simdjson::SUCCESS || bytes < 0) return -1;
  return bytes;
}

// One entry of "siblings" or of a tree: the keys are named differently, the content is the same.
HubFile read_entry(const JsonObject& object, std::string_view path_key, std::string_view git_key,
                   std::string_view lfs_key) {
  HubFile file;
  file.path = json_text(object, path_key);
  file.bytes = json_size(object);
  JsonObject lfs;
  if (object["lfs"].get(lfs) == simdjson::SUCCESS) {
    file.digest = Digest::parse(json_text(lfs, lfs_key));
    if (file.bytes < 0) file.bytes = json_size(lfs);
  } else {
    file.digest = Digest::parse(json_text(object, git_key));
  }
  if (file.digest.kind == Digest::kGitSha1 && file.bytes < 0) file.digest = {};  // its hash begins with the size
  return file;
}

Status check_paths(const HubIndex& index, const HubName& name) {
  for (const HubFile& file : index.files) {
    if (is_safe_path(file.path)) continue;
    std::string shown;
    json_append_string(shown, file.path.substr(0, 120));
    return make_error(Code::kCorrupt,
                      "{}: the hub lists a file named {}, expected a path inside the model's folder. Nothing was "
                      "fetched. Hint: do not trust this repository",
                      name.text(), shown);
  }
  return {};
}

// GET with tries; what comes back is whole, whatever its status.
Result<HttpAnswer> ask(Hub& hub, const HttpGet& request, const std::string& what) {
  Retries retries(hub.tries, hub.wait_s);
  while (true) {
    TRY_ASSIGN(HttpAnswer answer, hub.client.get(request));
    if (!answer.transient() || !retries.again(answer, what)) return answer;
  }
}

Result<HubIndex> parse_siblings(const HttpAnswer& answer, const HubName& name) {
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(answer.body, name.text() + ": the hub's index"));
  JsonObject root;
  JsonArray siblings;
  if (document.root().get(root) != simdjson::SUCCESS || root["siblings"].get(siblings) != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: the hub's index has no list 'siblings'. Hint: is --endpoint a hub?",
                      name.text());
  }
  HubIndex index;
  index.commit = json_text(root, "sha");
  for (JsonElement element : siblings) {
    JsonObject entry;
    if (element.get(entry) == simdjson::SUCCESS) {
      index.files.push_back(read_entry(entry, "rfilename", "blobId", "sha256"));
    }
  }
  return index;
}

Status parse_tree(const HttpAnswer& answer, const HubName& name, HubIndex* index) {
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(answer.body, name.text() + ": the hub's tree"));
  JsonArray entries;
  if (document.root().get(entries) != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: the hub's tree is not a list. Hint: is --endpoint a hub?", name.text());
  }
  if (index->commit.empty()) index->commit = answer.header("x-repo-commit");
  for (JsonElement element : entries) {
    JsonObject entry;
    if (element.get(entry) != simdjson::SUCCESS || json_text(entry, "type") != "file") continue;
    index->files.push_back(read_entry(entry, "path", "oid", "oid"));
  }
  return {};
}

// The address in: Link: <https://hub/next>; rel="next"
std::string next_page(const HttpAnswer& answer) {
  const std::string link = answer.header("link");
  const size_t end = link.find(">; rel=\"next\"");
  if (end == link.npos) return "";
  const size_t begin = link.rfind('<', end);
  return begin == link.npos ? "" : link.substr(begin + 1, end - begin - 1);
}

}  // namespace

std::string HubName::text() const {
  std::string out = repo;
  if (revision != "main") out += "@" + revision;
  if (!file.empty()) out += ":" + file;
  return out;
}

bool looks_like_hub_name(std::string_view name) {
  return parse_hub_name(name).ok();
}

Result<HubName> parse_hub_name(std::string_view name) {
  HubName out;
  const std::string_view whole = name;
  if (const size_t colon = name.find(':'); colon != name.npos) {
    out.file = std::string(name.substr(colon + 1));
    name = name.substr(0, colon);
    if (out.file.empty() || !is_safe_path(out.file)) name = "";
  }
  if (const size_t at = name.find('@'); at != name.npos) {
    out.revision = std::string(name.substr(at + 1));
    name = name.substr(0, at);
    if (!is_safe_path(out.revision)) name = "";
  }
  const size_t slash = name.find('/');
  if (slash == name.npos || !is_repo_segment(name.substr(0, slash)) || !is_repo_segment(name.substr(slash + 1))) {
    return make_error(Code::kInvalidArgument,
                      "'{}' is no name of a model, expected a catalogue name, org/repo, org/repo@revision or "
                      "org/repo:file.gguf. Hint: `westlake pull --list` shows the catalogue",
                      whole);
  }
  out.repo = std::string(name);
  return out;
}

bool is_safe_path(std::string_view path) {
  if (path.empty() || path.size() > kMaxPathBytes) return false;
  for (char c : path) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '\\') return false;
  }
  while (true) {
    const size_t slash = path.find('/');
    const std::string_view segment = path.substr(0, slash);
    if (segment.empty() || segment == "." || segment == ".." || segment.size() > kMaxSegmentBytes) return false;
    if (slash == path.npos) return true;
    path.remove_prefix(slash + 1);
  }
}

Hub::Hub(const std::string& url, std::string token) : endpoint(url), client(url, std::move(token)) {
  while (endpoint.ends_with('/')) endpoint.pop_back();
}

std::string Hub::file_url(const HubName& name, const std::string& revision, const std::string& path) const {
  return fmt::format("{}/{}/resolve/{}/{}", endpoint, name.repo, url_escape(revision, false), url_escape(path, true));
}

Error hub_error(const Hub& hub, const HubName& name, const std::string& what, const HttpAnswer& answer) {
  const std::string place = what.empty() ? name.text() : fmt::format("{}: {}", name.text(), what);
  const std::string code = answer.header("x-error-code");
  const std::string said = answer.reason();
  if (code == "GatedRepo" || answer.status == 403) {
    return make_error(Code::kIo,
                      "{}: the hub does not give it to you: {}. Hint: accept the model's terms on the hub's page, "
                      "then set HF_TOKEN to a token of that account",
                      place, said);
  }
  if (answer.status == 401) {
    return make_error(Code::kNotFound,
                      "{}: the hub answers {}: there is no such repository, or it is private{}. Hint: check the "
                      "spelling; for a private one set HF_TOKEN to a token that may read it",
                      place, said, hub.client.has_token() ? " and HF_TOKEN may not read it" : "");
  }
  if (code == "RevisionNotFound") {
    return make_error(Code::kNotFound, "{}: the repository has no revision '{}': {}. Hint: leave out @{} for main",
                      place, name.revision, said, name.revision);
  }
  if (answer.status == 404) {
    return make_error(Code::kNotFound,
                      "{}: not on {}: {}. Hint: check the spelling; `westlake pull --list` shows "
                      "names that exist",
                      place, hub.endpoint, said);
  }
  if (answer.status == 429) {
    const std::string wait = answer.retry_after_s > 0 ? fmt::format(" in {:.0f} s", answer.retry_after_s) : " later";
    return make_error(Code::kIo,
                      "{}: the hub has had too many requests from here: {}. Hint: run the same command "
                      "again{}: it resumes",
                      place, said, wait);
  }
  return make_error(Code::kIo, "{}: no luck with {}: {}. Hint: run the same command again: it resumes", place,
                    hub.endpoint, said);
}

Result<HubIndex> read_hub_index(Hub& hub, const HubName& name) {
  const std::string base = fmt::format("{}/api/models/{}", hub.endpoint, name.repo);
  const std::string revision = url_escape(name.revision, false);
  TRY_ASSIGN(HttpAnswer answer,
             ask(hub, {.url = fmt::format("{}/revision/{}?blobs=true", base, revision)}, name.text()));
  HubIndex index;
  if (answer.success()) {
    TRY_ASSIGN(index, parse_siblings(answer, name));
  } else if (answer.status == 404 && answer.header("x-error-code").empty()) {
    // A mirror that serves trees only.
    std::string url = fmt::format("{}/tree/{}?recursive=true", base, revision);
    while (!url.empty()) {
      TRY_ASSIGN(HttpAnswer page, ask(hub, {.url = url}, name.text()));
      if (!page.success()) return hub_error(hub, name, "", index.files.empty() ? answer : page);
      TRY(parse_tree(page, name, &index));
      const std::string next = next_page(page);
      url = next.starts_with(hub.endpoint + "/") && next != url ? next : "";
    }
  } else {
    return hub_error(hub, name, "", answer);
  }
  TRY(check_paths(index, name));
  return index;
}

Status complete_hub_file(Hub& hub, const HubName& name, const std::string& revision, HubFile* file) {
  if (file->bytes >= 0 && file->digest.known()) return {};
  const HttpGet request{.url = hub.file_url(name, revision, file->path), .head_only = true};
  TRY_ASSIGN(const HttpAnswer answer, ask(hub, request, file->path));
  if (!answer.success()) return hub_error(hub, name, file->path, answer);
  const std::string linked = answer.header("x-linked-etag");
  const std::string size = answer.header(linked.empty() ? "content-length" : "x-linked-size");
  if (file->bytes < 0 && !size.empty() && size.size() < 16 && size.find_first_not_of("0123456789") == size.npos) {
    file->bytes = std::stoll(size);
  }
  if (!file->digest.known()) file->digest = Digest::parse(linked.empty() ? answer.header("etag") : linked);
  if (file->digest.kind == Digest::kGitSha1 && file->bytes < 0) file->digest = {};
  return {};
}

}  // namespace westlake
