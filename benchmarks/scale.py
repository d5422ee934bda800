"""What limits training on 8, 64 and 1,024 cards: the cost model of docs/scale.md.

    python benchmarks/scale.py --measure --data FOLDER    measure here, write benchmarks/scale.json
    python benchmarks/scale.py --write                    write the tables of docs/scale.md and of
                                                          benchmarks/README.md from it
    python benchmarks/scale.py                            print them

FOLDER holds class folders of photographs, such as ImageNet's validation images. Measuring takes
about three minutes and needs 4 GB below --scratch. Three kinds of numbers come together:

    measured    on this machine: decoding, checkpoints, exchanges, the order of an epoch; and the
                figures of startup_index.py, whose --output is benchmarks/startup_index.json
    published   images per second of a card, in NETWORKS of scale_model.py with the source
    assumed     links, cores, storage, in ASSUMED there
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any

from scale_model import ASSUMED, IMAGES_21K, NETWORKS, WORLD_SIZES, Case, cases

HERE = Path(__file__).parent
MEASURED = HERE / "scale.json"
STARTUP = HERE / "startup_index.json"
PAGE = HERE.parent / "docs" / "scale.md"
README = HERE / "README.md"


def table(header: str, rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    names = [name.strip() for name in header.split("|")]
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def steps_table(found: list[Case]) -> str:
    return table(
        "network | cards | images per card | steps per epoch | computing ms "
        "| gradients MB per card | exchange ms | of it beyond the backward pass ms "
        "| log line ms per step | of linear speed | binds first",
        [
            [
                case.network.name,
                f"{case.cards:,}",
                f"{case.per_card:g}",
                f"{case.steps:,}",
                f"{1e3 * case.compute_s:.1f}",
                f"{case.gradient_bytes / 1e6:.0f}",
                f"{1e3 * case.reduce_s:.1f}",
                f"{1e3 * case.exposed_s:.1f}",
                f"{1e3 * case.log_s:.1f}",
                f"{case.compute_s / case.step_s:.0%}",
                case.binds(),
            ]
            for case in found
        ],
    )


def input_table(found: list[Case]) -> str:
    return table(
        "network | cards | images/s per card | MB/s per card | images/s per machine "
        "| MB/s per machine | cores that decode per machine | threads that decode per card "
        "| GB/s of the file system | files opened per s",
        [
            [
                case.network.name,
                f"{case.cards:,}",
                f"{case.images_per_s:,.0f}",
                f"{case.bytes_per_s / case.cards / 1e6:.0f}",
                f"{case.images_per_s * ASSUMED.cards:,.0f}",
                f"{case.bytes_per_s / case.machines / 1e6:,.0f}",
                f"{case.cores:.1f}",
                f"{math.ceil(case.cores / ASSUMED.cards)}",
                f"{case.bytes_per_s / 1e9:.1f}",
                f"{case.images_per_s * case.cards:,.0f}",
            ]
            for case in found
        ],
    )


def checkpoint_table(measured: dict[str, Any]) -> str:
    rows = []
    for network in NETWORKS:
        found = measured["checkpoint"][network.recipe]
        size = float(found["bytes"])
        whole = found["stall_s"] + found["write_s"]
        rows.append(
            [
                network.name,
                f"{size / 1e6:,.0f}",
                f"{whole:.2f}",
                f"{found['stall_s']:.2f}",
                f"{found['write_s']:.2f}",
                *(f"{size * cards / 1e9:,.1f}" for cards in WORLD_SIZES),
                *(f"{size * cards / ASSUMED.cards / 1e9:,.1f}" for cards in WORLD_SIZES),
            ]
        )
    return table(
        "network | MB | stall s, written at once | stall s now | written beside s "
        "| read by 8 ranks GB | by 64 | by 1,024 | by 1 machine GB | by 8 | by 128",
        rows,
    )


def startup_table(measured: dict[str, Any], startup: dict[str, Any]) -> str:
    rows = startup["rows"]
    largest = max(row["images"] for row in rows)

    def of(mode: str, processes: int) -> dict[str, Any]:
        return next(
            row
            for row in rows
            if (row["images"], row["mode"], row["processes"]) == (largest, mode, processes)
        )

    strings, cached, indexed = of("strings", 1), of("cached", 8), of("indexed", 1)
    per_machine = 8 * strings["rss"]
    return table(
        f"of {largest:,} images | strings in every process | index",
        [
            [
                "listing, CPU s of a machine with 8 processes",
                f"{8 * strings['cpu_s']:.0f}",
                f"{indexed['cpu_s']:.0f} once, then {cached['cpu_s']:.1f}",
            ],
            ["folders listed by 1,024 processes", f"{1024 * 21_841:,}", "0 when current"],
            [
                "folders looked at (stat) by 1,024 processes",
                f"{1024 * 21_841:,}",
                f"{1024 * 21_841:,}",
            ],
            [
                "memory of a machine with 8 processes, MiB",
                f"{per_machine / 2**20:,.0f}",
                f"{cached['pss'] / 2**20:,.0f}",
            ],
            ["file, MiB", "", f"{cached['index_bytes'] / 2**20:,.0f}"],
            [
                "order of an epoch, CPU s of each process",
                f"{measured['order_s'][str(IMAGES_21K)]:.2f}",
                f"{measured['order_s'][str(IMAGES_21K)]:.2f}",
            ],
        ],
    )


def exchange_table(measured: dict[str, Any]) -> str:
    rows = [
        [count, f"{1e3 * seconds:.2f}", "measured" + (", on two cores" if int(count) > 2 else "")]
        for count, seconds in measured["exchange_s"].items()
    ]
    message = f"and {1e6 * measured['message_s']:.0f} + {ASSUMED.hop_us:g} us for each further one"
    for cards in WORLD_SIZES:
        case = Case(network=NETWORKS[0], cards=cards, per_card=1, measured=measured)
        rows.append([f"{cards:,}", f"{1e3 * case.exchange_s:.2f}", f"that of two, {message}"])
    return table("processes | ms for a sum of 20 numbers | where from", rows)


def inputs_table(measured: dict[str, Any]) -> str:
    def number(text: str, value: str, origin: str) -> list[str]:
        return [text, value, origin]

    decode = measured["decode"]
    here = f"measured, {measured['date']}, {measured['machine']}"
    rows = [
        number(
            f"images decoded per CPU second, {network.recipe}",
            f"{decode[network.recipe]['images_per_cpu_s']:.0f}",
            here,
        )
        for network in NETWORKS
    ]
    rows += [number("bytes of an image", f"{measured['bytes_per_image']:,.0f}", here)]
    rows += [
        number(
            f"images/s of a card, {network.name}", f"{network.images_per_s:,.0f}", network.source
        )
        for network in NETWORKS
    ]
    rows += [
        number("cards of a machine", str(ASSUMED.cards), "assumed"),
        number("cores of a machine", str(ASSUMED.cores), "assumed: four processors of 48 cores"),
        number("link of a card, GB/s", f"{ASSUMED.link_gb_per_s:g}", "assumed: 100 Gbit/s"),
        number("latency of the network, us", f"{ASSUMED.hop_us:g}", "assumed"),
        number("file system, GB/s", f"{ASSUMED.storage_gb_per_s:g}", "assumed"),
        number("gradients beside the backward pass", "two thirds of computing", "assumed"),
    ]
    return table("number | value | where from", rows)


def index_table(startup: dict[str, Any]) -> str:
    rows = []
    for row in startup["rows"]:
        count = row["processes"]
        mib = [f"{row[key] / count / 2**20:.0f}" for key in ("rss", "own", "pss")]
        order = "" if row["mode"] == "strings" else f"{row['order_s']:.2f}"
        figures = [f"{row['images']:,}", row["mode"], str(count), str(row["listed"])]
        rows.append([*figures, f"{row['seconds']:.2f}", f"{row['cpu_s']:.2f}", *mib, order])
    return table(
        "images | how | processes | of which list | s | CPU s of all | RSS MiB each "
        "| own MiB each | PSS MiB each | order, CPU s",
        rows,
    )


def tables(measured: dict[str, Any], startup: dict[str, Any]) -> dict[str, str]:
    """Return every table of docs/scale.md by its name."""
    same_batch, same_share = cases(measured, fixed=True), cases(measured, fixed=False)
    return {
        "inputs": inputs_table(measured),
        "steps": steps_table(same_batch),
        "steps_per_card": steps_table(same_share),
        "input": input_table(same_batch),
        "input_per_card": input_table(same_share),
        "exchange": exchange_table(measured),
        "checkpoint": checkpoint_table(measured),
        "startup": startup_table(measured, startup),
    }


def with_tables(text: str, found: dict[str, str]) -> str:
    """Return the page with its tables replaced.

    Raises:
        ValueError: The page lacks one, or has another.
    """

    def put(match: re.Match[str]) -> str:
        return f"{match[1]}\n{found[match[2]]}\n{match[3]}"

    pattern = re.compile(r"(<!-- table: (\w+) -->)\n.*?(<!-- end -->)", re.DOTALL)
    names = [match[2] for match in pattern.finditer(text)]
    if sorted(names) != sorted(found):
        raise ValueError(f"the page has the tables {sorted(names)}, expected {sorted(found)}")
    return pattern.sub(put, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--data", type=Path, help="class folders of photographs")
    parser.add_argument("--scratch", type=Path, help="where checkpoints are written")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.measure:
        if arguments.data is None:
            parser.error("--measure needs --data")
        from scale_measure import measure

        measured = measure(arguments.data, arguments.scratch)
        MEASURED.write_text(json.dumps(measured, indent=2) + "\n")
    startup = json.loads(STARTUP.read_text())
    stored = tables(json.loads(MEASURED.read_text()), startup)
    pages = {PAGE: stored, README: {"index": index_table(startup)}}
    for page, found in pages.items():
        if arguments.write:
            text = with_tables(page.read_text(encoding="utf-8"), found)
            page.write_text(text, encoding="utf-8")
            continue
        for name, text in found.items():
            print(f"{name}\n\n{text}\n")


if __name__ == "__main__":
    main()
