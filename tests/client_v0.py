"""A client of the guest agent, written from the protocol's first description alone.

Usage: client_v0.py HOST PORT
"""

import json
import socket
import sys

connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
lines = connection.makefile("rw", encoding="utf-8", newline="\n")


def ask(**request):
    """Sends one request; returns standard output, standard error and the last message."""
    lines.write(json.dumps(request) + "\n")
    lines.flush()
    output = {"stdout": "", "stderr": ""}
    while (message := json.loads(lines.readline()))["type"] in output:
        output[message["type"]] += message["chunk"]
    return output["stdout"], output["stderr"], message


def refused(error_type, **request):
    message = ask(**request)[2]
    assert (message["type"], message["error_type"]) == ("error", error_type), message


assert ask(action="ping")[2]["type"] == "pong"
out, err, end = ask(action="exec", language="python", code="print('hello')", timeout=60, env_vars={})
assert (out, err, end["type"], end["exit_code"]) == ("hello\n", "", "complete", 0), (out, err, end)
out, err, end = ask(action="exec", language="raw", code="echo $A >&2; exit 7", timeout=60, env_vars={"A": "ü"})
assert (out, err, end["exit_code"]) == ("", "ü\n", 7), (out, err, end)
refused("request_error", action="dance")
refused("request_error", action="exec", language="cobol", code="")
refused("code_error", action="exec", language="raw", code="#" * (2 * 1024 * 1024 + 1))
refused("env_var_error", action="exec", language="raw", code="", env_vars={f"V{n}": "" for n in range(101)})
refused("env_var_error", action="exec", language="raw", code="", env_vars={"LD_PRELOAD": "x"})
refused("package_error", action="install_packages", language="python", packages=["pandas"])
assert ask(action="ping")[2]["type"] == "pong"
print("OK")
