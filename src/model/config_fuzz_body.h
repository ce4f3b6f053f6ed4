// What the fuzz target of config.json does with its bytes, and what the replay in the tests does with the kept ones.
#pragma once

#include <string_view>

#include "base/check.h"
#include "model/config.h"
#include "model/weights.h"

namespace westlake {

// A config that is accepted survives its own text, and binding it to an empty file is an error, not a large allocation.
inline void fuzz_config(std::string_view text) {
  const auto config = ModelConfig::from_json(text, "config.json");
  if (!config.ok()) return;
  const std::string written = config->to_json();
  const auto again = ModelConfig::from_json(written, "again");
  CHECK(again.ok(), "{}: {}", again.error().message, written);
  CHECK(again->to_json() == written, "{}", written);
  CHECK(attention_scale(*config) > 0);
  TensorSource empty;
  empty.find = [](std::string_view) { return nullptr; };
  Weights weights;
  CHECK(!bind_weights(*config, empty, &weights).ok());
}

}  // namespace westlake
