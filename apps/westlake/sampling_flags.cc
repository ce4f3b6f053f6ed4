#include "westlake/sampling_flags.h"

#include <algorithm>
#include <charconv>
#include <random>

namespace westlake {
namespace {

struct DoubleSetting {
  const char* name;  // of /set; the flag has - for _
  double SamplerOptions::*field;
  const char* help;
};
constexpr DoubleSetting kDoubles[] = {
    {"temp", &SamplerOptions::temperature, "temperature; 0 takes the most probable token"},
    {"top_p", &SamplerOptions::top_p, "of the fewest tokens with this mass; 1 is all"},
    {"min_p", &SamplerOptions::min_p, "of tokens at least so probable, relative to the best; 0 is all"},
    {"repeat_penalty", &SamplerOptions::repetition_penalty, "divides logits of tokens seen before; 1 is none"},
    {"presence_penalty", &SamplerOptions::presence_penalty, "taken off tokens that are in the answer"},
    {"frequency_penalty", &SamplerOptions::frequency_penalty, "taken off for each time a token is in the answer"},
};
struct IntSetting {
  const char* name;
  int64_t SamplerOptions::*field;
  const char* help;
};
constexpr IntSetting kInts[] = {
    {"top_k", &SamplerOptions::top_k, "of the k most probable tokens; 0 is all"},
    {"repeat_window", &SamplerOptions::repeat_window, "tokens that --repeat-penalty looks back on; 0 is all"},
};

std::string flag_name(std::string name) {
  for (char& c : name) c = c == '_' ? '-' : c;
  return "--" + name;
}

template <typename T>
bool read_number(std::string_view text, T* out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

template <typename T>
Status set_number(std::string_view name, std::string_view text, T* out) {
  if (read_number(text, out)) return {};
  return make_error(Code::kInvalidArgument, "{} is '{}', expected a number", name, text);
}

// "id=value"
Result<std::pair<int32_t, float>> read_bias(std::string_view text) {
  std::pair<int32_t, float> bias;
  const size_t at = text.find('=');
  if (at == std::string_view::npos || !read_number(text.substr(0, at), &bias.first) ||
      !read_number(text.substr(at + 1), &bias.second))
    return make_error(Code::kInvalidArgument, "--logit-bias is '{}', expected id=value, as in 42=-100", text);
  return bias;
}

}  // namespace

void add_sampling_flags(CLI::App& command, SamplingFlags* flags) {
  for (const DoubleSetting& s : kDoubles)
    flags->declared.emplace_back(
        s.name, command.add_option(flag_name(s.name), flags->options.*s.field, s.help)->capture_default_str());
  for (const IntSetting& s : kInts)
    flags->declared.emplace_back(
        s.name, command.add_option(flag_name(s.name), flags->options.*s.field, s.help)->capture_default_str());
  command.add_option("--logit-bias", flags->logit_bias, "id=value, added to the logit of a token; may be repeated");
  command.add_option("--seed", flags->seed, "the same seed gives the same text (default: another one every time)");
}

void apply_sampling_defaults(SamplingFlags* flags, const SamplingDefaults& defaults) {
  const auto apply = [&](const char* name, const auto& value, auto* field) {
    const auto given = [&](const auto& entry) { return entry.first == name && entry.second->count() > 0; };
    if (!value || std::any_of(flags->declared.begin(), flags->declared.end(), given)) return;
    *field = *value;
    flags->from_model.insert(name);
  };
  SamplerOptions& o = flags->options;
  apply("temp", defaults.temperature, &o.temperature);
  apply("top_p", defaults.top_p, &o.top_p);
  apply("min_p", defaults.min_p, &o.min_p);
  apply("repeat_penalty", defaults.repetition_penalty, &o.repetition_penalty);
  apply("top_k", defaults.top_k, &o.top_k);
}

Result<SamplerOptions> sampler_options(const SamplingFlags& flags) {
  SamplerOptions options = flags.options;
  for (const std::string& text : flags.logit_bias) {
    TRY_ASSIGN(const auto bias, read_bias(text));
    options.logit_bias.push_back(bias);
  }
  // 32 bits: short enough to be typed again.
  options.seed = flags.seed ? *flags.seed : std::random_device{}();
  return options;
}

void add_speculation_flag(CLI::App& command, std::string* name) {
  command
      .add_option(
          "--speculate", *name,
          "guesses tokens and checks several at once, where that is faster; the text stays the same: off, lookup "
          "(from the text so far), mtp (by the model's own layer), auto")
      ->capture_default_str()
      ->check(CLI::IsMember({"off", "lookup", "mtp", "auto"}));
}

Status set_sampling(SamplingFlags* flags, std::string_view name, std::string_view value) {
  SamplingFlags changed = *flags;
  bool known = false;
  for (const DoubleSetting& s : kDoubles) {
    if (name != s.name) continue;
    TRY(set_number(name, value, &(changed.options.*s.field)));
    known = true;
  }
  for (const IntSetting& s : kInts) {
    if (name != s.name) continue;
    TRY(set_number(name, value, &(changed.options.*s.field)));
    known = true;
  }
  if (name == "seed") {
    uint64_t seed = 0;
    if (value == "random") {
      changed.seed.reset();
    } else {
      TRY(set_number(name, value, &seed));
      changed.seed = seed;
    }
    known = true;
  }
  if (!known) return make_error(Code::kNotFound, "no setting is called '{}'", name);
  TRY(Sampler::create(changed.options, INT32_MAX));
  changed.from_model.erase(std::string(name));
  *flags = changed;
  return {};
}

std::vector<NamedSetting> sampling_settings(const SamplingFlags& flags) {
  std::vector<NamedSetting> settings;
  const auto put = [&](const char* name, const auto& value) {
    settings.push_back({name, fmt::format("{}", value), flags.from_model.contains(name) ? "the model's" : ""});
  };
  for (const DoubleSetting& s : kDoubles) put(s.name, flags.options.*s.field);
  for (const IntSetting& s : kInts) put(s.name, flags.options.*s.field);
  settings.push_back({"seed", flags.seed ? fmt::format("{}", *flags.seed) : "random", ""});
  return settings;
}

}  // namespace westlake
