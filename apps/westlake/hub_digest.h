// Hashes that say whether a file is the right one.
// Idea: a hub names a large file by the sha256 of its bytes and a small one as git does, by the sha1 of
// "blob <size>\0" and its bytes. Both are computed over the file as it lies on the disk, whoever wrote which part of
// it. Source: git's object format; FIPS 180-4, by libcrypto.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace westlake {

struct Digest {
  enum Kind { kNone, kSha256, kGitSha1 };
  Kind kind = kNone;
  std::string hex;  // lower case

  // What stands in an ETag or an index: 64 hex digits are a sha256, 40 a git sha1, anything else is no digest.
  // Quotes and the weak mark W/ around an ETag are taken off.
  static Digest parse(std::string_view text);
  bool known() const { return kind != kNone; }
  std::string_view kind_name() const;
};

// The digest of `kind` over the whole file. `label` names it in the progress line of a large file.
Result<Digest> digest_of_file(const std::string& path, Digest::Kind kind, const std::string& label);

// True when PATH is a file of `bytes` bytes (any size when negative) with that digest (any content when there is none).
Result<bool> file_matches(const std::string& path, int64_t bytes, const Digest& expected, const std::string& label);

}  // namespace westlake
