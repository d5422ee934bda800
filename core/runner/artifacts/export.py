"""What a recipe lists under ``export``, carried out: written, verified and evaluated.

An export is made from the live model; a conversion from an artifact that is exported for it, which
is verified and evaluated as well and then removed.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, final

from runner.artifacts import golden
from runner.artifacts.artifact import INFO, KIND, is_artifact, open_predictor, read
from runner.artifacts.calibration import Calibration
from runner.artifacts.conversion import convert
from runner.artifacts.verification import (
    check,
    check_comparison,
    compare,
    declared_tolerance,
    verify,
)
from runner.entries import ExporterEntry
from runner.errors import (
    ArtifactError,
    MissingRuntimeError,
    NonFiniteError,
    StorageError,
    UsageError,
)
from runner.plugins.guards import own_engine
from runner.plugins.returns import artifact_info, calling, origin
from runner.session.evaluate import evaluate_predictor
from runner.storage import files, records
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from runner.artifacts.artifact import Artifact, ArtifactModel
    from runner.artifacts.verification import Comparison, Verification
    from runner.contracts import ArtifactInfo, Engine
    from runner.entries import ExportEntry
    from runner.planning.plan import Plan
    from runner.planning.sources import Source
    from runner.plugins.registry import Registered, Registry
    from runner.session.opening import Split
    from runner.storage.events import EventLog


def carry_out(
    plan: Plan,
    position: int,
    *,
    engine: Engine,
    val: Split,
    folder: Path,
    registry: Registry,
    events: EventLog,
) -> dict[str, Any]:
    """Write, verify and evaluate item ``position`` of the recipe's ``export`` list.

    Returns:
        What ``result.json`` says of it. ``verified`` is false, with an ``error``, where the export
        failed or disagrees with the live model, and ``None`` where nothing here can run it. A
        conversion has the same of its ``source``, and how they compare.
    """
    job = _Job(
        plan=plan, position=position, engine=engine, val=val, registry=registry, events=events
    )
    name, source = plan.exporter_entries[position].name, plan.sources[position]
    repeated = [item.name for item in plan.recipe.export[:position]].count(name)
    target = folder / (f"{name}-{repeated + 1}" if repeated else name)
    record: dict[str, Any] = {"name": name, "folder": str(target)}
    events.emit("export.begun", **record)
    try:
        if source:
            job.convert(source, target, record)
        else:
            job.export(target, record)
    except MissingRuntimeError as error:
        events.emit("warning", message=f"{target} is not verified: {error}")
        record |= {"verified": None, "reason": str(error)}
        if "source" in record:
            events.emit("export.verified", **record)
    except (ArtifactError, NonFiniteError) as error:
        record |= {"verified": False, "error": str(error)}
    return record


def check_all(records: Sequence[Mapping[str, Any]]) -> None:
    """Turn failed exports into one error.

    Raises:
        ArtifactError: An export failed, or disagrees with the live model.
    """
    failed = [record["error"] for record in records if "error" in record]
    if failed:
        raise ArtifactError("\n".join(failed))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One item of the ``export`` list, and what it works with."""

    plan: Plan
    position: int
    engine: Engine
    val: Split
    registry: Registry
    events: EventLog

    def export(self, target: Path, record: dict[str, Any]) -> None:
        """Export the live model; what is learnt is added to the record.

        Raises:
            ArtifactError: It failed, disagrees with the live model, or cannot be run here.
        """
        section = self.plan.recipe.export[self.position]
        entry = self.plan.exporter_entries[self.position]
        artifact = self._write(
            target,
            self._exporter(self.plan.exporters[self.position], section.options),
            exporter=entry.name,
            tolerance=self._tolerance(entry),
            min_agreement=self._min_agreement(entry),
        )
        self._wrote(artifact, record)
        model = open_predictor(artifact, self.registry)
        result = self._verify(artifact, model, record)
        if section.evaluate:
            record["metrics"] = self._evaluate(model)
        self.events.emit("export.verified", **record)
        check(artifact.folder, result)

    def convert(self, source: Source, target: Path, record: dict[str, Any]) -> None:
        """Export the live model and convert that; what is learnt is added to the record.

        Raises:
            ArtifactError: One of both failed, disagrees with the live model, or cannot be run
                here, or the conversion costs more accuracy than the recipe allows.
        """
        entry = self.plan.exporter_entries[self.position]
        section = self.plan.recipe.export[self.position]
        with _scratch(target.with_name(f".{target.name}.source")) as scratch:
            original = self._write(
                scratch,
                self._exporter(source.exporter, source.options),
                exporter=source.entry.name,
                tolerance=self._source_tolerance(source.entry, entry),
            )
            record["source"] = {"name": source.entry.name}
            before = self._open_source(original, record["source"])
            artifact = self._write(
                target,
                partial(self._convert, original, record),
                exporter=entry.name,
                tolerance=self._tolerance(entry),
                min_agreement=self._min_agreement(entry),
                source=source.entry.name,
            )
            self._wrote(artifact, record)
            try:
                after = open_predictor(artifact, self.registry)
            except MissingRuntimeError:
                if before and section.evaluate:
                    record["source_metrics"] = self._evaluate(before)
                raise
            result = self._verify(artifact, after, record)
            compared = self._compare(after, before, record) if section.evaluate else None
            if compared and compared.top1_agreement < artifact.min_agreement:
                record["verified"] = False
        self.events.emit("export.verified", **record)
        check(artifact.folder, result)
        if compared:
            check_comparison(artifact, compared, source.entry.name)
        _check_drop(artifact, record, section.max_top1_drop)

    def _source_tolerance(self, source: ExporterEntry, converter: ExportEntry) -> float:
        """Return the exporter's tolerance, or the conversion's where it would be too strict.

        That is with a live model that computes in a reduced precision itself, or where the recipe
        states a tolerance.
        """
        stated = self.plan.recipe.export[self.position].tolerance
        if stated is None and self.plan.recipe.precision.compute == "fp32":
            return source.tolerance
        return max(self._declared(source), stated or converter.tolerance)

    def _tolerance(self, entry: ExportEntry) -> float:
        return self.plan.recipe.export[self.position].tolerance or self._declared(entry)

    def _declared(self, entry: ExportEntry) -> float:
        return declared_tolerance(entry, self.plan.recipe.precision.compute)

    def _min_agreement(self, entry: ExportEntry) -> float:
        stated = self.plan.recipe.export[self.position].min_agreement
        return entry.min_agreement if stated is None else stated

    def _exporter(
        self, item: Registered[ExportEntry], options: object
    ) -> Callable[[Path], ArtifactInfo]:
        entry = item.entry
        assert isinstance(entry, ExporterEntry), "a converter has a source"
        spec = self.plan.engine_spec(len(self.val.classes), training=False)
        engine = own_engine(self.engine)

        def write(folder: Path) -> ArtifactInfo:
            with calling(item, "export()", ArtifactError, passing=(OSError,)):
                info = entry.export(engine, spec, options, folder)
            return artifact_info(info, folder, f"{origin(item)}, export()")

        return write

    def _convert(self, original: Artifact, record: dict[str, Any], folder: Path) -> ArtifactInfo:
        item = self.plan.exporters[self.position]
        calibration = Calibration(self.plan, self.val)
        with calling(item, "convert()", ArtifactError, passing=(OSError,)):
            info = convert(
                self.plan, self.position, original, calibration, self.val.classes, folder
            )
        if calibration.images:
            record["calibration"] = calibration.coverage()
            self._warn_of(calibration, item.entry.name)
        return artifact_info(info, folder, f"{origin(item)}, convert()")

    def _warn_of(self, calibration: Calibration, name: str) -> None:
        missing = calibration.missing()
        if missing:
            self.events.emit(
                "warning",
                message=f"{name} was calibrated on {counted(calibration.images, 'image')} of "
                f"{len(calibration.seen)} of {counted(len(self.val.classes), 'class')}, without "
                f"{', '.join(missing[:3])}{', ...' * (len(missing) > 3)}; more calibration images "
                "cover all",
            )

    def _wrote(self, artifact: Artifact, record: dict[str, Any]) -> None:
        record |= asdict(artifact.info)
        self.events.emit("export.written", **record)

    def _open_source(self, original: Artifact, record: dict[str, Any]) -> ArtifactModel | None:
        """Verify what a conversion starts from; ``None`` where nothing here can run it."""
        try:
            model = open_predictor(original, self.registry)
        except MissingRuntimeError as error:
            record |= {"verified": None, "reason": str(error)}
            return None
        try:
            check(original.folder, self._verify(original, model, record))
        except ArtifactError as error:
            name = self.plan.exporter_entries[self.position].name
            raise ArtifactError(f"{record['name']}, which {name} is made from: {error}") from error
        return model

    @staticmethod
    def _verify(artifact: Artifact, model: ArtifactModel, record: dict[str, Any]) -> Verification:
        result = verify(artifact, model)
        record |= {"verified": result.passed, "verification": asdict(result)}
        return result

    def _evaluate(self, model: ArtifactModel) -> dict[str, float | int]:
        batch_size = self.plan.recipe.eval.batch_size
        return evaluate_predictor(model, self.val.loader, batch_size).as_metrics()

    def _compare(
        self, after: ArtifactModel, before: ArtifactModel | None, record: dict[str, Any]
    ) -> Comparison | None:
        """Evaluate a conversion, and its source beside it where that can be run."""
        if before is None:
            record["metrics"] = self._evaluate(after)
            return None
        batch_size = self.plan.recipe.eval.batch_size
        converted, original, comparison = compare(after, before, self.val.loader, batch_size)
        record["metrics"] = converted.as_metrics()
        record["source_metrics"] = original.as_metrics()
        record["comparison"] = asdict(comparison)
        return comparison

    def _write(
        self,
        folder: Path,
        make: Callable[[Path], ArtifactInfo],
        *,
        exporter: str,
        tolerance: float,
        min_agreement: float = 0.0,
        source: str | None = None,
    ) -> Artifact:
        """Write an artifact into ``folder``, in place of an earlier one.

        Args:
            folder: Where to.
            make: Writes the model into a folder and describes it.
            exporter: The entry that does so.
            tolerance: Largest difference of logits, as ``Verification`` has it.
            min_agreement: Smallest share of equal classes, as ``Verification`` has it.
            source: The exporter whose artifact was converted.

        Raises:
            ArtifactError: The exporter failed.
            UsageError: Something else than an artifact is in the way.
            StorageError: The folder cannot be written.
        """
        if folder.exists() and not is_artifact(folder):
            raise UsageError(f"{folder} is in the way and is no artifact; choose another --output")
        plan, transforms = self.plan, self.plan.recipe.transforms
        samples = golden.read(self.val, plan.recipe.export[self.position].verify_images)
        try:
            with _scratch(folder.with_name(f".{folder.name}.tmp")) as temporary:
                (temporary / "golden").mkdir(parents=True)
                info = make(temporary)
                names = golden.write(samples, self.val, self.engine, temporary)
                record = {
                    "recipe": plan.name,
                    "model": plan.model_entry.name,
                    "framework": plan.framework_entry.name,
                    "exporter": exporter,
                    "source": source,
                    "info": asdict(info),
                    "classes": self.val.classes,
                    "transforms": [asdict(step) for step in transforms.eval],
                    "mean": transforms.mean,
                    "std": transforms.std,
                    "decoding": asdict(self.val.decoding),
                    "tolerance": tolerance,
                    "min_agreement": min_agreement,
                    "compute": plan.recipe.precision.compute,
                    "golden": names,
                    "files": _checksums(temporary),
                }
                records.write(temporary / INFO, KIND, record)
                _put_in_place(temporary, folder)
        except OSError as error:
            raise StorageError(f"cannot write {folder}: {error.strerror or error}") from error
        return read(folder, trusted=True)


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Flush an artifact and rename it; an earlier one goes at once, or not at all."""
    for path in (*temporary.rglob("*"), temporary):
        files.sync(path)
    files.replace_folder(temporary, folder, folder.with_name(f".{folder.name}.old"))


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Give a folder that is not there, and leave none behind."""
    files.remove_folder(folder)
    try:
        yield folder
    finally:
        files.remove_folder(folder)


def _checksums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): files.sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _check_drop(artifact: Artifact, record: Mapping[str, Any], allowed: float | None) -> None:
    """Turn a conversion that costs too much accuracy into an error.

    Raises:
        ArtifactError: It does, or this cannot be known here.
    """
    if allowed is None:
        return
    if "comparison" not in record:
        raise ArtifactError(
            f"{artifact.folder}: max_top1_drop cannot be checked, because its source was not "
            f"evaluated: {record['source']['reason']}"
        )
    drop = record["comparison"]["top1_drop"]
    if drop > allowed:
        raise ArtifactError(
            f"{artifact.folder}: top-1 is {100 * drop:.2f} points lower than that of the "
            f"{record['source']['name']} artifact it was made from, on the same "
            f"{record['comparison']['images']} images; max_top1_drop allows {100 * allowed:.2f}"
        )
