"""A small Hub on loopback, for the real `huggingface_hub` client: model repos, branches, LFS, private repos, failures.

It keeps everything in memory and answers the calls that the client makes to create a repo, commit to it and read it.
Storage by Xet is not among them: set `HF_HUB_DISABLE_XET=1`, or `lfs=False` so that every file goes as a regular one.
"""

import base64
import hashlib
import itertools
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LOST = 0  # in place of a status: the call is carried out, but its answer never arrives


@dataclass
class Blob:
    """A file in a commit, as LFS or as a regular one."""

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
        """The sha that a branch or sha names, or None."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    def history(self, branch="main"):
        """The commits of a branch, the newest first."""
        found, sha = [], self.branches[branch]
        while sha is not None:
            found.append(self.commits[sha])
            sha = self.commits[sha].parent
        return found

    def files(self, revision="main"):
        return self.commits[self.find(revision)].files


@dataclass
class Failure:
    times: int
    status: int
    matching: str
    headers: dict[str, str]
    body: bytes


class Refusal(Exception):
    """An answer that is not the one hoped for, as the real Hub words it."""

    def __init__(self, status, message, code=None, commit=None, url=None):
        super().__init__(message)
        self.status = status
        known = {"X-Error-Message": message, "X-Error-Code": code, "X-Repo-Commit": commit}
        self.headers = {name: value for name, value in known.items() if value} | {"Content-Type": "application/json"}
        self.body = json.dumps({"error": message, "errors": [{"message": message}], "url": url}).encode()


class HubServer:
    """Runs in threads of this process, between `with HubServer() as hub:` and its end.

    Attributes:
        users: Names by token. Each may write to the repos of its own name.
        repos: Repos by `owner/name`.
        calls: What was asked for, as `(method, path with query, token or None)`.
        lfs: Whether weights and figures go by LFS.
        card_error: What to answer to a card's metadata, if anything.
    """

    def __init__(self, lfs=True):
        self.users = {"hf_mine": "me", "hf_theirs": "they"}
        self.repos, self.calls, self.objects = {}, [], {}
        self.lfs, self.card_error = lfs, None
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

    def fail_next(self, times, status, matching="", headers=None, body=b'{"error": "told to fail"}'):
        """Answer the next calls whose "METHOD path" holds `matching` (a regular expression) with a status."""
        self._failures.append(Failure(times, status, matching, headers or {}, body))

    def failure_for(self, call):
        with self._lock:
            for failure in self._failures:
                if failure.times and re.search(failure.matching, call):
                    failure.times -= 1
                    return failure
        return None

    def count(self, matching):
        return sum(bool(re.search(matching, f"{method} {path}")) for method, path, _ in self.calls)

    # What is asked for: (method, path) → function(user, match, query, body) → JSON, or (headers, bytes).
    def answer(self, method, path, query, token, body):
        user = self._user(token)
        for known, pattern, function in _ROUTES:
            if (match := re.fullmatch(pattern, path)) and (known == method or (known, method) == ("GET", "HEAD")):
                with self._lock:
                    return function(self, user, *map(unquote, match.groups()), query=query, body=body)
        raise Refusal(404, "Sorry, we can't find the page you are looking for.")

    def _user(self, token):
        if token is not None and token not in self.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.users.get(token)

    def _repo(self, repo_id, user, write=False):
        repo = self.repos.get(repo_id)
        if repo is None or (repo.private and user != repo.owner):
            if user is None:
                raise Refusal(401, "Invalid username or password.", "RepoNotFound")
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if write and user is None:
            raise Refusal(401, "Invalid username or password.")
        if write and user != repo.owner:
            raise Refusal(403, "You don't have the rights to write to this repo")
        return repo

    def _commit(self, repo, revision):
        sha = repo.find(revision)
        if sha is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def who_am_i(self, user, query, body):
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        return {"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token"}}

    def create(self, user, query, body):
        asked = json.loads(body)
        owner = asked.get("organization") or user
        if user is None:
            raise Refusal(401, "Invalid username or password.")
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
        if self.card_error:
            raise Refusal(400, self.card_error)
        return {"errors": [], "warnings": []}

    def branch(self, user, repo_id, name, query, body):
        repo = self._repo(repo_id, user, write=True)
        if name.startswith("refs/"):
            raise Refusal(400, f"Invalid reference for a branch: {name}")
        if name in repo.branches:
            raise Refusal(409, f"Reference already exists: {name}")
        repo.branches[name] = self._commit(repo, json.loads(body).get("startingPoint") or "main")
        return {}

    def refs(self, user, repo_id, query, body):
        branches = self._repo(repo_id, user).branches
        listed = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in branches.items()]
        return {"branches": listed, "converts": [], "tags": []}

    def preupload(self, user, repo_id, revision, query, body):
        proposal = "create_pr" in query
        repo = self._repo(repo_id, user, write=not proposal)
        there = repo.commits[self._commit(repo, revision)].files
        return {
            "files": [
                {
                    "path": asked["path"],
                    "uploadMode": "lfs"
                    if self.lfs and asked["path"].endswith((".safetensors", ".png"))
                    else "regular",
                    "shouldIgnore": False,
                    "oid": there[asked["path"]].oid if asked["path"] in there else None,
                }
                for asked in json.loads(body)["files"]
            ]
        }

    def lfs_batch(self, user, repo_id, query, body):
        self._repo(repo_id, user)
        objects = []
        for asked in json.loads(body)["objects"]:
            known = {"oid": asked["oid"], "size": asked["size"]}
            upload = {"upload": {"href": f"{self.url}/storage/{asked['oid']}", "header": {}}}
            objects.append(known if asked["oid"] in self.objects else {**known, "actions": upload})
        return {"transfer": "basic", "objects": objects}

    def store(self, user, oid, query, body):
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "content does not match its oid")
        self.objects[oid] = body
        return {}

    def commit(self, user, repo_id, revision, query, body):
        proposal = "create_pr" in query
        repo = self._repo(repo_id, user, write=not proposal)
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        head = self._commit(repo, revision)
        files, summary = dict(repo.commits[head].files), ""
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                summary = value["summary"]
                if value.get("parentCommit") not in (None, head):
                    raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            elif item["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    raise Refusal(400, f"LFS object {value['oid']} was never uploaded")
                files[value["path"]] = Blob(self.objects[value["oid"]], lfs=True)
            elif item["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise Refusal(400, f"unknown operation {item['key']}")
        answer = {"success": True}
        if proposal:
            number = next(n for n in itertools.count(1) if f"refs/pr/{n}" not in repo.branches)
            revision = f"refs/pr/{number}"
            repo.branches[revision] = head
            answer["pullRequestUrl"] = f"{self.url}/{repo_id}/discussions/{number}"
        sha = repo.add(revision, summary, files)
        return {**answer, "commitOid": sha, "commitUrl": f"{self.url}/{repo_id}/commit/{sha}"}

    def info(self, user, repo_id, revision="main", query=None, body=b""):
        repo = self._repo(repo_id, user)
        sha = self._commit(repo, revision)
        siblings = [{"rfilename": name} for name in repo.commits[sha].files]
        return {
            "id": repo_id,
            "modelId": repo_id,
            "sha": sha,
            "private": repo.private,
            "siblings": siblings,
            "tags": [],
        }

    def tree(self, user, repo_id, revision, folder=None, query=None, body=b""):
        repo = self._repo(repo_id, user)
        inside = f"{folder}/" if folder else ""
        found = {n: b for n, b in repo.commits[self._commit(repo, revision)].files.items() if n.startswith(inside)}
        if folder and not found:
            raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        entries = []
        for name, blob in found.items():
            entry = {"type": "file", "path": name, "size": len(blob.data), "oid": blob.oid}
            if blob.lfs:
                entry["lfs"] = {"oid": blob.oid, "size": len(blob.data), "pointerSize": 130}
            entries.append(entry)
        return entries

    def file(self, user, repo_id, revision, name, query, body):
        repo = self._repo(repo_id, user)
        sha = self._commit(repo, revision)
        blob = repo.commits[sha].files.get(name)
        if blob is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", commit=sha)
        headers = {"ETag": f'"{blob.oid}"', "X-Repo-Commit": sha}
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.oid}"', "X-Linked-Size": str(len(blob.data))}
        return headers, blob.data


_REPO = r"([^/]+/[^/]+)"
_ROUTES = (
    ("GET", "/api/whoami-v2", HubServer.who_am_i),
    ("POST", "/api/repos/create", HubServer.create),
    ("POST", "/api/validate-yaml", HubServer.validate_card),
    ("POST", f"/api/models/{_REPO}/branch/([^/]+)", HubServer.branch),
    ("POST", f"/api/models/{_REPO}/preupload/([^/]+)", HubServer.preupload),
    ("POST", f"/api/models/{_REPO}/commit/([^/]+)", HubServer.commit),
    ("GET", f"/api/models/{_REPO}", HubServer.info),
    ("GET", f"/api/models/{_REPO}/refs", HubServer.refs),
    ("GET", f"/api/models/{_REPO}/revision/([^/]+)", HubServer.info),
    ("GET", f"/api/models/{_REPO}/tree/([^/]+)", HubServer.tree),
    ("GET", f"/api/models/{_REPO}/tree/([^/]+)/(.+)", HubServer.tree),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", HubServer.lfs_batch),
    ("PUT", "/storage/([0-9a-f]{64})", HubServer.store),
    ("GET", f"/{_REPO}/resolve/([^/]+)/(.+)", HubServer.file),
)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        """Say nothing."""

    def _handle(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        url = urlsplit(self.path)
        self.hub.calls.append((self.command, self.path, token))
        failure = self.hub.failure_for(f"{self.command} {self.path}")
        if failure and failure.status != LOST:
            self._send(failure.status, failure.headers, failure.body)
            return
        try:
            answer = self.hub.answer(self.command, url.path, parse_qs(url.query), token, body)
        except Refusal as refusal:
            if not failure:
                self._send(refusal.status, refusal.headers, refusal.body)
                return
        if failure:
            self.close_connection = True
        elif isinstance(answer, tuple):
            self._send(200, *answer)
        else:
            self._send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _send(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = _handle
