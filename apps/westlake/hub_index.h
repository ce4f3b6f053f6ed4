// What a hub holds under a name, and which of it a model needs.
// Source: the Hugging Face hub's API: /api/models/{repo}/revision/{revision}?blobs=true gives the commit and "siblings"
// (rfilename, size, blobId, lfs.sha256); /tree/{revision}?recursive=true the same as a list of path, size, oid,
// lfs.oid.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "westlake/hub_digest.h"
#include "westlake/hub_http.h"

namespace westlake {

// "org/repo", "org/repo@revision", "org/repo:file.gguf", "org/repo@revision:Q4_K_M".
struct HubName {
  std::string repo;
  std::string revision = "main";
  std::string file;  // a path, or a part of a name that fits one GGUF; empty: what the repository is made of

  std::string text() const;
};

// True for names of this shape ('/' inside, not a path such as ./x or /x).
bool looks_like_hub_name(std::string_view name);
Result<HubName> parse_hub_name(std::string_view name);

struct HubFile {
  std::string path;
  int64_t bytes = -1;  // -1: the hub did not say
  Digest digest;
};

struct HubIndex {
  std::string commit;  // what the revision stood for when it was asked
  std::vector<HubFile> files;
};

// A hub and how patient to be with it.
struct Hub {
  std::string endpoint;  // without a slash at the end
  HttpClient client;
  int tries = 5;
  double wait_s = 0.5;

  Hub(const std::string& url, std::string token);
  std::string file_url(const HubName& name, const std::string& revision, const std::string& path) const;
};

// Asks the hub. Errors: kNotFound, kIo, kCorrupt; a file name that leads out of the folder is kCorrupt.
Result<HubIndex> read_hub_index(Hub& hub, const HubName& name);

// Asks for size and hash of a file where the index has none.
Status complete_hub_file(Hub& hub, const HubName& name, const std::string& revision, HubFile* file);

// The error for an answer that is neither success nor worth another try. `what` is the file or empty.
Error hub_error(const Hub& hub, const HubName& name, const std::string& what, const HttpAnswer& answer);

struct HubChoice {
  std::vector<HubFile> files;
  std::string open;  // the GGUF file to open; empty: the folder is the model
};

// A checkpoint of safetensors with its config and tokenizer, or one GGUF (with all the files it is split into).
// Errors: several GGUFs and none named (the message lists them), nothing that fits.
Result<HubChoice> choose_hub_files(const std::vector<HubFile>& files, const HubName& name);

// A path that stays inside the folder it is put in.
bool is_safe_path(std::string_view path);

}  // namespace westlake
