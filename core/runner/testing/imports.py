"""Print which of some modules are imported when a plugin is loaded, in a process of its own."""

from __future__ import annotations

import importlib
import json
import sys

from runner.plugins.loading import load


def main() -> None:
    """Load the plugin module that the command line names, and look for those of its list (JSON)."""
    name, heavy = sys.argv[1], json.loads(sys.argv[2])
    load(extra=[("checked", importlib.import_module(name))], environ={"RUNNER_PLUGINS": ""})
    sys.stdout.write(json.dumps(sorted(set(heavy) & set(sys.modules))) + "\n")


if __name__ == "__main__":
    main()
