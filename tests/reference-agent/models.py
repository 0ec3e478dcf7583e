"""Compares an agent with models of version 0 of the protocol.

Usage: models.py HOST PORT [EXAMPLES]

The models say with pydantic what a client of version 0 may send and what it expects. Requests are generated so that the models
accept them. The agent must accept each, and each of its responses must be valid. The requests are the same in every run.
"""

import json
import socket
import sys
from typing import Annotated, Literal, Union

from hypothesis import HealthCheck, given, settings, strategies as st
from pydantic import BaseModel, Field, TypeAdapter, field_validator

HOST, PORT = sys.argv[1], int(sys.argv[2])
EXAMPLES = int(sys.argv[3]) if len(sys.argv) > 3 else 30

Language = Literal["python", "javascript", "raw"]
BLOCKED_NAMES = frozenset(
    "BASHOPTS BASH_ENV BUN_OPTIONS ENV GCONV_PATH GLIBC_TUNABLES IFS LOCPATH NODE_OPTIONS NODE_PATH PATH PERL5LIB PERL5OPT "
    "PROMPT_COMMAND PS4 PYTHONBREAKPOINT PYTHONHOME PYTHONINSPECT PYTHONPATH PYTHONPYCACHEPREFIX PYTHONSTARTUP "
    "PYTHONUSERBASE SHELLOPTS".split()
)
BLOCKED_PREFIXES = ("BASH_FUNC_", "BUN_INSPECT", "FUMEHOOD_", "LD_")


def has_control(text, allowed=""):
    return any(c not in allowed and (ord(c) < 32 or 127 <= ord(c) < 160) for c in text)


# Requests


class Ping(BaseModel):
    action: Literal["ping"] = "ping"


class Exec(BaseModel):
    action: Literal["exec"] = "exec"
    language: Language
    code: str
    timeout: int = Field(default=5, ge=0, le=300)
    env_vars: dict[str, str] = Field(default_factory=dict, max_length=100)

    @field_validator("code")
    @classmethod
    def check_code(cls, code):
        assert len(code.encode()) <= 2 * 1024 * 1024 and "\0" not in code
        return code

    @field_validator("env_vars")
    @classmethod
    def check_variables(cls, variables):
        for name, value in variables.items():
            assert 1 <= len(name.encode()) <= 256 and "=" not in name and not has_control(name)
            assert name not in BLOCKED_NAMES and not name.startswith(BLOCKED_PREFIXES)
            assert len(value.encode()) <= 4096 and not has_control(value, "\t\n")
        return variables


class InstallPackages(BaseModel):
    action: Literal["install_packages"] = "install_packages"
    language: Literal["python", "javascript"]
    packages: list[str] = Field(min_length=1, max_length=50)
    timeout: int = Field(default=300, ge=1, le=300)


# Responses. Fields that a later version adds are ignored.


class Output(BaseModel):
    type: Literal["stdout", "stderr"]
    chunk: str = Field(max_length=3 * 65536)


class Complete(BaseModel):
    type: Literal["complete"]
    exit_code: int
    execution_time_ms: int = Field(ge=0)
    spawn_ms: int | None = None
    process_ms: int | None = None


class Result(BaseModel):
    """The list of installed packages."""

    type: Literal["result"]


class Error(BaseModel):
    type: Literal["error"]
    message: str
    error_type: str
    version: str | None = None


class Pong(BaseModel):
    type: Literal["pong"]
    version: str


Response = TypeAdapter(Annotated[Union[Output, Complete, Result, Error, Pong], Field(discriminator="type")])

# Generated requests. Programs run on this machine, so all text in them is in comments.

CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0\n\r\u2028\u2029\x0b\x0c\x1c\x1d\x1e\x85")
PROGRAMS = {
    "python": ["print('out')", "import sys; print('err', file=sys.stderr); sys.exit(3)", "", "print('ü' * 5000)"],
    "raw": ["echo out", "echo err >&2; exit 3", "", "printf 'ü%.0s' 1 2 3", "kill -9 $$"],
    "javascript": ["console.log('out')", ""],
}
COMMENTS = {"python": "#", "raw": "#", "javascript": "//"}


@st.composite
def codes(draw, language):
    program = draw(st.sampled_from(PROGRAMS[language]))
    comment = draw(st.text(CHARACTERS, max_size=200))
    return f"{program}\n{COMMENTS[language]} {comment}"


def is_name(name):
    is_blocked = name in BLOCKED_NAMES or name.startswith(BLOCKED_PREFIXES)
    return "=" not in name and not has_control(name) and not is_blocked and 1 <= len(name.encode()) <= 256


# A prefix of its own, so that no variable changes the interpreters.
NAMES = st.text(CHARACTERS, max_size=40).map(lambda name: "V" + name).filter(is_name)
VALUES = st.text(CHARACTERS, max_size=200).filter(lambda value: not has_control(value, "\t\n"))
PYTHON = st.builds(
    lambda name, operator, version: f"{name}{operator}{version}",
    st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True).filter(lambda name: ".." not in name),
    st.sampled_from(["==", "!=", "~=", "<=", ">=", "<", ">"]),
    st.from_regex(r"[0-9]{1,3}\.[0-9]{1,3}(\.[0-9]{1,3})?", fullmatch=True),
)


@st.composite
def execs(draw):
    language = draw(st.sampled_from(["python", "raw", "javascript"]))
    variables = draw(st.dictionaries(NAMES, VALUES, max_size=5))
    timeout = draw(st.sampled_from([0, 60, 299, 300]))
    return Exec(language=language, code=draw(codes(language)), timeout=timeout, env_vars=variables)


LIMITS = [
    Exec(language="raw", code="#" * (2 * 1024 * 1024)),
    Exec(language="python", code="#" + "é" * (1024 * 1024 - 1) + "\n"),
    Exec(language="raw", code="", env_vars={f"V{number}": "" for number in range(100)}),
    Exec(language="raw", code="", env_vars={"V" * 256: "v" * 4096}),
    InstallPackages(language="python", packages=[f"p{number}==1" for number in range(50)], timeout=1),
    InstallPackages(language="python", packages=["n" * 214 + "==1"]),
]

connection = socket.create_connection((HOST, PORT), timeout=60)
lines = connection.makefile("rw", encoding="utf-8", newline="\n")


def answer(request):
    """Sends a request and returns its last response. All responses must be valid."""
    lines.write(request.model_dump_json() + "\n")
    lines.flush()
    while True:
        response = Response.validate_json(lines.readline(), strict=True)
        if not isinstance(response, (Output, Result)):
            return response


def check(request):
    response = answer(request)
    # An interpreter or installer that is missing is no fault of the request.
    is_missing = isinstance(response, Error) and response.error_type == "agent_error"
    expected = Pong if isinstance(request, Ping) else Complete
    assert is_missing or isinstance(response, expected), (json.dumps(request.model_dump())[:1000], response)


@settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(execs(), execs(), st.builds(Ping)))
def requests_of_the_models_are_accepted(request):
    check(request)


@settings(max_examples=EXAMPLES // 3, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.builds(InstallPackages, language=st.just("python"), packages=st.lists(PYTHON, min_size=1, max_size=50)))
def installations_of_the_models_are_accepted(request):
    check(request)


for request in LIMITS:
    check(request)
requests_of_the_models_are_accepted()
installations_of_the_models_are_accepted()
print("OK")
