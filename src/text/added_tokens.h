// Added tokens: texts that are found before anything else and become one id each.
// Idea: a trie over bytes, walked from every position whose byte can begin a token; leftmost, then longest. The flags
// (lstrip, rstrip, single_word) act on what was found, in the order and with the corner cases of the reference.
// Source: Hugging Face tokenizers, "added_tokens" of tokenizer.json.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace westlake {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;      // left out by decode with skip_special
  bool normalized = false;   // looked for in normalised text
  bool lstrip = false;       // swallows white space before it
  bool rstrip = false;       // swallows white space after it
  bool single_word = false;  // only where no word character touches it
};

// A longer one is refused at loading: a search walks at most so far from every position.
inline constexpr size_t kAddedTokenLimitBytes = 4096;

class AddedTokenFinder {
 public:
  // `pattern` is what to look for (content, or content normalised). The last of equal patterns counts.
  void add(std::string_view pattern, const AddedToken& token);
  bool empty() const { return tokens_.empty(); }

  // Cuts `text` into plain stretches and tokens, in order. A token's stretch may reach over what a token before it
  // swallowed; only `id` counts there.
  struct Part {
    size_t begin, end;
    int32_t id;  // -1: plain text
  };
  void split(std::string_view text, std::vector<Part>& parts) const;

 private:
  struct Node {
    std::vector<std::pair<unsigned char, uint32_t>> children;  // sorted by byte
    int32_t token = -1;                                        // index into tokens_
  };
  struct Flags {
    int32_t id;
    bool lstrip, rstrip, single_word;
  };
  uint32_t child(uint32_t node, unsigned char byte) const;  // 0: none
  bool match_at(std::string_view text, size_t at, size_t* end, int32_t* token) const;

  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::array<uint32_t, 256> first_ = {};  // children of the root
  std::vector<Flags> tokens_;
};

}  // namespace westlake
