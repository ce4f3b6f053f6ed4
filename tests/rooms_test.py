#!/usr/bin/env python3
"""Guards the house: a room includes itself and lower rooms only, and no file grows past 800 lines.

The rooms and their numbers are those of docs/tour.md; a new room is added here first.
"""
import pathlib
import re
import sys

ROOMS = {"base": 0, "tensor": 1, "kernels": 2, "formats": 2, "text": 2, "layers": 3, "model": 4,
         "infer": 5, "train": 5, "plan": 5, "align": 6, "serve": 6, "apps": 7}
MAX_LINES = 800
SOURCES = {".cc", ".h", ".cu", ".cuh", ".ts", ".js", ".css", ".py", ".sh"}
# Tables and generated code may be longer.
EXEMPT = re.compile(r"(_table\.(cc|h)|\.generated\.\w+|package-lock\.json)$")


def room_of(path, root):
    parts = path.relative_to(root).parts
    return parts[1] if parts[0] == "src" else parts[0]


def check(root):
    errors = []
    for top in ("src", "apps", "tests", "bench", "web", "tools", "runs"):
        for path in sorted((root / top).rglob("*")):
            if path.suffix not in SOURCES or "node_modules" in path.parts or EXEMPT.search(path.name):
                continue
            lines = path.read_text(encoding="utf-8").splitlines()
            name = path.relative_to(root)
            if len(lines) > MAX_LINES:
                errors.append(f"{name}: {len(lines)} lines, at most {MAX_LINES}. Hint: look for the seam")
            if top not in ("src", "apps"):
                continue
            room = room_of(path, root)
            if room not in ROOMS:
                errors.append(f"{name}: room '{room}' is not known here. Hint: name a lower room, or add it to ROOMS")
                continue
            for number, line in enumerate(lines, 1):
                match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
                if not match:
                    continue
                target = match.group(1).split("/")[0]
                if "/" not in match.group(1):
                    errors.append(f'{name}:{number}: include "{match.group(1)}" does not name its room')
                elif room == "apps" and target == "westlake":
                    continue  # apps/westlake/ includes its own headers
                elif target not in ROOMS:
                    errors.append(f'{name}:{number}: include "{match.group(1)}" is of no room')
                elif target != room and ROOMS[target] >= ROOMS[room]:
                    errors.append(f"{name}:{number}: room {room} ({ROOMS[room]}) includes {target} ({ROOMS[target]}). "
                                  "Hint: arrows point down only")
    return errors


def self_test():
    """A guard that cannot fail guards nothing."""
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "src/base").mkdir(parents=True)
        (root / "src/base/a.h").write_text('#include "model/config.h"\n')
        (root / "src/base/b.h").write_text("\n" * 900)
        (root / "src/base/c.h").write_text('#include "result.h"\n')
        errors = check(root)
        assert len(errors) == 3, errors


if __name__ == "__main__":
    self_test()
    found = check(pathlib.Path(__file__).resolve().parent.parent)
    print("\n".join(found) if found else "rooms: ok")
    sys.exit(1 if found else 0)
