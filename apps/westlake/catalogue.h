// Models by name: the catalogue that is built into the binary, and the cache folder in which pulled models lie.
//   <cache>/models/<catalogue name>/FILE          from a package
//   <cache>/models/<org>--<repo>[@revision]/...   from a hub; <org>--<repo>.json beside it lists what was pulled
// The cache is $WESTLAKE_CACHE, or $XDG_CACHE_HOME/westlake, or ~/.cache/westlake.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "westlake/hub_index.h"

namespace westlake {

struct CatalogueEntry {
  std::string name, description, licence;
  int64_t bytes = -1;           // -1: the hub says
  Digest digest;                // unknown: the hub says
  std::string file;             // in the model's folder; empty: the folder is the model
  std::string package, member;  // a package of the Python index and the file in it
  std::string hub, revision;    // or a repository of a hub
};

// The entries of models/catalogue.json, as it was when the binary was built.
const std::vector<CatalogueEntry>& catalogue();
// nullptr when there is none of that name.
const CatalogueEntry* find_in_catalogue(std::string_view name);

// Errors: kNotFound when the environment names no folder.
Result<std::string> cache_folder();

// Where the files of a hub's repository lie, and the list of what was pulled.
Result<std::string> hub_folder(const HubName& name);
std::string pulled_list_path(const std::string& folder);

// What pulls have brought into the folder; empty when nothing.
Result<std::vector<HubFile>> read_pulled_list(const std::string& folder);
Status write_pulled_list(const std::string& folder, const HubName& name, const std::string& commit,
                         const std::vector<HubFile>& files);

// The path to open for a catalogue name or org/repo[@revision][:file.gguf] that was pulled before.
// Errors: kNotFound, with the command that pulls it, or with the names there are.
Result<std::string> cached_model_path(const std::string& name);

}  // namespace westlake
