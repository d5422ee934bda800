"""Run a module as ``python -m`` does, without the current folder among those that are searched.

``python .../boot.py MODULE ARGUMENTS`` is how this program starts Python. ``python -P -m`` would do
the same from Python 3.11 on; and launchers that start a script themselves need a path anyway.
"""

import sys

if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # the folder of this file, before anything is imported
del sys.argv[0]

if __name__ == "__main__":
    import runpy

    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
