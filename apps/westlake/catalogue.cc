#include "westlake/catalogue.h"

#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "base/json.h"

namespace westlake {

// models/catalogue.json, written into the build folder by CMake.
extern const char kCatalogueJson[];

namespace {

std::string text_of(const JsonObject& object, std::string_view key) {
  std::string_view text;
  return object[key].get(text) == simdjson::SUCCESS ? std::string(text) : "";
}

int64_t bytes_of(const JsonObject& object) {
  int64_t bytes = -1;
  return object["bytes"].get(bytes) == simdjson::SUCCESS && bytes >= 0 ? bytes : -1;
}

CatalogueEntry read_entry(const JsonObject& object) {
  CatalogueEntry entry;
  entry.name = text_of(object, "name");
  entry.description = text_of(object, "description");
  entry.licence = text_of(object, "licence");
  entry.bytes = bytes_of(object);
  entry.digest = Digest::parse(text_of(object, "sha256"));
  entry.file = text_of(object, "file");
  JsonObject source;
  CHECK(object["source"].get(source) == simdjson::SUCCESS, "catalogue: '{}' has no source", entry.name);
  entry.package = text_of(source, "pypi");
  entry.member = text_of(source, "member");
  entry.hub = text_of(source, "hub");
  entry.revision = text_of(source, "revision");
  if (entry.revision.empty()) entry.revision = "main";
  CHECK(!entry.name.empty() && entry.name.find('/') == entry.name.npos, "catalogue: bad name '{}'", entry.name);
  CHECK(entry.package.empty() != entry.hub.empty(), "catalogue: '{}' needs one source", entry.name);
  CHECK(entry.package.empty() || (entry.bytes > 0 && entry.digest.known() && is_safe_path(entry.file)),
        "catalogue: '{}' needs file, bytes and sha256", entry.name);
  return entry;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

int64_t size_on_disk(const std::string& path) {
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);
  return error ? -1 : static_cast<int64_t>(bytes);
}

Error not_pulled(const std::string& name) {
  return make_error(Code::kNotFound, "'{}' is not here yet. Hint: `westlake pull {}` fetches it", name, name);
}

Error unknown_name(const std::string& name) {
  std::string names;
  for (const CatalogueEntry& entry : catalogue()) names += (names.empty() ? "" : ", ") + entry.name;
  return make_error(Code::kNotFound,
                    "'{}': no such file or folder, and no such model, expected a Hugging Face folder, a .gguf file, "
                    "org/repo of a hub or a name of the catalogue: {}",
                    name, names);
}

Result<std::string> cached_hub_path(const std::string& shown, const HubName& name) {
  TRY_ASSIGN(const std::string folder, hub_folder(name));
  TRY_ASSIGN(const std::vector<HubFile> files, read_pulled_list(folder));
  if (files.empty()) return not_pulled(shown);
  Result<HubChoice> choice = choose_hub_files(files, name);
  if (!choice.ok()) {
    if (choice.error().code == Code::kInvalidArgument) return choice.error();  // several: they are listed
    return not_pulled(shown);
  }
  for (const HubFile& file : choice->files) {
    if (size_on_disk(folder + "/" + file.path) != file.bytes) return not_pulled(shown);
  }
  return choice->open.empty() ? folder : folder + "/" + choice->open;
}

}  // namespace

const std::vector<CatalogueEntry>& catalogue() {
  static const std::vector<CatalogueEntry> entries = [] {
    std::vector<CatalogueEntry> out;
    const Result<JsonDocument> document = JsonDocument::parse(kCatalogueJson, "catalogue");
    CHECK(document.ok(), "{}", document.error().message);
    JsonObject root;
    JsonArray models;
    CHECK(document->root().get(root) == simdjson::SUCCESS && root["models"].get(models) == simdjson::SUCCESS,
          "catalogue: no list 'models'");
    for (JsonElement element : models) {
      JsonObject object;
      CHECK(element.get(object) == simdjson::SUCCESS, "catalogue: an entry is no object");
      out.push_back(read_entry(object));
    }
    return out;
  }();
  return entries;
}

const CatalogueEntry* find_in_catalogue(std::string_view name) {
  for (const CatalogueEntry& entry : catalogue()) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

Result<std::string> cache_folder() {
  if (const std::string own = environment("WESTLAKE_CACHE"); !own.empty()) return own;
  if (const std::string xdg = environment("XDG_CACHE_HOME"); xdg.starts_with('/')) return xdg + "/westlake";
  if (const std::string home = environment("HOME"); !home.empty()) return home + "/.cache/westlake";
  return make_error(Code::kNotFound,
                    "no folder for the cache: neither WESTLAKE_CACHE nor HOME is set. Hint: set "
                    "WESTLAKE_CACHE to a folder");
}

Result<std::string> hub_folder(const HubName& name) {
  TRY_ASSIGN(const std::string cache, cache_folder());
  std::string folder = name.repo;
  if (name.revision != "main") folder += "@" + name.revision;
  for (size_t at = folder.find('/'); at != folder.npos; at = folder.find('/', at)) folder.replace(at, 1, "--");
  return fmt::format("{}/models/{}", cache, folder);
}

std::string pulled_list_path(const std::string& folder) {
  return folder + ".json";
}

Result<std::vector<HubFile>> read_pulled_list(const std::string& folder) {
  const std::string path = pulled_list_path(folder);
  std::vector<HubFile> files;
  if (!is_file(path)) return files;
  TRY_ASSIGN(const std::string text, read_file(path));
  TRY_ASSIGN(const JsonDocument document, JsonDocument::parse(text, path));
  JsonArray list;
  if (document.root()["files"].get(list) != simdjson::SUCCESS) {
    return make_error(Code::kCorrupt, "{}: no list 'files'. Hint: remove it and pull again", path);
  }
  for (JsonElement element : list) {
    JsonObject object;
    if (element.get(object) != simdjson::SUCCESS) continue;
    HubFile file{text_of(object, "path"), bytes_of(object), Digest::parse(text_of(object, "digest"))};
    if (is_safe_path(file.path)) files.push_back(std::move(file));
  }
  return files;
}

Status write_pulled_list(const std::string& folder, const HubName& name, const std::string& commit,
                         const std::vector<HubFile>& files) {
  JsonWriter json;
  json.begin_object().key("repo").value(name.repo).key("revision").value(name.revision).key("commit").value(commit);
  json.key("files").begin_array();
  for (const HubFile& file : files) {
    const int64_t bytes = file.bytes >= 0 ? file.bytes : size_on_disk(folder + "/" + file.path);
    json.begin_object().key("path").value(file.path).key("bytes").value(bytes);
    json.key("digest").value(file.digest.hex).end_object();
  }
  json.end_array().end_object();
  return write_file(pulled_list_path(folder), json.text() + "\n");
}

Result<std::string> cached_model_path(const std::string& name) {
  if (const CatalogueEntry* entry = find_in_catalogue(name)) {
    if (!entry->hub.empty()) return cached_hub_path(name, {entry->hub, entry->revision, entry->file});
    TRY_ASSIGN(const std::string cache, cache_folder());
    const std::string path = fmt::format("{}/models/{}/{}", cache, entry->name, entry->file);
    if (size_on_disk(path) != entry->bytes) return not_pulled(name);
    return path;
  }
  const Result<HubName> hub_name = parse_hub_name(name);
  if (!hub_name.ok()) return unknown_name(name);
  return cached_hub_path(name, *hub_name);
}

}  // namespace westlake
