// Which files of a repository make the model: see choose_hub_files in hub_index.h.
#include <algorithm>
#include <map>

#include "base/progress.h"
#include "westlake/hub_index.h"

namespace westlake {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

std::string_view base_name(std::string_view path) {
  return path.substr(path.rfind('/') + 1);
}

bool is_digits(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// model-00002-of-00005.gguf -> "model", of 5; any other name is a set of one.
struct Split {
  std::string set;
  size_t of = 1;
};
Split split_of(const std::string& path) {
  constexpr size_t kTail = std::string_view("-00001-of-00005.gguf").size();
  if (path.size() > kTail) {
    const std::string_view tail = std::string_view(path).substr(path.size() - kTail);
    if (tail[0] == '-' && is_digits(tail.substr(1, 5)) && tail.substr(6, 4) == "-of-" &&
        is_digits(tail.substr(10, 5))) {
      return {path.substr(0, path.size() - kTail), static_cast<size_t>(std::stoul(std::string(tail.substr(10, 5))))};
    }
  }
  return {path, 1};
}

bool is_checkpoint_file(const std::string& path) {
  if (path.find('/') != path.npos) return false;  // original/, onnx/ and the like hold the same in other forms
  if (path.ends_with(".safetensors")) return !path.starts_with("consolidated");
  if (path.ends_with(".safetensors.index.json")) return true;
  if (path == "config.json" || path == "generation_config.json" || path == "special_tokens_map.json") return true;
  if (path.starts_with("tokenizer") && path.ends_with(".json")) return true;
  return path.starts_with("chat_template") || path.starts_with("LICENSE") || path == "README.md";
}

using GgufSets = std::map<std::string, std::vector<HubFile>>;

std::string list_sets(const GgufSets& sets) {
  std::string out;
  for (const auto& [set, files] : sets) {
    int64_t bytes = 0;
    for (const HubFile& file : files) bytes = file.bytes < 0 || bytes < 0 ? -1 : bytes + file.bytes;
    out += fmt::format("\n  {}", files.front().path);
    if (bytes >= 0) out += fmt::format("  {}", human_bytes(static_cast<uint64_t>(bytes)));
    if (files.size() > 1) out += fmt::format(" in {} files", files.size());
  }
  return out;
}

Result<HubChoice> choose_set(const GgufSets& sets, const HubName& name, const GgufSets& all) {
  if (sets.empty()) {
    return make_error(Code::kNotFound, "{}: no GGUF file there fits '{}'. There are:{}", name.repo, name.file,
                      list_sets(all));
  }
  if (sets.size() > 1) {
    return make_error(Code::kInvalidArgument,
                      "{}: {} GGUF files, expected the name of one. Hint: `westlake pull {}:FILE` with one of{}",
                      name.text(), sets.size(), name.repo, list_sets(sets));
  }
  const std::vector<HubFile>& files = sets.begin()->second;
  const size_t expected = split_of(files.front().path).of;
  if (files.size() != expected) {
    return make_error(Code::kCorrupt,
                      "{}: {} is split into {} files, the hub has {}. Hint: the repository is not "
                      "complete",
                      name.text(), files.front().path, expected, files.size());
  }
  return HubChoice{files, files.front().path};
}

}  // namespace

Result<HubChoice> choose_hub_files(const std::vector<HubFile>& files, const HubName& name) {
  GgufSets all, fitting;
  HubChoice checkpoint;
  bool has_weights = false, has_config = false;
  for (const HubFile& file : files) {
    if (file.path.ends_with(".gguf")) {
      const std::string set = split_of(file.path).set;
      all[set].push_back(file);
      const bool exact = file.path == name.file || set == split_of(name.file).set;
      const bool part = lower(base_name(file.path)).find(lower(name.file)) != std::string::npos;
      // The projector of a picture encoder is no language model: only when it is named.
      if (exact || (name.file.empty() ? !base_name(file.path).starts_with("mmproj") : part)) {
        fitting[set].push_back(file);
      }
    } else if (is_checkpoint_file(file.path)) {
      has_weights |= file.path.ends_with(".safetensors");
      has_config |= file.path == "config.json";
      checkpoint.files.push_back(file);
    }
  }
  for (GgufSets* sets : {&all, &fitting}) {
    for (auto& [set, members] : *sets) {
      std::sort(members.begin(), members.end(), [](const HubFile& a, const HubFile& b) { return a.path < b.path; });
    }
  }
  if (!name.file.empty()) {
    // The exact name wins over names that contain it.
    if (const auto exact = fitting.find(split_of(name.file).set); exact != fitting.end()) {
      return choose_set({*exact}, name, all);
    }
    return choose_set(fitting, name, all);
  }
  if (has_weights && has_config) return checkpoint;
  if (!fitting.empty()) return choose_set(fitting, name, all);
  return make_error(Code::kUnsupported,
                    "{}: {}, expected config.json with *.safetensors, or a *.gguf. Hint: repositories with PyTorch "
                    "pickles alone are not read; look for a converted one",
                    name.text(), has_weights ? "safetensors without config.json" : "no weights this program reads");
}

}  // namespace westlake
