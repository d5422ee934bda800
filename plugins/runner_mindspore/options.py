"""The keys that this plugin adds to a recipe."""

from typing import Annotated, Literal, Optional

from annotated_types import Ge

from runner.options import options


@options
class MindSporeOptions:
    """Keys of `framework: mindspore`."""

    mode: Literal["graph", "pynative"] = "graph"
    """Compile the whole step before it runs the first time, which is the faster one, or run it
    operator by operator, which starts at once and names the line that fails."""
    deterministic: bool = False
    """Use deterministic kernels only. The CPU repeats itself bit for bit without it; on other
    devices it costs speed."""
    launcher: Literal["msrun", "rank_table"] = "msrun"
    """How several processes are started: by MindSpore's `msrun`, or one by one with a rank table
    that says which process has which card."""
    # Optional[] in place of `| None`: pydantic evaluates it on Python 3.10 as well.
    rank_table: Optional[str] = None  # noqa: UP045
    """Rank table file, for `launcher: rank_table`."""

    def __post_init__(self) -> None:
        if self.launcher == "rank_table" and self.rank_table is None:
            raise ValueError(
                "launcher rank_table needs rank_table, the file; "
                "python -m runner_mindspore.rank_table --help tells how to write one"
            )
        if self.launcher != "rank_table" and self.rank_table is not None:
            raise ValueError(
                f"rank_table has no effect with launcher {self.launcher}; "
                "set launcher to rank_table, or remove it"
            )


@options
class CpuOptions:
    """Keys of `device: cpu`."""

    threads: Annotated[int, Ge(2)] | None = None
    """Threads of one operation; left out, as many as there are cores, which several processes
    share evenly unless `OMP_NUM_THREADS` says otherwise. MindSpore starts at least two, and no
    more than there are cores."""


@options
class GpuOptions:
    """Keys of `device: gpu`."""

    index: Annotated[int, Ge(0)] | None = None
    """Which of the visible cards; left out, the launcher's choice or else the first.
    `CUDA_VISIBLE_DEVICES` says which are visible."""


@options
class AscendOptions:
    """Keys of `device: ascend`."""

    index: Annotated[int, Ge(0)] | None = None
    """Which of the visible cards; left out, the launcher's choice or else the first.
    `ASCEND_RT_VISIBLE_DEVICES` says which are visible."""
