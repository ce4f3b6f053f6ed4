"""A hub on loopback, as the Hugging Face hub behaves, with faults to order.

Index at /api/models/{repo}/revision/{rev} and /tree/{rev}; /{repo}/resolve/{rev}/{path} answers small files itself (ETag:
git sha1) and large ones by a redirect to a second server, the CDN, with X-Linked-Etag (sha256) and X-Linked-Size. The
CDN knows Range and If-Range. It listens on 127.0.0.1 while the hub is called `localhost`, so the two are different hosts.
"""
import hashlib
import http.server
import json
import re
import threading
import time
import urllib.parse


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Repo:
    """files: {path: bytes}; a path in `large` is kept as the hub keeps LFS files."""

    def __init__(self, files, large=(), gated=False, private=False):
        self.files, self.large, self.gated, self.private = dict(files), set(large), gated, private
        self.listed = None     # paths the index shows instead of the true ones
        self.commit = hashlib.sha1(repr(sorted(files)).encode()).hexdigest()

    def index(self, with_blobs):
        siblings = []
        for path in self.listed or sorted(self.files):
            entry = {"rfilename": path}
            data = self.files.get(path, b"")
            if with_blobs:
                entry.update(size=len(data), blobId=git_sha1(data))
                if path in self.large:
                    entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        return {"id": "x", "sha": self.commit, "siblings": siblings}

    def tree(self):
        out = [{"type": "directory", "path": "original", "size": 0, "oid": "0" * 40}]
        for path, data in sorted(self.files.items()):
            entry = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
            if path in self.large:
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            out.append(entry)
        return out


class Faults:
    """What goes wrong, and what was seen."""

    def __init__(self):
        self.cut_after = []         # bytes after which the next bodies of the CDN are cut, one a request
        self.statuses = []          # statuses the next requests of the hub get instead, one a request
        self.cdn_statuses = []
        self.retry_after = None
        self.corrupt = False        # the CDN flips a byte
        self.change_etag = False    # the CDN's ETag is another one at every request
        self.ignore_range = False
        self.no_blobs = False       # the index knows names only
        self.tree_only = False      # no /revision/ in the API
        self.no_hashes = False      # neither index nor headers say a hash
        self.branches_only = False  # /resolve/{commit}/ is unknown
        self.bytes_per_second = 0
        self.before_body = None     # called before the CDN sends
        self.chunked = False        # the CDN does not say how long a body is
        self.requests = []          # (server, method, path, headers)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        hub = self.server.hub
        hub.faults.requests.append((self.server.role, self.command, self.path, dict(self.headers.items())))
        try:
            if self.server.role == "cdn":
                self.cdn(hub, hub.faults)
            else:
                self.api(hub, hub.faults)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def reply(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, status, code=None):
        headers = [("X-Error-Code", code), ("X-Error-Message", "not found")] if code else []
        if status == 429 and self.server.hub.faults.retry_after is not None:
            headers.append(("Retry-After", str(self.server.hub.faults.retry_after)))
        self.reply(status, b'{"error":"no"}', headers)

    def api(self, hub, faults):
        if faults.statuses:
            return self.fail(faults.statuses.pop(0))
        url = urllib.parse.urlsplit(self.path)
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", url.path)
        if match:
            repo = self.find_repo(hub, match.group(1))
            if repo is None:
                return None
            if match.group(3) not in ("main", repo.commit):
                return self.fail(404, "RevisionNotFound")
            if match.group(2) == "tree":
                return self.reply(200, json.dumps(repo.tree()).encode(), [("X-Repo-Commit", repo.commit)])
            if faults.tree_only:
                return self.fail(404)
            with_blobs = "blobs=true" in url.query and not (faults.no_blobs or faults.no_hashes)
            return self.reply(200, json.dumps(repo.index(with_blobs)).encode())
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", url.path)
        if not match:
            return self.fail(404)
        return self.resolve(hub, faults, match)

    def find_repo(self, hub, name):
        repo = hub.repos.get(name)
        allowed = self.headers.get("Authorization") == "Bearer " + hub.token
        if repo is None or (repo.private and not allowed):
            self.fail(404 if allowed else 401, "RepoNotFound")
            return None
        return repo

    def resolve(self, hub, faults, match):
        repo = self.find_repo(hub, match.group(1))
        if repo is None:
            return None
        if match.group(2) not in (("main",) if faults.branches_only else ("main", repo.commit)):
            return self.fail(404)
        path = urllib.parse.unquote(match.group(3))
        if path not in repo.files:
            return self.fail(404, "EntryNotFound")
        if repo.gated and self.headers.get("Authorization") != "Bearer " + hub.token:
            return self.fail(403, "GatedRepo")
        data = repo.files[path]
        headers = [("X-Repo-Commit", repo.commit)]
        if path not in repo.large:
            return self.body(faults, data, headers + [("ETag", '"%s"' % git_sha1(data))])
        if not faults.no_hashes:
            headers += [("X-Linked-Etag", '"%s"' % hashlib.sha256(data).hexdigest()), ("X-Linked-Size", str(len(data)))]
        location = hub.cdn_url + "/cdn/" + urllib.parse.quote(match.group(1) + "/" + path)
        return self.reply(302, b"Found", headers + [("Location", location)])

    def cdn(self, hub, faults):
        if faults.cdn_statuses:
            return self.fail(faults.cdn_statuses.pop(0))
        org, repo, path = urllib.parse.unquote(self.path[len("/cdn/"):]).split("/", 2)
        data = hub.repos[org + "/" + repo].files[path]
        if faults.corrupt:
            data = bytes([data[0] ^ 1]) + data[1:]
        tag = "cdn-%d" % (len(faults.requests) if faults.change_etag else len(data))
        return self.body(faults, data, [("ETag", '"%s"' % tag)])

    def body(self, faults, data, headers):
        tag = dict(headers)["ETag"]
        status, begin = 200, 0
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        fresh = self.headers.get("If-Range", tag) == tag
        if match and fresh and not faults.ignore_range:
            status, begin = 206, int(match.group(1))
            if begin >= len(data):
                return self.reply(416, b"", [("Content-Range", "bytes */%d" % len(data))])
            headers = headers + [("Content-Range", "bytes %d-%d/%d" % (begin, len(data) - 1, len(data)))]
        cdn = self.server.role == "cdn"
        if cdn and faults.before_body:
            faults.before_body()
        piece = data[begin:]
        self.send_response(status)
        for name, value in headers + [("Accept-Ranges", "bytes")]:
            self.send_header(name, value)
        if cdn and faults.chunked:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(piece)))
        self.end_headers()
        if self.command == "HEAD":
            return None
        if cdn and faults.cut_after:
            piece = piece[:faults.cut_after.pop(0)]
            self.close_connection = True
        step = faults.bytes_per_second // 20 if cdn and faults.bytes_per_second else 1 << 16
        for at in range(0, len(piece), step):
            self.wfile.write(piece[at:at + step])
            if cdn and faults.bytes_per_second:
                self.wfile.flush()
                time.sleep(0.05)
        return None


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that was killed or has given up is part of the tests."""


class Hub:
    """The hub and its CDN, in threads. `with Hub({"org/repo": Repo(...)}) as hub:`"""

    token = "hf_secret"

    def __init__(self, repos):
        self.repos, self.faults = repos, Faults()
        self.servers = []
        for role in ("hub", "cdn"):
            server = Server(("127.0.0.1", 0), Handler)
            server.hub, server.role = self, role
            self.servers.append(server)
        self.url = "http://localhost:%d" % self.servers[0].server_port
        self.cdn_url = "http://127.0.0.1:%d" % self.servers[1].server_port

    def __enter__(self):
        for server in self.servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def seen(self, role, method="GET"):
        return [(path, headers) for r, m, path, headers in self.faults.requests if r == role and m == method]
