"""Runs the first example of a README: that of this package, or the given one. Uses a separate local server."""

import os
import re
import sys
import tempfile
from pathlib import Path


def example(readme: Path) -> str:
    """Returns the first Python block."""
    found = re.search(r"^```python\n(.*?)^```$", readme.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{readme} has no block of Python"
    return found.group(1)


def main() -> None:
    """Runs the example in a temporary directory."""
    readme = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "README.md").absolute()
    with tempfile.TemporaryDirectory() as directory:
        os.environ["XDG_RUNTIME_DIR"] = directory
        os.environ["XDG_STATE_HOME"] = f"{directory}/state"
        os.environ.pop("FUMEHOOD_URL", None)
        os.chdir(directory)
        try:
            exec(compile(example(readme), str(readme), "exec"), {"__name__": "__main__"})
        finally:
            from fumehood import _local_server

            for server in _local_server._started_servers:
                server.terminate()
                try:
                    server.wait(60)
                except BaseException:
                    server.kill()
                    raise
    print(f"{readme.name}: its example ran")


if __name__ == "__main__":
    main()
