// The sampler's options as flags of the command line, and by name as /set of the chat takes them.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "infer/sampler.h"
#include "model/checkpoint.h"

namespace westlake {

struct SamplingFlags {
  SamplerOptions options;
  std::optional<uint64_t> seed;  // none: another one every time
  std::vector<std::string> logit_bias;
  std::vector<std::pair<std::string, CLI::Option*>> declared;  // by name: which of them the user gave
  std::set<std::string> from_model;                            // settings that the model's makers chose
};

// Declares --temp, --top-p, --top-k, --min-p, --repeat-penalty, --repeat-window, --presence-penalty,
// --frequency-penalty, --logit-bias and --seed, with the values in `flags` as defaults.
void add_sampling_flags(CLI::App& command, SamplingFlags* flags);

// What the user did not give by a flag becomes what the model's makers say, where they say something.
void apply_sampling_defaults(SamplingFlags* flags, const SamplingDefaults& defaults);

// The flags as options: the biases read, the seed chosen. Errors: kInvalidArgument names the flag.
Result<SamplerOptions> sampler_options(const SamplingFlags& flags);

// Sets "temp", "top_p", "top_k", "min_p", "repeat_penalty", "repeat_window", "presence_penalty", "frequency_penalty" or
// "seed". Errors: kNotFound for another name, kInvalidArgument for a value that is not taken.
Status set_sampling(SamplingFlags* flags, std::string_view name, std::string_view value);

// Declares --speculate; `name` is one that speculation_by_name() takes, and its value the default.
void add_speculation_flag(CLI::App& command, std::string* name);

struct NamedSetting {
  std::string name, value;
  std::string origin;  // "the model's", or empty: a flag, /set, or this program's default
};
// All of them, as set_sampling takes them; a seed only when it is fixed.
std::vector<NamedSetting> sampling_settings(const SamplingFlags& flags);

}  // namespace westlake
