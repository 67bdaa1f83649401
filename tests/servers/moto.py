"""moto as an S3 server on 127.0.0.1: moto.py [--port N] [--auth] [--user ID:SECRET:POLICY_FILE …] [--log]

Prints `listening http://127.0.0.1:PORT` when it accepts connections, and serves until SIGTERM or the end of its stdin, so that it does
not outlive a crashed test. Without --auth, any credentials will do. With it, signatures and IAM policies are enforced from the first
request on; ADMIN may do everything, and --user adds an access key with an inline policy. Users can also be made through IAM's own API.

moto's own server closes the connection after each answer, then waits for 10 ms; and its conditional writes check first and store
later. Hence the HTTP part here: connections stay open, a request reaches moto only with its body complete, and then alone.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import socketserver
import sys
import threading
import traceback
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.sax.saxutils import escape

HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != HERE]  # or `import moto` would be this file
os.environ.setdefault("MOTO_DISABLE_GLOBAL_CORS", "1")
os.environ.setdefault("MOTO_S3_DEFAULT_KEY_BUFFER_SIZE", str(32 << 20))  # larger objects go to temporary files

from moto import settings  # noqa: E402
from moto.core import DEFAULT_ACCOUNT_ID  # noqa: E402
from moto.iam.models import iam_backends  # noqa: E402
from moto.moto_server.werkzeug_app import BackendRequest, DomainDispatcherApplication, create_backend_app  # noqa: E402
from moto.s3.responses import S3Response  # noqa: E402
from werkzeug.exceptions import HTTPException  # noqa: E402
from werkzeug.test import run_wsgi_app  # noqa: E402

ADMIN = ("AKIAADMINISTRATOR000", "administrator-secret")
EVERYTHING = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'
MAX_LINE = 65536

Answer = tuple[int, dict[str, str], bytes]


def error(status: int, code: str, message: str) -> Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>'
    return status, {"content-type": "application/xml"}, body.encode()


class Connection(socketserver.StreamRequestHandler):
    server: Server
    disable_nagle_algorithm = True
    rbufsize = 1 << 18

    def handle(self) -> None:
        try:
            while self.one_request():
                pass
        except (ConnectionError, TimeoutError):
            pass

    def one_request(self) -> bool:
        line = self.rfile.readline(MAX_LINE)
        if not line.strip():
            return False
        words = line.decode("latin-1").split()
        if len(words) != 3:
            return self.answer("GET", *error(400, "BadRequest", "bad request line"), keep=False)
        method, target, version = words
        environ = self.environ(method, target, version)
        keep = version == "HTTP/1.1" and environ.get("HTTP_CONNECTION", "").lower() != "close"
        if environ.get("HTTP_EXPECT", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self.body(environ)
        if body is None:
            return self.answer(method, *error(400, "IncompleteBody", "fewer bytes than the Content-Length header says"), keep=False)
        environ["CONTENT_LENGTH"] = str(len(body))
        environ["wsgi.input"] = io.BytesIO(body)
        status, headers, content = self.server.respond(environ)
        if self.server.log:
            print(method, target, status, len(body), len(content), file=sys.stderr, flush=True)
        return self.answer(method, status, headers, content, keep)

    def environ(self, method: str, target: str, version: str) -> dict[str, Any]:
        path, _, query = target.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(path, "latin-1"),
            "QUERY_STRING": query.replace("+", "%20"),  # as signed; moto signs a plus as itself
            "RAW_URI": target,
            "REQUEST_URI": target,
            "REMOTE_ADDR": self.client_address[0],
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": str(self.server.server_address[1]),
            "SERVER_PROTOCOL": version,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        while (line := self.rfile.readline(MAX_LINE).decode("latin-1").rstrip("\r\n")) != "":
            name, _, value = line.partition(":")
            key = name.upper().replace("-", "_")
            if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
                key = "HTTP_" + key
            environ[key] = f"{environ[key]},{value.strip()}" if key in environ else value.strip()
        return environ

    def body(self, environ: dict[str, Any]) -> bytes | None:
        if "chunked" not in environ.pop("HTTP_TRANSFER_ENCODING", "").lower():
            length = int(environ.get("CONTENT_LENGTH") or 0)
            body = self.rfile.read(length) if length else b""
            return body if len(body) == length else None
        chunks = []
        while size := int(self.rfile.readline(MAX_LINE).split(b";")[0] or b"-1", 16):
            chunk = self.rfile.read(size + 2) if size > 0 else b""
            if not chunk.endswith(b"\r\n") or len(chunk) != size + 2:
                return None
            chunks.append(chunk[:-2])
        while self.rfile.readline(MAX_LINE).strip():
            pass
        return b"".join(chunks)

    def answer(self, method: str, status: int, headers: dict[str, str], content: bytes, keep: bool) -> bool:
        phrase = HTTPStatus(status).phrase
        lines = [f"HTTP/1.1 {status} {phrase}", f"Date: {formatdate(usegmt=True)}"]
        length = str(len(content))
        for name, value in headers.items():
            match name.lower():
                case "content-length":
                    length = value if method == "HEAD" else length
                case "date" | "connection" | "transfer-encoding":
                    pass
                case _:
                    lines.append(f"{name}: {value}")
        if status not in (204, 304):
            lines.append(f"Content-Length: {length}")
        if not keep:
            lines.append("Connection: close")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8")
        self.connection.sendall(head if method == "HEAD" or status in (204, 304) else head + content)
        return keep


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, port: int, auth: bool, log: bool) -> None:
        self.auth = auth
        self.log = log
        self.one_at_a_time = threading.Lock()
        self.other_services = DomainDispatcherApplication(create_backend_app)
        super().__init__(("127.0.0.1", port), Connection)

    def respond(self, environ: dict[str, Any]) -> Answer:
        try:
            # Reads too: moto lists what another thread may be changing.
            with self.one_at_a_time:
                return self.of_moto(environ)
        except Exception:
            traceback.print_exc()
            return error(500, "InternalError", traceback.format_exc(limit=-1))

    def of_moto(self, environ: dict[str, Any]) -> Answer:
        path = environ["RAW_URI"].partition("?")[0]
        signed = environ.get("HTTP_AUTHORIZATION", "")
        # Trading a token for a session is what nobody can sign yet.
        trades = not signed and path == "/" and environ["REQUEST_METHOD"] == "POST"
        if path.startswith("/moto-api/") or trades or (signed and "/s3/aws4_request" not in signed):
            chunks, status, headers = run_wsgi_app(self.other_services, environ)
            return int(status.split()[0]), dict(headers), b"".join(chunks)
        if self.auth and not signed:
            return error(403, "AccessDenied", "Access Denied")
        # The same functions as moto's Flask application would choose, without its half of the time.
        name, slash, key = path[1:].partition("/")
        if not name and not key:
            view = S3Response.bucket_dispatch
        elif name and not key:
            view = S3Response.ambiguous_dispatch
        else:
            view = S3Response.key_dispatch
        request = BackendRequest(environ)
        try:
            status, headers, content = view(request, request.raw_url, dict(request.headers))
        except HTTPException as exception:
            response = exception.get_response(environ)
            status, headers, content = response.status_code, dict(response.headers), response.get_data()
        return status, headers, content.encode() if isinstance(content, str) else content


def add_user(name: str, key: tuple[str, str], policy: str) -> None:
    iam = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
    iam.create_user("us-east-1", name)
    iam.put_user_policy(name, "inline", policy)
    access_key = iam.create_access_key(name)
    access_key.access_key_id, access_key.secret_access_key = key


def end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--auth", action="store_true", help="enforce signatures and policies")
    parser.add_argument("--user", action="append", default=[], metavar="ID:SECRET:POLICY_FILE")
    parser.add_argument("--log", action="store_true", help="requests to stderr")
    options = parser.parse_args()
    if options.auth:
        settings.INITIAL_NO_AUTH_ACTION_COUNT = 0.0
        add_user("administrator", ADMIN, EVERYTHING)
    for number, user in enumerate(options.user):
        identifier, secret, policy = user.split(":", 2)
        add_user(f"user-{number}", (identifier, secret), Path(policy).read_text())
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    threading.Thread(target=end_with_stdin, daemon=True).start()
    server = Server(options.port, options.auth, options.log)
    print(f"listening http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
