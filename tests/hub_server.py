"""A small Hub on loopback, in memory, for `huggingface_hub`: models, branches, refusals.

Every file is a regular one. Xet storage is missing: set `HF_HUB_DISABLE_XET=1`.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Repo:
    """Commits by sha, as (summary, parent, files), and branches, as shas by name."""

    def __init__(self, owner, private):
        self.owner, self.private, self.commits, self.branches = owner, private, {}, {}
        self.add("main", "initial commit", {".gitattributes": b""})

    def add(self, branch, summary, files):
        parent = self.branches.get(branch)
        sha = hashlib.sha1(f"{parent}{summary}{len(self.commits)}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = (summary, parent, files), sha
        return sha

    def find(self, revision):
        """Return the sha of a branch or sha."""
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def history(self, branch="main"):
        """Return the summaries of a branch, the newest first."""
        found, sha = [], self.branches[branch]
        while sha is not None:
            summary, sha, _ = self.commits[sha]
            found.append(summary)
        return found

    def files(self, revision="main"):
        return self.commits[self.find(revision)][2]


class Refusal(Exception):
    """An error response, with the words and headers of the real Hub."""

    def __init__(self, status, message, code=None, url=None):
        super().__init__(message)
        self.status, self.headers = (
            status,
            {"X-Error-Message": message, "Content-Type": "application/json"},
        )
        self.headers |= {"X-Error-Code": code} if code else {}
        self.body = json.dumps(
            {"error": message, "errors": [{"message": message}], "url": url}
        ).encode()


class HubServer:
    """Runs in threads of this process, in a `with` block.

    `users` has names by token; a user may write to the repos under the own name. `repos` has repos
    by `owner/name`, `calls` the requests as (method, path with query, token or None).
    """

    def __init__(self):
        self.users, self.repos, self.calls = {"hf_mine": "me", "hf_theirs": "they"}, {}, []
        self._failures, self._lock = [], threading.RLock()
        self._http = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self})
        )
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self):
        threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *exception):
        self._http.shutdown()
        self._http.server_close()

    def fail_next(self, times, status, matching=""):
        """Refuse the next requests whose "METHOD path" contains the expression `matching`."""
        self._failures += [(matching, Refusal(status, "failure on request"))] * times

    def answer(self, method, path, token, body):
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
                    return function(
                        self, self.users.get(token), body, *map(unquote, match.groups())
                    )
        raise Refusal(404, "Sorry, we can't find the page you are looking for.")

    def _repo(self, repo_id, user, write=False):
        repo = self.repos.get(repo_id)
        if repo is None or (repo.private and user != repo.owner):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user != repo.owner:
            raise Refusal(403, "You don't have the rights to write to this repo")
        return repo

    def whoami(self, user, body):
        return {"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token"}}

    def create(self, user, body):
        asked = json.loads(body)
        owner = asked.get("organization") or user
        if owner != user:
            raise Refusal(
                403, f'You don\'t have the rights to create a model under the namespace "{owner}"'
            )
        repo_id = f"{owner}/{asked['name']}"
        if repo_id in self.repos:
            raise Refusal(
                409, f"You already created this model repo: {repo_id}", url=f"{self.url}/{repo_id}"
            )
        self.repos[repo_id] = Repo(
            owner, bool(asked.get("private") or asked.get("visibility") == "private")
        )
        return {"url": f"{self.url}/{repo_id}", "name": repo_id, "id": repo_id}

    def validate_card(self, user, body):
        return {"errors": [], "warnings": []}

    def branch(self, user, body, repo_id, name):
        repo = self._repo(repo_id, user, write=True)
        if name in repo.branches:
            raise Refusal(409, f"Reference already exists: {name}")
        repo.branches[name] = repo.find("main")
        return {}

    def preupload(self, user, body, repo_id, revision):
        present, facts = (
            self._repo(repo_id, user, write=True).files(revision),
            {"uploadMode": "regular"},
        )
        names = [asked["path"] for asked in json.loads(body)["files"]]
        return {
            "files": [
                {**facts, "path": name, "shouldIgnore": False, "oid": git_hash(present.get(name))}
                for name in names
            ]
        }

    def commit(self, user, body, repo_id, revision):
        repo = self._repo(repo_id, user, write=True)
        first, *items = [json.loads(line) for line in body.splitlines()]
        files = [item["value"] for item in items if item["key"] == "file"]
        sent = {file["path"]: base64.b64decode(file["content"]) for file in files}
        sha = repo.add(revision, first["value"]["summary"], repo.files(revision) | sent)
        return {
            "success": True,
            "commitOid": sha,
            "commitUrl": f"{self.url}/{repo_id}/commit/{sha}",
        }

    def info(self, user, body, repo_id, revision="main"):
        repo = self._repo(repo_id, user)
        siblings = [{"rfilename": name} for name in repo.files(revision)]
        known = {"id": repo_id, "modelId": repo_id, "private": repo.private, "tags": []}
        return {**known, "sha": repo.find(revision), "siblings": siblings}

    def tree(self, user, body, repo_id, revision):
        files = self._repo(repo_id, user).files(revision).items()
        return [
            {"type": "file", "path": name, "size": len(data), "oid": git_hash(data)}
            for name, data in files
        ]

    def file(self, user, body, repo_id, revision, name):
        repo = self._repo(repo_id, user)
        if (data := repo.files(revision).get(name)) is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        return {"ETag": f'"{git_hash(data)}"', "X-Repo-Commit": repo.find(revision)}, data


def git_hash(data):
    return None if data is None else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


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
        self.hub.calls.append((self.command, self.path, token))
        try:
            answer = self.hub.answer(self.command, urlsplit(self.path).path, token, body)
            if not isinstance(answer, tuple):
                answer = {"Content-Type": "application/json"}, json.dumps(answer).encode()
            status, (headers, body) = 200, answer
        except Refusal as refusal:
            status, headers, body = refusal.status, refusal.headers, refusal.body
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = _handle
