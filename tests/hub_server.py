"""A small Hub on loopback for the real `huggingface_hub` client: models, branches, LFS, failures.

It keeps everything in memory. Xet storage is missing: set `HF_HUB_DISABLE_XET=1`.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Blob:
    """A file in a commit, stored by LFS or as a regular one."""

    data: bytes
    lfs: bool

    @property
    def oid(self):
        if self.lfs:
            return hashlib.sha256(self.data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()


@dataclass
class Commit:
    summary: str
    parent: str | None
    files: dict[str, Blob]


@dataclass
class Repo:
    owner: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)  # name: commit

    def add(self, branch, summary, files):
        parent = self.branches.get(branch)
        sha = hashlib.sha1(f"{parent}{summary}{len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = Commit(summary, parent, files)
        self.branches[branch] = sha
        return sha

    def find(self, revision):
        """Return the sha of a branch or sha."""
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def history(self, branch="main"):
        """Return the commits of a branch, the newest first."""
        found, sha = [], self.branches[branch]
        while sha is not None:
            found.append(self.commits[sha])
            sha = self.commits[sha].parent
        return found

    def files(self, revision="main"):
        return self.commits[self.find(revision)].files


class Refusal(Exception):
    """An error response, with the words and headers of the real Hub."""

    def __init__(self, status, message, code=None, commit=None, url=None):
        super().__init__(message)
        self.status = status
        known = {"X-Error-Message": message, "X-Error-Code": code, "X-Repo-Commit": commit}
        self.headers = {name: value for name, value in known.items() if value} | {"Content-Type": "application/json"}
        self.body = json.dumps({"error": message, "errors": [{"message": message}], "url": url}).encode()


class HubServer:
    """Runs in threads of this process, in a `with` block.

    Attributes:
        users: Names by token. A user may write to the repos under the own name.
        repos: Repos by `owner/name`.
        calls: The requests, as `(method, path with query, token or None)`.
    """

    def __init__(self):
        self.users = {"hf_mine": "me", "hf_theirs": "they"}
        self.repos, self.calls, self.objects = {}, [], {}
        self._failures, self._lock = [], threading.RLock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self._http.shutdown()
        self._http.server_close()

    def fail_next(self, times, status, matching="", code=None):
        """Refuse the next requests whose "METHOD path" contains `matching`, a regular expression."""
        self._failures += [(matching, Refusal(status, "failure on request", code))] * times

    def count(self, matching):
        return sum(bool(re.search(matching, f"{method} {path}")) for method, path, _ in self.calls)

    def answer(self, method, path, query, token, body):
        """Return JSON, or headers and bytes."""
        with self._lock:
            for failure in self._failures:
                if re.search(failure[0], f"{method} {path}"):
                    self._failures.remove(failure)
                    raise failure[1]
            if token is not None and token not in self.users:
                raise Refusal(401, "Invalid credentials in Authorization header")
            for known, pattern, function in _ROUTES:
                match = re.fullmatch(pattern, path.replace("/api/models/", "/api/", 1))
                if match and (known == method or (known, method) == ("GET", "HEAD")):
                    return function(self, self.users.get(token), *map(unquote, match.groups()), query=query, body=body)
        raise Refusal(404, "Sorry, we can't find the page you are looking for.")

    def _repo(self, repo_id, user, write=False):
        repo = self.repos.get(repo_id)
        if repo is None or (repo.private and user != repo.owner):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user != repo.owner:
            raise Refusal(403, "You don't have the rights to write to this repo")
        return repo

    def whoami(self, user, query, body):
        return {"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token"}}

    def create(self, user, query, body):
        asked = json.loads(body)
        owner = asked.get("organization") or user
        if owner != user:
            raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        repo_id = f"{owner}/{asked['name']}"
        url = f"{self.url}/{repo_id}"
        if repo_id in self.repos:
            raise Refusal(409, f"You already created this model repo: {repo_id}", url=url)
        private = asked.get("private") or asked.get("visibility") == "private"
        self.repos[repo_id] = Repo(owner, bool(private))
        self.repos[repo_id].add(
            "main", "initial commit", {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)}
        )
        return {"url": url, "name": repo_id, "id": repo_id}

    def validate_card(self, user, query, body):
        return {"errors": [], "warnings": []}

    def branch(self, user, repo_id, name, query, body):
        repo = self._repo(repo_id, user, write=True)
        if name in repo.branches:
            raise Refusal(409, f"Reference already exists: {name}")
        repo.branches[name] = repo.find("main")
        return {}

    def preupload(self, user, repo_id, revision, query, body):
        present = self._repo(repo_id, user, write=True).files(revision)

        def plan(name):
            mode = "lfs" if name.endswith((".safetensors", ".png")) else "regular"
            oid = present[name].oid if name in present else None
            return {"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

        return {"files": [plan(asked["path"]) for asked in json.loads(body)["files"]]}

    def lfs_batch(self, user, repo_id, query, body):
        objects = []
        for asked in json.loads(body)["objects"]:
            known = {"oid": asked["oid"], "size": asked["size"]}
            upload = {"upload": {"href": f"{self.url}/storage/{asked['oid']}", "header": {}}}
            objects.append(known if asked["oid"] in self.objects else {**known, "actions": upload})
        return {"transfer": "basic", "objects": objects}

    def store(self, user, oid, query, body):
        self.objects[oid] = body
        return {}

    def commit(self, user, repo_id, revision, query, body):
        repo = self._repo(repo_id, user, write=True)
        files, summary = dict(repo.files(revision)), ""
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                summary = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
            elif item["key"] == "lfsFile":
                files[value["path"]] = Blob(self.objects[value["oid"]], lfs=True)
        sha = repo.add(revision, summary, files)
        return {"success": True, "commitOid": sha, "commitUrl": f"{self.url}/{repo_id}/commit/{sha}"}

    def info(self, user, repo_id, revision="main", query=None, body=b""):
        repo = self._repo(repo_id, user)
        siblings = [{"rfilename": name} for name in repo.files(revision)]
        known = {"id": repo_id, "modelId": repo_id, "private": repo.private, "tags": []}
        return {**known, "sha": repo.find(revision), "siblings": siblings}

    def tree(self, user, repo_id, revision, folder=None, query=None, body=b""):
        inside = f"{folder}/" if folder else ""
        files = self._repo(repo_id, user).files(revision)
        found = {name: blob for name, blob in files.items() if name.startswith(inside)}
        if folder and not found:
            raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        entries = []
        for name, blob in found.items():
            entry = {"type": "file", "path": name, "size": len(blob.data), "oid": blob.oid}
            lfs = {"lfs": {"oid": blob.oid, "size": len(blob.data), "pointerSize": 130}} if blob.lfs else {}
            entries.append({**entry, **lfs})
        return entries

    def file(self, user, repo_id, revision, name, query, body):
        repo = self._repo(repo_id, user)
        sha, blob = repo.find(revision), repo.files(revision).get(name)
        if blob is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", commit=sha)
        headers = {"ETag": f'"{blob.oid}"', "X-Repo-Commit": sha}
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.oid}"', "X-Linked-Size": str(len(blob.data))}
        return headers, blob.data


_REPO = r"([^/]+/[^/]+)"
_ROUTES = (
    ("GET", "/api/whoami-v2", HubServer.whoami),
    ("POST", "/api/repos/create", HubServer.create),
    ("POST", "/api/validate-yaml", HubServer.validate_card),
    ("POST", f"/api/{_REPO}/branch/([^/]+)", HubServer.branch),
    ("POST", f"/api/{_REPO}/preupload/([^/]+)", HubServer.preupload),
    ("POST", f"/api/{_REPO}/commit/([^/]+)", HubServer.commit),
    ("GET", f"/api/{_REPO}", HubServer.info),
    ("GET", f"/api/{_REPO}/revision/([^/]+)", HubServer.info),
    ("GET", f"/api/{_REPO}/tree/([^/]+)", HubServer.tree),
    ("GET", f"/api/{_REPO}/tree/([^/]+)/(.+)", HubServer.tree),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", HubServer.lfs_batch),
    ("PUT", "/storage/([0-9a-f]{64})", HubServer.store),
    ("GET", f"/{_REPO}/resolve/([^/]+)/(.+)", HubServer.file),
)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        """Log nothing."""

    def _handle(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        url = urlsplit(self.path)
        self.hub.calls.append((self.command, self.path, token))
        try:
            answer = self.hub.answer(self.command, url.path, parse_qs(url.query), token, body)
        except Refusal as refusal:
            self._send(refusal.status, refusal.headers, refusal.body)
        else:
            plain = isinstance(answer, tuple)
            headers, content = answer if plain else ({"Content-Type": "application/json"}, json.dumps(answer).encode())
            self._send(200, headers, content)

    def _send(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = _handle
