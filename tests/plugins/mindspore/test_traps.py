"""What MindSpore does that nobody expects, and that the plugin must keep from happening."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("mindspore")

from runner import Batch, ModelEntry
from runner.errors import PluginError
from runner.framework.options import SgdOptions
from runner_mindspore.autoload import ISA_VARIABLES, Tensor, check_numpy, instruction_limit, ops

if TYPE_CHECKING:
    from tests.plugins.mindspore.conftest import MakeBatches, MakeEngine, Mode

    from runner_mindspore.engine import MindSporeEngine

FAST, SLOW = {"sse2", "avx2"}, {"sse2", "avx2", "avx512f"}


def same(a: Any, b: Any) -> bool:
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


def run(code: str, **environment: str) -> str:
    """Run a program in a process that has imported nothing yet, and return what it prints."""
    inherited = {k: v for k, v in os.environ.items() if k not in (*ISA_VARIABLES, "MS_OM_PATH")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=inherited | environment,
    )
    return done.stdout


# NumPy 2


def test_numpy_2_is_refused_with_the_command_that_helps() -> None:
    check_numpy("1.26.4")
    with pytest.raises(PluginError, match=r"found numpy 2\.1\.0.*pip install 'numpy>=1\.26,<2'"):
        check_numpy("2.1.0")


def test_with_numpy_2_devices_are_missing_for_that_reason() -> None:
    code = (
        "import numpy; numpy.__version__ = '2.3.0'\n"
        "import sys, runner_mindspore.plugin as p\n"
        "found = [entry.probe() for entry in p.runner_register_devices()]\n"
        "assert 'mindspore' not in sys.modules\n"
        "print(*(f'{f.available}: {f.reason}' for f in found), sep='\\n')"
    )
    lines = run(code).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("False: ") and "found numpy 2.3.0" in line for line in lines)


# oneDNN and AVX-512


def test_onednn_is_limited_only_where_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ISA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert instruction_limit("2.10.0", SLOW) == "AVX2"
    assert instruction_limit("2.9.0", SLOW) == "AVX2"
    assert instruction_limit("3.0.0rc1", SLOW) == "AVX2"
    assert instruction_limit("2.8.0", SLOW) is None
    assert instruction_limit("2.10.0", FAST) is None


@pytest.mark.parametrize("name", ISA_VARIABLES)
def test_the_users_own_limit_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for variable in ISA_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, "AVX512_CORE")
    assert instruction_limit("2.10.0", SLOW) is None


REPORT = (
    "import json, os\n"
    "from runner_mindspore.autoload import ADJUSTMENTS, ISA_VARIABLES\n"
    "names = (*ISA_VARIABLES, 'MS_OM_PATH')\n"
    "print(json.dumps([ADJUSTMENTS, {n: os.environ[n] for n in names if n in os.environ}]))"
)


def test_every_variable_that_is_set_is_reported() -> None:
    adjustments, variables = json.loads(run(REPORT))
    assert not Path(variables["MS_OM_PATH"]).exists()  # nothing has failed
    assert len(adjustments) == len(variables)
    assert all(any(name in line for line in adjustments) for name in variables)


def test_variables_that_the_user_has_set_are_neither_changed_nor_reported(tmp_path: Path) -> None:
    own = {"DNNL_MAX_CPU_ISA": "SSE41", "MS_OM_PATH": str(tmp_path)}
    assert json.loads(run(REPORT, **own)) == [[], own]


# Buffers that compiled steps hold on to


@pytest.mark.parametrize(
    "changes",
    [
        {"ema_decay": 0.5},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"micro_batch_size": 2}, marks=pytest.mark.slow),
    ],
)
def test_weights_that_are_loaded_after_a_step_are_those_it_goes_on_with(
    make_engine: MakeEngine, make_batches: MakeBatches, mode: Mode, changes: dict[str, Any]
) -> None:
    first, *others = make_batches(4)
    engine, fresh = (make_engine(mode=mode, **changes) for _ in range(2))
    weights, state = engine.weights(), engine.state()
    for batch in (first, first):
        engine.train_step(batch, 0.1)
        engine.eval_step(batch)
    engine.load_weights(weights)
    engine.load_state(state)
    assert np.array_equal(engine.predict(first.images), fresh.predict(first.images))
    for batch in others:
        assert engine.train_step(batch, 0.1).read() == fresh.train_step(batch, 0.1).read()
    assert same(engine.weights(), fresh.weights())
    assert np.array_equal(engine.predict(first.images), fresh.predict(first.images))


# Running statistics


def statistics(engine: MindSporeEngine) -> dict[str, Any]:
    return {name: array for name, array in engine.weights().items() if name.startswith("bn.r")}


def batch_mean(engine: MindSporeEngine, batch: Batch) -> Any:
    return engine._model.conv(engine._pixels.tensor(batch.images)).asnumpy().mean(axis=(0, 2, 3))


def test_a_step_moves_running_statistics_once_and_an_evaluation_does_not(
    make_engine: MakeEngine, make_batches: MakeBatches, mode: Mode
) -> None:
    engine = make_engine(mode=mode)
    first, second = make_batches(2)
    engine.eval_step(first).read()
    assert not statistics(engine)["bn.running_mean"].any()

    expected = 0.1 * batch_mean(engine, first)
    engine.train_step(first, 0.1).read()
    after = statistics(engine)
    np.testing.assert_allclose(after["bn.running_mean"], expected, rtol=1e-4, atol=1e-6)

    engine.eval_step(second).read()
    engine.predict(second.images)
    assert same(statistics(engine), after)

    expected = 0.9 * expected + 0.1 * batch_mean(engine, second)
    engine.train_step(second, 0.1).read()
    found = statistics(engine)["bn.running_mean"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_every_pass_of_a_step_moves_running_statistics_once(
    make_engine: MakeEngine, make_batches: MakeBatches, mode: Mode
) -> None:
    (batch,) = make_batches(1)
    engine = make_engine(mode=mode, micro_batch_size=2)
    halves = [
        Batch(images=batch.images[part], labels=batch.labels[part], indices=batch.indices[part])
        for part in (slice(0, 2), slice(2, 4))
    ]
    first, second = (0.1 * batch_mean(engine, half) for half in halves)
    engine.train_step(batch, 0.1).read()
    found = statistics(engine)["bn.running_mean"]
    np.testing.assert_allclose(found, 0.9 * first + second, rtol=1e-4, atol=1e-6)
    assert engine.weights()["bn.num_batches_tracked"] == 2


def test_evaluation_uses_running_statistics_and_training_those_of_the_batch(
    make_engine: MakeEngine, make_batches: MakeBatches, mode: Mode
) -> None:
    engine = make_engine(mode=mode)
    (batch,) = make_batches(1)
    single = batch.images[:1]
    alone = engine.predict(single)
    together = engine.predict(batch.images)
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-6)
    loss = engine.eval_step(batch).read().loss_sum / 4
    assert engine.train_step(batch, 0.0).read().loss != pytest.approx(loss, rel=1e-3)


# Weight decay


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ((), set()),
        (("bias",), {"conv.bias", "bn.bias", "fc.bias"}),
        (("norm",), {"bn.weight", "bn.bias"}),
        (("fc.*",), {"fc.weight", "fc.bias"}),
    ],
)
def test_decay_is_of_the_named_parameters_and_no_others(
    make_engine: MakeEngine, make_batches: MakeBatches, rules: tuple[str, ...], kept: set[str]
) -> None:
    options: dict[str, Any] = {
        "optimizer_options": SgdOptions(momentum=0.0),
        "no_weight_decay": rules,
    }
    plain, decayed = (make_engine(weight_decay=decay, **options) for decay in (0.0, 0.5))
    before = plain.weights()
    before["bn.bias"][:] = before["conv.bias"][:] = before["fc.bias"][:] = 0.25
    (batch,) = make_batches(1)
    for engine in (plain, decayed):
        engine.load_weights(before)
        engine.train_step(batch, 0.1)
    expected, found = plain.weights(), decayed.weights()
    for name in ("conv.weight", "conv.bias", "bn.weight", "bn.bias", "fc.weight", "fc.bias"):
        decay = 0.0 if name in kept else 0.1 * 0.5 * before[name]
        np.testing.assert_allclose(found[name], expected[name] - decay, atol=1e-6, err_msg=name)


# Files and graphs


def test_a_graph_that_cannot_be_compiled_leaves_no_files_in_the_working_directory(
    make_engine: MakeEngine, make_batches: MakeBatches, tiny: Any, tmp_path: Path
) -> None:
    class Broken(tiny):
        def construct(self, images: Tensor) -> Tensor:
            return ops.matmul(images, ops.ones((3, 5, 7)))

    entry = ModelEntry(
        name="broken",
        summary="Multiplies shapes that do not fit",
        framework="mindspore",
        build=lambda options, classes: Broken(classes, norm=True, dropout=0),
    )
    with pytest.raises(RuntimeError, match="MatMul"):
        make_engine(model=entry, mode="graph").train_step(make_batches(1)[0], 0.1)
    assert list(tmp_path.iterdir()) == []


def test_a_smaller_last_batch_compiles_no_second_graph(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    engine = make_engine(mode="graph")
    large, small = make_batches(1, images=6)[0], make_batches(1, images=5)[0]
    for _ in range(2):
        engine.train_step(large, 0.1)
        engine.eval_step(large)
        engine.eval_step(small)
        engine.predict(small.images)
    assert engine._training is not None
    assert len(engine._evaluate.compile_cache) == 1
    assert len(engine._training.step.compile_cache) == 1
