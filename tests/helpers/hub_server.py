"""A Hugging Face Hub on loopback: what `huggingface_hub` asks when models are pushed and loaded, nothing else.

The real client talks to it when `HF_ENDPOINT` is its `url` (and `HF_HUB_DISABLE_XET=1`: large files come by the LFS
protocol). Everything is kept in memory. As on the Hub, a commit is one step: until its request has arrived whole and
every LFS object that it names is stored, nobody sees anything of it.
"""

import base64
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


LARGE = 10_000_000


def is_lfs(size: int, start: bytes) -> bool:
    """Whether the Hub keeps a file out of git: binary or large. `start` is what the client sends as a sample."""
    return size > LARGE or b"\0" in start[:512]


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    """Branch or `refs/pr/N` -> commit."""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Commit -> path -> content."""

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        """Adds a commit that holds exactly these files and moves the branch to it."""
        history = f"{len(self.commits)} {branch}\n"
        listing = "".join(f"{path} {hashlib.sha256(content).hexdigest()}\n" for path, content in files.items())
        oid = hashlib.sha1((history + listing).encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid  # last: whoever looks sees the old revision or the new one
        return oid

    def find(self, revision: str) -> str | None:
        """The commit that a branch, a pull request or a commit itself names."""
        return revision if revision in self.commits else self.branches.get(revision)

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the main branch."""
        return self.commits[self.branches["main"]]


class Hub:
    """The server: `with Hub({"token": "user"}) as hub:` runs it in the background on `hub.url`."""

    def __init__(self, users: dict[str, str]) -> None:
        self.users = users
        self.repositories: dict[str, Repository] = {}
        self.lfs_objects: dict[tuple[str, str], bytes] = {}
        """Repository and SHA-256 -> content."""
        self.requests: list[str] = []
        """Every request that came, `"POST /api/repos/create"`."""
        self.out_of_order: set[str] = set()
        """Routes (`resolve`) that answer "internal error"."""
        self.lock = Lock()
        self._cuts: dict[str, list[int]] = defaultdict(list)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Hub":
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def publish(self, name: str, folder: Path) -> None:
        """Stores a folder as a repository, without any client."""
        repository = self.repositories[name] = Repository()
        repository.commit("main", {file.name: file.read_bytes() for file in folder.iterdir()})

    def cut(self, route: str, after: int, times: int = 1) -> None:
        """The next requests to a route (`lfs_put`, `commit`, `resolve`) lose the connection after so many bytes of
        their body; of the answer's body in the case of `resolve`."""
        self._cuts[route] += [after] * times

    def forget_cuts(self) -> None:
        self._cuts.clear()

    @property
    def cuts_left(self) -> int:
        return sum(map(len, self._cuts.values()))

    def take_cut(self, route: str) -> int | None:
        with self.lock:
            return self._cuts[route].pop(0) if self._cuts[route] else None


class _HubError(Exception):
    """An answer other than success: what the Hub says in its header `X-Error-Code` decides what the client raises."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any) -> None:
        self.status = status
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.body = {"error": message, **body}


class _CutError(Exception):
    """The connection breaks here."""


_ROUTES: list[tuple[str, re.Pattern[str], Callable]] = []


def _route(method: str, pattern: str) -> Callable[[Callable], Callable]:
    """Registers a method of the handler; `:repo` is `user/name` and every other group one quoted part of the path."""
    expanded = pattern.replace(":repo", r"(?P<repo>[^/]+/[^/]+)").replace(":revision", r"(?P<revision>[^/]+)")

    def register(function: Callable) -> Callable:
        _ROUTES.append((method, re.compile(expanded), function))
        return function

    return register


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # the client keeps its connections

    def do_GET(self) -> None:
        self.hub: Hub = self.server.hub
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.hub.requests.append(f"{self.command} {url.path}")
        try:
            function, arguments = self._find_route(url.path)
            if function.__name__ in self.hub.out_of_order:
                raise _HubError(500, "Internal Error")
            self.cut = None if self.command == "HEAD" else self.hub.take_cut(function.__name__)
            self.body = self._read_body()
            function(self, **arguments)
        except _HubError as error:
            self._json(error.body, error.status, error.headers)
        except _CutError:
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        pass

    # HTTP

    def _find_route(self, path: str) -> tuple[Callable, dict[str, str]]:
        for method, pattern, function in _ROUTES:
            match = pattern.fullmatch(path)
            if match and method == self.command.replace("HEAD", "GET"):
                return function, {name: unquote(value) for name, value in match.groupdict().items() if value}
        return _Handler.nothing, {"path": path}

    def nothing(self, path: str) -> None:
        raise _HubError(404, f"Sorry, we can't find {path}")

    def _read_body(self) -> bytes:
        length = int(self.headers.get("Content-Length", 0))
        if self.cut is None or self.command == "GET":
            body = self.rfile.read(length)
            if len(body) == length:
                return body
        else:
            self.rfile.read(min(self.cut, length))
        raise _CutError

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(content).encode(), status, {"Content-Type": "application/json"} | (headers or {}))

    def _send(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: self.cut])
            if self.cut is not None:
                raise _CutError

    # Who may what

    def _user(self) -> str | None:
        """None without a token; a wrong one is refused everywhere, as on the Hub."""
        header = self.headers.get("Authorization")
        if header is None:
            return None
        user = self.hub.users.get(header.removeprefix("Bearer "))
        if user is None:
            raise _HubError(401, "Invalid credentials in Authorization header")
        return user

    def _readable(self, repo: str) -> Repository:
        """What is private does not exist for anybody else."""
        user = self._user()
        repository = self.hub.repositories.get(repo)
        if repository is None or (repository.private and user != repo.partition("/")[0]):
            raise _HubError(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return repository

    def _writable(self, repo: str) -> Repository:
        repository = self._readable(repo)
        user = self._user()
        if user is None or ("create_pr" not in self.query and user != repo.partition("/")[0]):
            raise _HubError(403, "Forbidden: you must use a write token to upload to a repository.")
        return repository

    @staticmethod
    def _commit(repository: Repository, revision: str) -> str:
        commit = repository.find(revision)
        if commit is None:
            raise _HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # Writing

    @_route("GET", "/api/whoami-v2")
    def whoami(self) -> None:
        user = self._user()
        if user is None:
            raise _HubError(401, "Invalid username or password.")
        self._json({"type": "user", "name": user, "orgs": []})

    @_route("POST", "/api/repos/create")
    def create_repo(self) -> None:
        user = self._user()
        request = json.loads(self.body)
        if user is None:
            raise _HubError(401, "Invalid username or password.")
        namespace = request["organization"] or user
        name = f"{namespace}/{request['name']}"
        if namespace != user:
            raise _HubError(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')
        url = {"url": f"{self.hub.url}/{name}"}
        if name in self.hub.repositories:
            raise _HubError(409, "You already created this model repo", **url)
        repository = Repository(private=request.get("visibility") == "private")
        repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        self.hub.repositories[name] = repository
        self._json({**url, "name": name})

    @_route("POST", "/api/models/:repo/branch/:revision")
    def create_branch(self, repo: str, revision: str) -> None:
        repository = self._writable(repo)
        start = json.loads(self.body).get("startingPoint", "main")
        if revision in repository.branches:
            raise _HubError(409, "Reference already exists")
        repository.branches[revision] = self._commit(repository, start)
        self._json({})

    @_route("POST", "/api/validate-yaml")
    def validate_yaml(self) -> None:
        """Asked before any commit that holds a README.md."""
        header = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.DOTALL)
        try:
            yaml.safe_load(header[1] if header else "")
        except yaml.YAMLError as error:
            raise _HubError(400, "invalid metadata", errors=[{"message": str(error)}], warnings=[]) from error
        self._json({"errors": [], "warnings": [] if header else [{"message": "empty or missing yaml metadata"}]})

    @_route("POST", "/api/models/:repo/preupload/:revision")
    def preupload(self, repo: str, revision: str) -> None:
        """By which way each file will come; the oid of a file that is there already spares sending it."""
        repository = self._writable(repo)
        present = repository.commits[self._commit(repository, revision)]
        answers = []
        for file in json.loads(self.body)["files"]:
            lfs = is_lfs(file["size"], base64.b64decode(file["sample"]))
            oid = _oid(present[file["path"]]) if file["path"] in present else None
            mode = "lfs" if lfs else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answers})

    @_route("POST", r"/:repo\.git/info/lfs/objects/batch")
    def lfs_batch(self, repo: str) -> None:
        self._readable(repo)
        answers = []
        for wanted in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.hub.url}/lfs/{repo}/{wanted['oid']}/{wanted['size']}"}
            stored = (repo, wanted["oid"]) in self.hub.lfs_objects
            answers.append(wanted | ({} if stored else {"actions": {"upload": upload}}))
        self._json({"transfer": "basic", "objects": answers})

    @_route("PUT", r"/lfs/:repo/(?P<oid>[0-9a-f]{64})/(?P<size>\d+)")
    def lfs_put(self, repo: str, oid: str, size: str) -> None:
        content = self.body
        if len(content) != int(size) or hashlib.sha256(content).hexdigest() != oid:
            raise _HubError(400, "the content is not what was announced")
        self.hub.lfs_objects[repo, oid] = content
        self._json({})

    @_route("POST", "/api/models/:repo/commit/:revision")
    def commit(self, repo: str, revision: str) -> None:
        repository = self._writable(repo)
        lines = [json.loads(line) for line in self.body.splitlines()]
        with self.hub.lock:
            files = dict(repository.commits[self._commit(repository, revision)])
            for line in lines:
                self._apply(line["key"], line["value"], files, repo)
            pulls = sum(branch.startswith("refs/pr/") for branch in repository.branches)
            branch = f"refs/pr/{pulls + 1}" if "create_pr" in self.query else revision
            oid = repository.commit(branch, files)
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}"}
        self._json(answer | {"pullRequestUrl": f"{self.hub.url}/{repo}/discussions/{pulls + 1}"})

    def _apply(self, key: str, value: dict, files: dict[str, bytes], repo: str) -> None:
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            content = self.hub.lfs_objects.get((repo, value["oid"]))
            if content is None or len(content) != value["size"]:
                raise _HubError(400, f"the LFS object of {value['path']} is missing")
            files[value["path"]] = content
        elif key == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise _HubError(404, f"A file with this name doesn't exist: {value['path']}", "EntryNotFound")
        elif key != "header":
            raise _HubError(400, f"unknown operation {key}")

    # Reading

    @_route("GET", "/api/models/:repo")
    @_route("GET", "/api/models/:repo/revision/:revision")
    def model_info(self, repo: str, revision: str = "main") -> None:
        repository = self._readable(repo)
        commit = self._commit(repository, revision)
        siblings = [{"rfilename": path} for path in repository.commits[commit]]
        settings = {"private": repository.private, "gated": "manual" if repository.gated else False}
        self._json({"id": repo, "modelId": repo, "sha": commit, "tags": [], "siblings": siblings, **settings})

    @_route("GET", "/api/models/:repo/tree/:revision(?:/(?P<folder>.+))?")
    def tree(self, repo: str, revision: str, folder: str = "") -> None:
        """Every file below a folder: the client asks for additional chat templates and, for deletions, everything."""
        repository = self._readable(repo)
        files = repository.commits[self._commit(repository, revision)]
        entries = []
        for path, content in files.items():
            if path.startswith(f"{folder}/" if folder else ""):
                large = {"lfs": {"oid": _oid(content), "size": len(content), "pointerSize": 134}}
                entry = {"type": "file", "path": path, "size": len(content), "oid": _git_oid(content)}
                entries.append(entry | (large if is_lfs(len(content), content) else {}))
        if folder and not entries:
            raise _HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        self._json(entries)

    @_route("GET", "/datasets/:repo/resolve/:revision/(?P<path>.+)")
    @_route("GET", "/:repo/resolve/:revision/(?P<path>.+)")
    def resolve(self, repo: str, revision: str, path: str) -> None:
        """The file itself. The client asks HEAD first: the ETag names the file in its cache, the commit its folder."""
        repository = self._readable(repo)
        if repository.gated and self._user() != repo.partition("/")[0]:
            raise _HubError(403, f"Access to model {repo} is restricted and you are not in the list.", "GatedRepo")
        commit = self._commit(repository, revision)
        if path not in repository.commits[commit]:
            missing = _HubError(404, "Entry not found", "EntryNotFound")
            missing.headers["X-Repo-Commit"] = commit  # lets the client remember that this commit lacks the file
            raise missing
        content = repository.commits[commit][path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_git_oid(content)}"', "Accept-Ranges": "bytes"}
        if is_lfs(len(content), content):
            headers |= {"X-Linked-Etag": f'"{_oid(content)}"', "X-Linked-Size": str(len(content))}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted is None:
            self._send(content, 200, headers)
        else:
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._send(content[start:], 206, headers)


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _oid(content: bytes) -> str:
    """How the Hub names a content: SHA-256 where it is kept out of git."""
    return hashlib.sha256(content).hexdigest() if is_lfs(len(content), content) else _git_oid(content)
