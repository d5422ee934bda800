"""The hooks that a plugin implements.

A plugin is a module with functions of these names, marked ``@hookimpl``, and an entry point in
the group ``runner.plugins``:

    from runner import ModelEntry, hookimpl, lazy

    @hookimpl
    def runner_register_models():
        build = lazy("my_package.net:build")  # which imports its framework, and is imported late
        yield ModelEntry(name="my_net", framework="torch", summary="My network", build=build)

There is a hook for each kind of entry, named in ``runner.plugins.kinds``. Hooks take nothing,
return or yield entries, and do no work: they are called before any framework is imported, also for
``runner list-plugins``. An entry's name is unique within its kind and framework; a clash is
reported with both plugins and neither is used.

What all entries of a module need, it says once. Where a module is missing, ``runner list-plugins``
shows the plugin as unavailable:

    RUNNER_REQUIRES = ("torch", "timm")
    RUNNER_INSTALL = "pip install my-package[torch]"
    RUNNER_FRAMEWORK = "torch"

``ModuleDefaults`` in ``runner.plugins.checks`` fills them in.
"""

from __future__ import annotations

import pluggy

hookspec = pluggy.HookspecMarker("runner")
hookimpl = pluggy.HookimplMarker("runner")
