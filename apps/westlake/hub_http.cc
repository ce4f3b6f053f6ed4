#include "westlake/hub_http.h"

#include <curl/curl.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <thread>

namespace westlake {
namespace {

constexpr int kMaxRedirects = 8;
constexpr long kConnectTimeoutS = 20;
constexpr long kSilenceTimeoutS = 30;       // a connection that brings nothing for so long counts as cut
constexpr double kMaxWaitS = 60;            // what a server may ask us to wait in the middle of a command
constexpr size_t kMaxErrorBytes = 1 << 16;  // of the body of an error

// scheme://host:port with the port spelled out, or "" for what is no URL.
std::string origin_of(const std::string& url) {
  std::unique_ptr<CURLU, decltype(&curl_url_cleanup)> parts(curl_url(), &curl_url_cleanup);
  if (!parts || curl_url_set(parts.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK) return "";
  std::string origin;
  for (CURLUPart part : {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT}) {
    char* text = nullptr;
    if (curl_url_get(parts.get(), part, &text, CURLU_DEFAULT_PORT) != CURLUE_OK) return "";
    origin += text;
    origin += '|';
    curl_free(text);
  }
  return origin;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && std::string_view(" \t\r\n").find(text.back()) != text.npos) text.remove_suffix(1);
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  return text;
}

// What may well go away by itself; the rest (a bad URL, a certificate of another host) does not.
bool is_transient(CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
    case CURLE_PARTIAL_FILE:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::string HttpAnswer::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

std::string HttpAnswer::reason() const {
  if (!broken.empty()) return broken;
  const std::string text = fmt::format("HTTP {}", status);
  std::string message = header("x-error-message").substr(0, 200);
  std::erase_if(message,
                [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });  // it meets a terminal
  return message.empty() ? text : fmt::format("{} ({})", text, message);
}

// What the callbacks of one hop share.
struct HttpClient::Transfer {
  HttpAnswer answer;
  const HttpSink* sink = nullptr;
  Status sink_status;

  static size_t on_header(char* data, size_t size, size_t count, void* user) {
    auto* self = static_cast<Transfer*>(user);
    const std::string_view line = trim({data, size * count});
    if (line.starts_with("HTTP/")) {  // a new answer begins: a 100 Continue or a proxy's came before
      self->answer.headers.clear();
      const size_t space = line.find(' ');
      if (space != line.npos) {
        std::from_chars(line.data() + space + 1, line.data() + line.size(), self->answer.status);
      }
    } else if (const size_t colon = line.find(':'); colon != line.npos) {
      self->answer.headers[lower(line.substr(0, colon))] = std::string(trim(line.substr(colon + 1)));
    }
    return size * count;
  }

  static size_t on_body(char* data, size_t size, size_t count, void* user) {
    auto* self = static_cast<Transfer*>(user);
    const std::string_view piece(data, size * count);
    const bool wanted = self->answer.status == 200 || self->answer.status == 206;
    if (wanted && *self->sink) {
      self->sink_status = (*self->sink)(self->answer, piece);
      return self->sink_status.ok() ? piece.size() : 0;
    }
    std::string& body = self->answer.body;
    if (wanted && body.size() + piece.size() > kMaxBodyBytes) {
      self->sink_status = make_error(Code::kExhausted, "answer of more than {} bytes", kMaxBodyBytes);
      return 0;
    }
    if (wanted || body.size() < kMaxErrorBytes) body += piece;
    return piece.size();
  }
};

HttpClient::HttpClient(const std::string& endpoint, std::string token)
    : origin_(origin_of(endpoint)), token_(std::move(token)) {
  static const CURLcode initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
  CHECK(initialised == CURLE_OK, "libcurl does not start: {}", curl_easy_strerror(initialised));
  curl_ = curl_easy_init();
  CHECK(curl_ != nullptr, "no memory for a connection");
}

HttpClient::~HttpClient() {
  curl_easy_cleanup(curl_);
}

Result<HttpAnswer> HttpClient::one_hop(const HttpGet& request, const std::string& url, std::string* redirect) {
  CURL* curl = curl_;
  curl_easy_reset(curl);  // keeps connections
  Transfer transfer;
  transfer.sink = &request.sink;
  char message[CURL_ERROR_SIZE] = "";
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, origin_.starts_with("https|") ? "https" : "http,https");
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_NOBODY, request.head_only ? 1L : 0L);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "westlake");
  curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, kConnectTimeoutS);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, kSilenceTimeoutS);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, message);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, &Transfer::on_header);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &Transfer::on_body);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
  std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> list(nullptr, &curl_slist_free_all);
  auto add_header = [&](const std::string& line) {
    curl_slist* longer = curl_slist_append(list.get(), line.c_str());
    CHECK(longer != nullptr, "no memory for a header");
    list.release();
    list.reset(longer);
  };
  if (!token_.empty() && origin_of(url) == origin_) add_header("Authorization: Bearer " + token_);
  if (request.from_byte > 0) {
    add_header(fmt::format("Range: bytes={}-", request.from_byte));
    if (!request.if_range.empty()) add_header("If-Range: " + request.if_range);
  }
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, list.get());

  const CURLcode code = curl_easy_perform(curl);
  if (!transfer.sink_status.ok()) return transfer.sink_status.error();
  HttpAnswer answer = std::move(transfer.answer);
  if (code != CURLE_OK) {
    const std::string why = message[0] != 0 ? message : curl_easy_strerror(code);
    if (!is_transient(code)) return make_error(Code::kIo, "{}: {}", url, why);
    answer.broken = why;
  }
  curl_off_t retry_after = 0;
  curl_easy_getinfo(curl, CURLINFO_RETRY_AFTER, &retry_after);
  answer.retry_after_s = static_cast<double>(retry_after);
  char* location = nullptr;
  if (answer.broken.empty() && answer.status >= 301 && answer.status <= 308 && answer.status != 304) {
    curl_easy_getinfo(curl, CURLINFO_REDIRECT_URL, &location);
    if (location != nullptr) *redirect = location;
  }
  return answer;
}

Result<HttpAnswer> HttpClient::get(const HttpGet& request) {
  if (origin_.empty()) {
    return make_error(Code::kInvalidArgument, "the hub's address is no URL. Hint: --endpoint https://HOST");
  }
  std::string url = request.url;
  std::map<std::string, std::string> kept;
  for (int hop = 0; hop <= kMaxRedirects; ++hop) {
    std::string redirect;
    TRY_ASSIGN(HttpAnswer answer, one_hop(request, url, &redirect));
    for (const auto& [name, value] : answer.headers) {
      if (name.starts_with("x-")) kept.insert({name, value});  // the first to say it is the hub
    }
    if (redirect.empty()) {
      for (const auto& [name, value] : kept) answer.headers[name] = value;
      return answer;
    }
    url = redirect;
    if (request.head_only && kept.contains("x-linked-etag")) {  // all that a HEAD asks for is known
      answer.status = 200;
      return answer;
    }
  }
  return make_error(Code::kIo, "{}: more than {} redirects", request.url, kMaxRedirects);
}

bool Retries::again(const HttpAnswer& answer, std::string_view what) {
  const double wait_s = std::max(wait_s_, answer.retry_after_s);
  if (used_ >= tries_ || wait_s > kMaxWaitS) return false;
  ++used_;
  std::fprintf(
      stderr, "%s\n",
      fmt::format("westlake: {}: {}; trying again in {:.1f} s ({} of {})", what, answer.reason(), wait_s, used_, tries_)
          .c_str());
  std::this_thread::sleep_for(std::chrono::duration<double>(wait_s));
  wait_s_ *= 2;
  return true;
}

void Retries::progressed() {
  used_ = 1;
  wait_s_ = first_wait_s_;
}

std::string url_escape(std::string_view text, bool keep_slash) {
  std::string out;
  for (char c : text) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
                       c == '.' || c == '_' || c == '~' || (keep_slash && c == '/');
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

}  // namespace westlake
