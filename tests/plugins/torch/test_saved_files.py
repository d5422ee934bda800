"""Files of ``torch.save``, which are read as data, against what torch reads from them."""

from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import pickle
import struct
import tarfile
import zipfile
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runner.errors import CheckpointError
from runner_torch import saved_files
from runner_torch.autoload import torch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.plugins.torch.conftest import TinyNet

FORMS = pytest.mark.parametrize("archive", [True, False], ids=["archive", "plain"])


@pytest.fixture
def state(tiny: type[TinyNet]) -> dict[str, torch.Tensor]:
    """Weights in an order of memory that is not NumPy's."""
    return dict(tiny(10, norm=True, dropout=0).to(memory_format=torch.channels_last).state_dict())


def save(path: Path, content: object, *, archive: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    return path


def assert_equal(found: Mapping[str, Any], expected: Mapping[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        is_short = tensor.dtype == torch.bfloat16  # which NumPy lacks
        array = (tensor.float() if is_short else tensor).detach().numpy()
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype), name
        assert np.array_equal(found[name], array), name
        assert found[name].flags.c_contiguous
        assert found[name].flags.owndata


@FORMS
def test_what_training_scripts_save(
    tmp_path: Path, state: dict[str, torch.Tensor], archive: bool
) -> None:
    """Programs of torchvision, of Lightning and of others, with all that they save beside it."""
    content = {
        "model": state,
        "model_ema": {"n_averaged": torch.tensor(3), **state},
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []},
        "args": argparse.Namespace(lr=0.1, output_dir=pathlib.PurePosixPath("/x")),
        "best": np.float64(71.5),
        "history": np.zeros(3),
        "when": datetime.date(2020, 1, 1),
        "epoch": 3,
    }
    path = save(tmp_path / "model_3.pth", content, archive=archive)
    found = saved_files.read(path)
    assert saved_files.recognises(path)
    assert list(found.sets) == ["model", "model_ema"]
    assert_equal(found.sets["model"], state)
    assert [item.partition(" ")[0] for item in found.ignored] == [
        *("optimizer", "args", "best", "history", "when", "epoch")
    ]
    assert "args (argparse.Namespace)" in found.ignored


@FORMS
@pytest.mark.parametrize("key", ["", "state_dict", "net", "params", "weights"])
def test_a_state_dict_under_any_key(
    tmp_path: Path, state: dict[str, torch.Tensor], key: str, archive: bool
) -> None:
    path = save(tmp_path / "w.bin", {key: state} if key else state, archive=archive)
    assert_equal(saved_files.read(path).sets[key], state)


@FORMS
def test_a_module_that_was_saved_as_a_whole(
    tmp_path: Path, tiny: type[TinyNet], archive: bool
) -> None:
    module = tiny(10, norm=True, dropout=0)
    found = saved_files.read(save(tmp_path / "whole.pt", {"model": module}, archive=archive))
    assert_equal(found.sets["model"], module.state_dict())


@FORMS
def test_tensors_of_every_kind(tmp_path: Path, archive: bool) -> None:
    numbers = torch.arange(24.0).reshape(2, 3, 4)
    content = {
        "view": numbers[1:, :, 2:],
        "transposed": numbers.permute(2, 0, 1),
        "parameter": torch.nn.Parameter(numbers),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(7),
        "shared": numbers,
        **{
            str(kind): torch.tensor([0, 1, 3], dtype=kind)
            for kind in (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int16)
        },
        **{str(kind): torch.tensor([0, 1], dtype=kind) for kind in (torch.uint8, torch.bool)},
    }
    found = saved_files.read(save(tmp_path / "kinds.pth", content, archive=archive))
    assert_equal(found.sets[""], content)


@FORMS
def test_a_negated_view_keeps_its_sign(tmp_path: Path, archive: bool) -> None:
    """The imaginary part of a conjugated tensor has torch's negation bit, and is real."""
    tensor = torch.complex(torch.arange(4.0), torch.arange(4.0) + 1).conj().imag
    assert tensor.is_neg()
    found = saved_files.read(save(tmp_path / "neg.pth", {"a": tensor}, archive=archive))
    assert found.sets[""]["a"].tolist() == [-1, -2, -3, -4]


def _rebuild_card_tensor(*arguments: Any) -> Any:
    """Stand for what the package of an accelerator calls with a layout on the device."""
    return torch._utils._rebuild_tensor_v2(*arguments[:6])


@pytest.mark.parametrize("layout", [2, True, None])
def test_tensors_of_an_accelerators_own_package(tmp_path: Path, layout: object) -> None:
    numbers = torch.arange(6.0).untyped_storage()
    storage = torch.storage.TypedStorage(wrap_storage=numbers, dtype=torch.float32, _internal=True)

    class OnCard:
        def __reduce__(self) -> tuple[Any, ...]:
            arguments: tuple[Any, ...] = (storage, 0, (2, 3), (3, 1), False, {}, layout)
            return _rebuild_card_tensor, arguments

    content = {"a": OnCard(), "b": torch.zeros(1)}
    found = saved_files.read(save(tmp_path / "card.pth", content))
    if layout is None:  # it is not called as torch's own
        assert found.ignored == (f"a ({__name__}._rebuild_card_tensor)",)
    else:
        assert found.sets[""]["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_all_numbers_of_8_bits(tmp_path: Path, kind: torch.dtype) -> None:
    tensor = torch.arange(256, dtype=torch.uint8).view(kind)
    [found] = saved_files.read(save(tmp_path / "8.pth", {"a": tensor})).sets[""].values()
    assert np.array_equal(found, tensor.float().numpy(), equal_nan=True)


def write_tar(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write the form of torch before 0.1.10, as ``torch.serialization`` still reads it."""
    ids = {name: number for number, name in enumerate(tensors, 1)}

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: object) -> object:
            return str(item[1]) if isinstance(item, tuple) and item[0] == "tensor" else None

    names, storages, layouts = BytesIO(), BytesIO(), BytesIO()
    Pickler(names, 2).dump({name: ("tensor", number) for name, number in ids.items()})
    pickle.dump(len(ids), storages, 2)
    pickle.dump(len(ids), layouts, 2)
    for name, number in ids.items():
        tensor = tensors[name]
        pickle.dump((number, "cpu", torch.FloatStorage), storages, 2)
        storages.write(struct.pack("<q", tensor.numel()) + tensor.numpy().tobytes())
        pickle.dump((number, number, torch.FloatTensor), layouts, 2)
        sizes = [tensor.dim(), 0, *tensor.shape, *tensor.stride(), 0]
        layouts.write(struct.pack(f"<ii{2 * tensor.dim() + 1}q", *sizes))
    pickle.dump([], storages, 2)
    system = pickle.dumps({"protocol_version": 1000, "little_endian": True}, 2)
    members = {
        "sys_info": system,
        "pickle": names.getvalue(),
        "storages": storages.getvalue(),
        "tensors": layouts.getvalue(),
    }
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))


def test_a_tar_file_of_2017(tmp_path: Path) -> None:
    tensors = {"conv1.weight": torch.randn(4, 3, 2, 2), "fc.bias": torch.randn(5)}
    path = tmp_path / "resnet18-5c106cde.pth"
    write_tar(path, tensors)
    theirs = torch.load(path, weights_only=False)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in tensors.items())
    assert saved_files.recognises(path)
    assert_equal(saved_files.read(path).sets[""], tensors)


class Attack:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@FORMS
def test_nothing_is_executed(tmp_path: Path, archive: bool) -> None:
    mark = tmp_path / "executed"
    content = {"a": torch.zeros(1), "args": Attack(mark)}
    path = save(tmp_path / "attack.pth", content, archive=archive)
    found = saved_files.read(path)
    assert not mark.exists()
    assert list(found.sets[""]) == ["a"]
    assert found.ignored == (f"args ({os.mkdir.__module__}.mkdir)",)
    torch.load(path, weights_only=False)
    assert mark.exists()  # so it would have been


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "optimizer": {}}, r"no tensors with names: found keys \['epoch', 'optimizer"),
        ([torch.zeros(2)], "no tensors with names: found list"),
        ({0: torch.zeros(2)}, r"no tensors with names: found keys \['0'\]"),
    ],
)
def test_files_without_weights(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        saved_files.read(save(tmp_path / "odd.pth", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes(1024), "it begins like no file of torch.save"),
        (b"hello", "it begins like no file of torch.save"),
        (b"", "it is empty"),
        (b"<html></html>", "it begins like no file of torch.save"),
        (b"PK\x03\x04", "BadZipFile: "),
        (saved_files.PLAIN, "EOFError"),
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "odd.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"cannot be read as a torch weights file: {message}"):
        saved_files.read(tmp_path / "odd.pth")


def test_a_program_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:
        archive.writestr("program/data.pkl", pickle.dumps({}, 2))
        archive.writestr("program/code/__torch__.py", "class TinyNet(Module): ...")
    with pytest.raises(CheckpointError, match="it is a TorchScript program"):
        saved_files.read(tmp_path / "program.pt")


@pytest.mark.parametrize("shape", [(10**9,), (10**5, 10**5), (3, 3)])
def test_a_tensor_that_looks_beyond_its_numbers(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """What a file says of a tensor is compared before memory is taken."""
    rebuild = torch._utils._rebuild_tensor_v2

    class Large:
        def __reduce__(self) -> tuple[Any, ...]:
            strides = (1,) * len(shape)
            return rebuild, (torch.zeros(1).untyped_storage(), 0, shape, strides, False, {})

    with pytest.raises(CheckpointError, match="looks beyond its 4 numbers"):
        saved_files.read(save(tmp_path / "large.pth", {"a": Large()}))
