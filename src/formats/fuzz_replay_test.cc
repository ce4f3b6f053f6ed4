// Replays tests/golden/fuzz/<target>/: the seeds of the fuzz targets and what they once found.
#include <filesystem>
#include <functional>

#include "formats/fuzz_bodies.h"
#include "formats/test_support.h"

namespace westlake {
namespace {

struct Target {
  const char* name;
  std::function<void(std::span<const std::byte>)> run;
};

class FuzzReplay : public testing::TestWithParam<Target> {};

TEST_P(FuzzReplay, NoCrash) {
  const std::filesystem::path folder =
      std::filesystem::path(WESTLAKE_SOURCE_DIR "/tests/golden/fuzz") / GetParam().name;
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string input = read_whole(entry.path());
    // A heap block of exactly that size, so that a sanitizer sees a read behind its end.
    const std::vector<char> exact(input.begin(), input.end());
    GetParam().run(std::as_bytes(std::span(exact)));
    ++files;
  }
  EXPECT_GT(files, 0);
}

INSTANTIATE_TEST_SUITE_P(Formats, FuzzReplay,
                         testing::Values(Target{"safetensors", fuzz_safetensors}, Target{"gguf", fuzz_gguf},
                                         Target{"npy", fuzz_npy}, Target{"text_file", fuzz_text_file}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace westlake
