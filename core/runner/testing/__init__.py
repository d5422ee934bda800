"""What plugin authors use in their tests: checks of the contracts, and a framework to run them on.

    from runner.testing import check_plugin, check_framework

    def test_plugin():
        check_plugin("my_package.plugin")

Every check raises ``AssertionError`` with a message that says what was promised and what was
found, so it works in pytest and in a plain script.
"""

from runner.testing.conformance import check_dataset, check_plugin
from runner.testing.engine_checks import check_framework

__all__ = ["check_dataset", "check_framework", "check_plugin"]
