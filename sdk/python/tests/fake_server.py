#!/usr/bin/env python3
"""A fake `fumehood` binary for `serve --no-tcp --socket PATH --exit-when-idle S`.

It is ready immediately, or behaves as FAKE_SERVER says: `fails`, `hangs`, `missing` (no image), `held` (the first two
starts find that another server uses the state). Each start appends a line to FAKE_STARTS.
"""

import http.server
import json
import os
import socketserver
import sys
from pathlib import Path

HOW = os.environ.get("FAKE_SERVER", "")


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, told = 200, {"version": "fake", "pid": os.getpid()}
        if HOW == "missing" and self.path == "/readyz":
            error = {"kind": "missing", "retry": "never", "message": "there is no image; build one"}
            status, told = 503, {"error": error}
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "local"


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def main() -> None:
    assert sys.argv[1:3] == ["serve", "--no-tcp"] and sys.argv[5] == "--exit-when-idle", sys.argv
    with open(os.environ["FAKE_STARTS"], "a") as starts:
        starts.write(f"{os.getpid()}\n")
    if HOW == "fails":
        print("the disk is made of cheese", file=sys.stderr)
        raise SystemExit(3)
    if HOW == "held" and len(Path(os.environ["FAKE_STARTS"]).read_text().split()) <= 2:
        print("error: the state /x is in use by another server; use that server, or stop it first", file=sys.stderr)
        raise SystemExit(1)
    path = Path(sys.argv[4])
    path.unlink(missing_ok=True)
    os.umask(0o177)
    server = Server(str(path), Answers)
    if HOW != "hangs":
        server.serve_forever()
    import time

    time.sleep(600)


main()
