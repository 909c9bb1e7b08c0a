"""A small Hub in memory, for the real clients of huggingface_hub, transformers and datasets to talk to.

It listens on 127.0.0.1 only, keeps everything in memory, and lets a test plant faults. Uploads go by LFS, so a client
needs what `Hub.environment` says before it imports huggingface_hub. It knows what these clients were seen to call
(huggingface_hub 2.4, transformers 5.23, datasets 5.2), one branch a repository, and nothing else.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

BINARY = {".safetensors", ".bin", ".pt", ".pth", ".onnx", ".parquet", ".png"}
USER = "me"


@dataclass(frozen=True)
class File:
    content: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        """As git names a file, or as LFS does: what a client compares its own file with."""
        if self.lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: dict[str, File]


@dataclass
class Repository:
    """`commits` starts with the empty one that the Hub makes with a repository."""

    private: bool
    sdk: str | None = None  # of a Space
    commits: list[Commit] = field(default_factory=lambda: [Commit("0" * 40, "initial commit", {})])

    def at(self, revision: str) -> Commit:
        if revision == "main":
            return self.commits[-1]
        for commit in self.commits:
            if commit.oid == revision:
                return commit
        raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")


@dataclass
class Fault:
    """What the next `times` matching requests get: `status`, or a cut connection where that is None.

    `late`: the connection is cut after the request was done, so that only its answer is lost.
    """

    method: str
    path: re.Pattern[str]
    status: int | None
    times: int
    message: str
    late: bool


class RefusedError(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, code: str = "", message: str = "", body: dict[str, Any] | None = None) -> None:
        super().__init__(status, code, message)
        self.status, self.code, self.message, self.body = status, code, message, body


class Hub:
    """The server and what it holds; use it as a context manager.

    Attributes:
        repositories: (type, id), for instance ("model", "me/student"), to the repository.
        blobs: what was uploaded by LFS, by its sha256.
        requests: method and path of every request.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        self._faults: list[Fault] = []
        self._interrupt: tuple[int, Callable[[], None]] = 0, lambda: None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """What a client must have in its environment from the start; `home` holds its caches."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "x",
            "NO_PROXY": "127.0.0.1",
        }

    def interrupt_at(self, number: int, interrupt: Callable[[], None]) -> None:
        """Call a function when the request of this number from now on arrives, which gets no answer."""
        self._interrupt = len(self.requests) + number, interrupt

    def interrupted(self, number: int) -> bool:
        """Whether the request of this number, from the first one on, was to be interrupted; it is then."""
        if number != self._interrupt[0]:
            return False
        self._interrupt[1]()
        return True

    def plant(
        self,
        method: str,
        path: str,
        status: int | None,
        times: int = 1,
        message: str = "planted",
        late: bool = False,
    ) -> None:
        """The next `times` requests with this method, whose path the expression is found in, fail; see `Fault`."""
        self._faults.append(Fault(method, re.compile(path), status, times, message, late))

    def unused_faults(self) -> list[Fault]:
        return [fault for fault in self._faults if fault.times > 0]

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self._faults:
                if fault.times > 0 and fault.method == method and fault.path.search(path):
                    fault.times -= 1
                    return fault
        return None

    def commits(self, repo_id: str, kind: str = "model") -> list[Commit]:
        """The commits that clients made."""
        return self.repositories[kind, repo_id].commits[1:]

    def files(self, repo_id: str, kind: str = "model") -> dict[str, bytes]:
        """What the branch holds now."""
        return {path: file.content for path, file in self.repositories[kind, repo_id].at("main").files.items()}


ROUTES: list[tuple[str, re.Pattern[str], str]] = []


def route(method: str, path: str) -> Callable[[Callable], Callable]:
    """Have a method of `Handler` answer; `{}` in the path is one piece, KIND and REPO are a repository's."""
    pattern = path.replace("{}", "([^/]+)")
    pattern = pattern.replace("PREFIX", "(datasets/|spaces/|)").replace("KIND", "(model|dataset|space)s")
    pattern = pattern.replace("REPO", "([^/]+/[^/]+?)")

    def keep(function: Callable) -> Callable:
        ROUTES.append((method, re.compile(pattern), function.__name__))
        return function

    return keep


class Handler(BaseHTTPRequestHandler):
    """One request; each route returns JSON, or answers by itself and returns None."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Say nothing: the tests look at `Hub.requests`."""

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def answer(self) -> None:
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        with self.hub.lock:
            self.hub.requests.append((self.command, address.path))
            number = len(self.hub.requests)
        if self.hub.interrupted(number):
            self.cut()
            return
        fault = self.hub.fault(self.command, address.path)
        if fault is not None and fault.status is None and not fault.late:
            self.cut()  # before the body is read: the client is still sending
            return
        self.body = self.read_body()
        try:
            if fault is not None and fault.status is not None:
                raise RefusedError(fault.status, "", fault.message)
            with self.hub.lock:
                found = self.find(address.path)()
            if fault is not None:
                self.cut()
                return
        except RefusedError as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": " ".join(refused.message.split())}
            body = refused.body or {"error": refused.message}
            self.send(refused.status, json.dumps(body).encode(), {name: text for name, text in headers.items() if text})
        else:
            if found is not None:
                self.send(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def find(self, path: str) -> Callable[[], Any]:
        for method, pattern, name in ROUTES:
            match = pattern.fullmatch(path) if method in (self.command, "ANY") else None
            if match is not None:
                return lambda: getattr(self, name)(*(unquote(part or "") for part in match.groups()))
        raise RefusedError(404, "", f"no such endpoint: {self.command} {path}")

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def repository(self, kind: str, repo_id: str) -> Repository:
        """A repository that this client may see; for one that it may not, the Hub answers as if there were none."""
        found = self.hub.repositories.get((kind, repo_id))
        if found is None or (found.private and "Authorization" not in self.headers):
            raise RefusedError(404 if "Authorization" in self.headers else 401, "RepoNotFound", "Repository not found")
        return found

    def writable(self, kind: str, repo_id: str) -> Repository:
        if "Authorization" not in self.headers:
            raise RefusedError(401, "", "Invalid username or password.")
        return self.repository(kind, repo_id)

    # Repositories

    @route("GET", "/api/whoami-v2")
    def whoami(self) -> dict[str, Any]:
        return {"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}}

    @route("POST", "/api/repos/create")
    def create(self) -> dict[str, Any]:
        wanted = json.loads(self.body)
        kind, repo_id = wanted.get("type", "model"), f"{wanted.get('organization') or USER}/{wanted['name']}"
        if "Authorization" not in self.headers:
            raise RefusedError(401, "", "Invalid username or password.")
        url = f"{self.hub.endpoint}/{'' if kind == 'model' else kind + 's/'}{repo_id}"
        if (kind, repo_id) in self.hub.repositories:
            raise RefusedError(
                409, "", "You already created this repo", {"error": "You already created it", "url": url}
            )
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.repositories[kind, repo_id] = Repository(private, wanted.get("sdk"))
        return {"url": url, "name": repo_id, "id": repo_id}

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self) -> dict[str, Any]:
        """Of all that the real Hub looks at, only whether the licence is one word."""
        if re.search(r"^license: \S+ ", json.loads(self.body)["content"], re.M):
            wrong = {"errors": [{"message": '"license" must be one of the known ones'}], "warnings": []}
            raise RefusedError(400, body=wrong)
        return {"errors": [], "warnings": []}

    @route("GET", r"/api/KIND/REPO(?:/revision/{})?")
    def info(self, kind: str, repo_id: str, revision: str) -> dict[str, Any]:
        repository = self.repository(kind, repo_id)
        commit = repository.at(revision or "main")
        return {
            "_id": repo_id,
            "id": repo_id,
            "modelId": repo_id,
            "sha": commit.oid,
            "private": repository.private,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        }

    @route("GET", "/api/KIND/REPO/refs")
    def refs(self, kind: str, repo_id: str) -> dict[str, Any]:
        head = self.repository(kind, repo_id).at("main").oid
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": head}
        return {"branches": [branch], "converts": [], "tags": [], "pullRequests": []}

    # Writing

    @route("POST", "/api/KIND/REPO/preupload/{}")
    def preupload(self, kind: str, repo_id: str, revision: str) -> dict[str, Any]:
        present = self.writable(kind, repo_id).at(revision).files
        answers = []
        for asked in json.loads(self.body)["files"]:
            path = asked["path"]
            mode = "lfs" if Path(path).suffix in BINARY or asked["size"] > 10_000_000 else "regular"
            answer = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            answers.append(answer | ({"oid": present[path].oid} if path in present else {}))
        return {"files": answers}

    @route("POST", r"/PREFIXREPO\.git/info/lfs/objects/batch")
    def lfs_batch(self, prefix: str, repo_id: str) -> dict[str, Any]:
        self.writable(kind_of(prefix), repo_id)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            href = f"{self.hub.endpoint}/lfs/{asked['oid']}"
            missing = asked["oid"] not in self.hub.blobs
            objects.append(asked | ({"actions": {"upload": {"href": href}}} if missing else {}))
        return {"transfer": "basic", "objects": objects}

    @route("PUT", "/lfs/{}")
    def lfs_put(self, oid: str) -> dict[str, Any]:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise RefusedError(400, "", "the content has another sha256")
        self.hub.blobs[oid] = self.body
        return {}

    @route("POST", "/api/KIND/REPO/commit/{}")
    def commit(self, kind: str, repo_id: str, revision: str) -> dict[str, Any]:
        repository = self.writable(kind, repo_id)
        files, title = dict(repository.at(revision).files), ""
        for line in self.body.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit", repository.commits[-1].oid) != repository.commits[-1].oid:
                    raise RefusedError(412, "", "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    raise RefusedError(400, "", f"{value['path']} was not uploaded")
                files[value["path"]] = File(self.hub.blobs[value["oid"]], lfs=True)
            elif key in ("deletedFile", "deletedFolder"):
                gone = value["path"].rstrip("/")
                files = {path: file for path, file in files.items() if path != gone and not path.startswith(gone + "/")}
            else:
                raise RefusedError(400, "", f"unknown operation {key}")
        seen = f"{repo_id} {len(repository.commits)} {title}"
        repository.commits.append(Commit(hashlib.sha1(seen.encode()).hexdigest(), title, files))
        oid = repository.commits[-1].oid
        page = f"{self.hub.endpoint}/{'' if kind == 'model' else kind + 's/'}{repo_id}/commit/{oid}"
        return {"success": True, "commitOid": oid, "commitUrl": page}

    # Reading

    @route("GET", r"/api/KIND/REPO/tree/{}(?:/(.+))?")
    def tree(self, kind: str, repo_id: str, revision: str, folder: str) -> list[dict[str, Any]]:
        files = self.repository(kind, repo_id).at(revision).files
        start = f"{folder.rstrip('/')}/" if folder else ""
        inside = {path[len(start) :]: file for path, file in files.items() if path.startswith(start)}
        if start and not inside:
            raise RefusedError(404, "EntryNotFound", f"{folder} does not exist")
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        parents = {str(parent) for path in inside for parent in Path(path).parents if str(parent) != "."}
        folders = [parent for parent in parents if recursive or "/" not in parent]
        return [folder_node(start + name) for name in sorted(folders)] + [
            file_node(start + path, file) for path, file in sorted(inside.items()) if recursive or "/" not in path
        ]

    @route("POST", "/api/KIND/REPO/paths-info/{}")
    def paths_info(self, kind: str, repo_id: str, revision: str) -> list[dict[str, Any]]:
        files = self.repository(kind, repo_id).at(revision).files
        if "json" in self.headers.get("Content-Type", ""):
            asked = json.loads(self.body)["paths"]
        else:
            asked = parse_qs(self.body.decode())["paths"]
        asked = [asked] if isinstance(asked, str) else asked
        return [file_node(path, files[path]) for path in asked if path in files] + [
            folder_node(path) for path in asked if any(other.startswith(path + "/") for other in files)
        ]

    @route("ANY", "/PREFIXREPO/resolve/{}/(.+)")
    def resolve(self, prefix: str, repo_id: str, revision: str, path: str) -> None:
        commit = self.repository(kind_of(prefix), repo_id).at(revision)
        if path not in commit.files:
            raise RefusedError(404, "EntryNotFound", f"{path} is not in {repo_id}")
        file = commit.files[path]
        headers = {"ETag": f'"{file.oid}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(len(file.content))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self.send(200, file.content, headers)
            return
        first, size = int(asked[1]), len(file.content)
        last = min(int(asked[2] or size), size - 1)
        if first > last:
            self.send(416, b"", headers | {"Content-Range": f"bytes */{size}"})
        else:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            self.send(206, file.content[first : last + 1], headers)


def kind_of(prefix: str) -> str:
    return prefix.rstrip("s/") or "model"


def file_node(path: str, file: File) -> dict[str, Any]:
    node = {"type": "file", "path": path, "oid": file.oid, "size": len(file.content)}
    lfs = {"oid": file.oid, "size": len(file.content), "pointerSize": 130}
    return node | ({"lfs": lfs} if file.lfs else {})


def folder_node(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
