// One HTTP client for a hub: GET and HEAD with redirects, a token that never leaves the hub, ranges, and tries.
// Idea: redirects are followed here and not by libcurl, because the answers on the way carry what counts (the hub's
// first answer names hash and size, X-Linked-*), and because the token must go to the hub's own origin only.
// Source: RFC 9110 (redirects, ranges, Retry-After); the headers are those of the Hugging Face hub.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace westlake {

struct HttpAnswer {
  long status = 0;                             // 0: none came
  std::string broken;                          // why the answer is not whole; empty when it is
  std::map<std::string, std::string> headers;  // names in lower case; x-* of redirects on the way are kept
  std::string body;                            // when no sink took it; the start of a long one
  double retry_after_s = 0;

  std::string header(const std::string& name) const;
  bool success() const { return broken.empty() && (status == 200 || status == 206); }
  // Worth another try: no whole answer, too many requests, or a failure of the server's.
  bool transient() const { return !broken.empty() || status == 408 || status == 429 || status >= 500; }
  std::string reason() const;  // "connection cut: ...", "HTTP 503"
};

// Takes a piece of a body that comes with status 200 or 206; an error ends the transfer and is what get() returns.
using HttpSink = std::function<Status(const HttpAnswer& head, std::string_view piece)>;

struct HttpGet {
  std::string url;
  bool head_only = false;
  uint64_t from_byte = 0;  // > 0: asks for the rest from there on
  std::string if_range;    // with the ETag that the first part came with
  HttpSink sink;           // none: the body is kept, up to kMaxBodyBytes
};

class HttpClient {
 public:
  static constexpr size_t kMaxBodyBytes = size_t{64} << 20;  // an index of a hundred thousand files

  // The token goes to the origin of `endpoint` and to no other.
  HttpClient(const std::string& endpoint, std::string token);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // Errors: a URL that cannot be used, a certificate that does not fit, too many redirects, the sink's own. A cut or
  // refused connection is no error but an answer that is transient().
  Result<HttpAnswer> get(const HttpGet& request);

  bool has_token() const { return !token_.empty(); }

 private:
  struct Transfer;
  Result<HttpAnswer> one_hop(const HttpGet& request, const std::string& url, std::string* redirect);
  void* curl_;
  std::string origin_, token_;
};

// Tries again after a transient answer, twice as late each time, or when the server says.
class Retries {
 public:
  Retries(int tries, double wait_s) : tries_(tries), first_wait_s_(wait_s), wait_s_(wait_s) {}
  // Sleeps and returns true when there is a try left and the server does not ask for more patience than a minute.
  bool again(const HttpAnswer& answer, std::string_view what);
  // A try that brought something counts for nothing.
  void progressed();
  int used() const { return used_; }

 private:
  int tries_, used_ = 1;
  double first_wait_s_, wait_s_;
};

// Percent-encodes all but unreserved characters; `keep_slash` leaves '/' between the segments of a path.
std::string url_escape(std::string_view text, bool keep_slash);

}  // namespace westlake
