"""The tables of `benchmarks/README.md`, generated from the recorded results.

python -m benchmarks.tables          # rewrites the tables
python -m benchmarks.tables --check  # fails if they are not those of the results
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import allocate, comparison, curves, finetuning, reconstruction
from benchmarks import compress as compressed
from benchmarks.record import RESULTS
from benchmarks.subjects import SUBJECTS

PAGE = Path(__file__).parent / "README.md"


def _load(pattern: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(pattern))]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(head: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(map(_row, [head, rule, *rows]))


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def compress() -> str:
    """Networks compressed through the service, with the controls beside NetAdapt."""
    records = _load("cifar10_*.json")
    records.sort(
        key=lambda r: (r["job"]["name"].split(",")[0], compressed.STRATEGIES.index(r["strategy"]))
    )
    head = ["network, strategy", "MACs", "parameters", "time", "trials", "hold-out, no FT"]
    head += ["hold-out, FT", "test before", "test after", "seconds"]
    rows = []
    for record in records:
        cost = {key: record[key]["after"] / record[key]["before"] for key in ("macs", "params")}
        accuracy = record["test_accuracy"]
        rows.append(
            [
                record["job"]["name"],
                *[f"{100 * share:.1f} %" for share in cost.values()],
                _time(record),
                str(record["trials"]),
                _percent(record["holdout"]["untuned"]["top1"]),
                _percent(record["holdout"]["final"]["top1"]),
                _percent(accuracy["before"]),
                _percent(accuracy["after"]),
                f"{record['wall_s']:.0f}",
            ]
        )
    return _table(head, rows) + "\n\n" + _commands(records)


def _time(record: dict[str, Any]) -> str:
    """Share of the original's time, with the interval and where it was measured."""
    if "timings" not in record:
        latency = record["latency_s"]
        return f"{100 * latency['after'] / latency['before']:.1f} % in PyTorch"
    timing = record["timings"][0]
    low, ratio, high = (f"{100 * timing[key]:.1f}" for key in ("low", "ratio", "high"))
    return f"{ratio} % ({low} to {high}) in {timing['runtime']}, batch {timing['batch']}"


def timing() -> str:
    """How far repeated measurements of one pair are apart while both cores are busy."""
    records = _load("timing.json")
    head = ["runtime, batch, channels in multiples of", "share of the time", "apart", "unreliable"]
    head += ["by hand, apart", "seconds each"]
    rows = [
        [
            f"{pair['runtime']} {pair['version']}, {pair['batch']}, {pair['multiple']}",
            f"{min(pair['ratios']):.3f} to {max(pair['ratios']):.3f}",
            f"{100 * pair['apart']:.1f} %",
            f"{pair['unreliable']} of {len(pair['ratios'])}",
            f"{100 * pair['by_hand_apart']:.0f} %",
            f"{pair['seconds']:.0f}",
        ]
        for record in records
        for pair in record["pairs"]
    ]
    return _table(head, rows) + "\n\n" + _commands(records)


def widths() -> str:
    """What the widths that a target likes bring, beside multiples of 1 and 8, at half the MACs."""
    records = [
        json.loads(line)
        for path in sorted((RESULTS / "widths").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in records:
        key = tuple(str(record[name]) for name in ("network", "strategy", "multiple"))
        alike.setdefault(key, []).append(record)
    rows = []
    for key, found in alike.items():
        times = zip(*([t["ratio"] for t in record["timings"]] for record in found), strict=True)
        accuracy = {
            name: statistics.mean(record["test"][name]["top1"] for record in found)
            for name in ("pruned", "original")
        }
        rows.append(
            [
                ", ".join(key),
                str(len(found)),
                f"{100 * statistics.mean(record['macs'] for record in found):.1f} %",
                *(f"{statistics.mean(ratios):.2f}" for ratios in times),
                _percent(accuracy["pruned"]),
                _percent(accuracy["original"]),
            ]
        )
    head = ["network, strategy, multiple", "seeds", "MACs"]
    head += ["onnxruntime, 1", "32", "OpenVINO, 1", "32", "test, no FT", "original"]
    return _table(head, rows) + "\n\n" + _commands(records)


def soundness() -> str:
    """How many convolutions were wrong, through our forms and plain torch's, and what ours cost."""
    records = _load("soundness.json")
    head = ["processor, layout", "cases", "ours, 1 thread", "2 threads"]
    head += ["plain torch, 1 thread", "2 threads"]
    rows = []
    for record in records:
        by_place: dict[str, dict[tuple[str, int], dict[str, Any]]] = {}
        for entry in record["sweeps"]:
            place = f"{entry['processor']}, {entry['layout'].replace('_', ' ')}"
            by_place.setdefault(place, {})[entry["forms"], entry["threads"]] = entry
        for place, entries in by_place.items():
            wrong = [
                f"{'at least ' if entry['stopped'] else ''}{entry['wrong']}"
                for entry in (
                    entries[forms, threads]
                    for forms in ("ours", "plain torch")
                    for threads in (1, 2)
                )
            ]
            rows.append([place, str(entries["ours", 1]["cases"]), *wrong])
    tables = _table(head, rows)
    for record in records:
        ways = [way for way in next(iter(record["costs"].values())) if way != "ours"]
        costs = [
            [network, *(f"{ratios[way]:.2f}" for way in ways)]
            for network, ratios in record["costs"].items()
        ]
        tables += "\n\n" + _table(["a step of training, relative to ours", *ways], costs)
    return tables + "\n\n" + _commands(records)


def _most(entries: list[dict[str, Any]]) -> list[str]:
    """How much the dearest of answers took: processor seconds, MiB, wait for `/healthz`."""
    return [
        f"{max(entry['cpu_s'] for entry in entries):.2f}",
        f"{max(entry['peak_bytes'] for entry in entries) / 2**20:.0f}",
        f"{max(entry['healthz_s'] for entry in entries):.2f}",
    ]


def outside() -> str:
    """What came of files and requests that attack the service from outside."""
    records = {part: _load(f"attack/{part}.json") for part in ("mutations", "bombs", "requests")}
    rows = []
    for record in records["mutations"]:
        for kind, found in record["kinds"].items():
            taken = sum(n for status, n in found["statuses"].items() if status < "300")
            refused = f"{found['files'] - taken} refused, {taken} sound"
            rows.append([f"mutated {kind}", str(found["files"]), refused, "", "", ""])
    for part in ("bombs", "requests"):
        for record in records[part]:
            held = sum(entry["held"] for entry in record["each"])
            each = record["each"]
            rows.append([part, str(len(each)), f"{held} as wanted", *_most(each)])
    for record in records["requests"]:
        for crowd in record["crowds"]:
            count = crowd["connections"]
            rows.append([crowd["name"], str(count), f"{crowd['dropped']} dropped", *_most([crowd])])
    head = ["what is sent", "how many", "answers", "CPU s, most", "MiB, most", "`/healthz`, s"]
    return _table(head, rows) + "\n\n" + _commands([r for each in records.values() for r in each])


def kills() -> str:
    """How often each process was killed at a boundary between steps, and what became of it."""
    records = _load("attack/kills.json")
    rows = []
    for record in records:
        by_process: dict[str, list[int]] = {}
        for name, count in record["kills"].items():
            by_process.setdefault(name.split()[0], []).append(count)
        for process, counts in by_process.items():
            rows.append([process, str(sum(counts)), str(min(counts)), str(max(counts))])
        runs = f"{record['as_undisturbed']} of {record['runs']}"
        rows.append([f"runs as undisturbed: {runs}", "", "", ""])
    head = ["process", "kills", "fewest at a boundary", "most"]
    return _table(head, rows) + "\n\n" + _commands(records)


def disk() -> str:
    """What a disk that fills up does to a job."""
    records = _load("attack/disk.json")
    rows = [
        [
            run["run"],
            f"{record['full_s']:g}",
            "yes" if run["as_undisturbed"] else "no",
            f"{run['seconds']:.0f}",
            "; ".join(said for fault in run["faults"] for said in fault["said"]),
        ]
        for record in records
        for run in record["each"]
    ]
    head = ["full at", "for, s", "as undisturbed", "seconds", "said meanwhile"]
    return _table(head, rows) + "\n\n" + _commands(records)


def core() -> str:
    """Cutting, costing and computing, beside what one would otherwise do."""
    (record, kernels) = records = [*_load("core.json"), *_load("kernels.json")]
    rows = [
        [
            "cut one channel group",
            f"{1e3 * record['apply_one_group_s']:.1f} ms",
            "copy.deepcopy of the network",
            f"{1e3 * record['deepcopy_s']:.1f} ms",
            f"{record['deepcopy_over_apply']:.1f}",
        ],
        [
            "cost of 100,000 plans",
            f"{record['plans_per_s']:,.0f} plans/s",
            "the same model, plan by plan",
            f"{record['plans_per_s_one_by_one']:,.0f} plans/s",
            f"{record['many_over_one_by_one']:.0f}",
        ],
        *(
            [
                f"second moments, 3 x 3 convolution, {each['channels']} x {each['pixels']} x "
                f"{each['pixels']}, {each['images']} images",
                f"{1e3 * each['ours_s']:.0f} ms",
                "unfolding and a product",
                f"{1e3 * each['theirs_s']:.0f} ms",
                f"{each['ratio']:.1f}",
            ]
            for each in kernels["moments"]
        ),
        [
            "fine-tuning with distillation, ResNet-20 at half the MACs",
            f"{kernels['finetuning']['ours_images_per_s']:.0f} images/s",
            "the same step, layouts and batch-norms as they are",
            f"{kernels['finetuning']['theirs_images_per_s']:.0f} images/s",
            f"{kernels['finetuning']['ratio']:.2f}",
        ],
    ]
    head = ["step", "ours", "alternative", "theirs", "ratio"]
    return _table(head, rows) + "\n\n" + _commands(records)


def overhead() -> str:
    """What the service adds to a search."""
    (record,) = records = _load("overhead.json")
    head = ["search", "trials", "library, ms a trial", "added, ms a trial"]
    head += ["added", "least to most", "outside the steps", "added processor time, ms a trial"]
    rows = [
        [
            case["case"],
            str(case["trials"]),
            f"{case['library_ms_per_trial']:.0f}",
            f"{case['added_ms_per_trial']:.1f}",
            f"{100 * case['added']:.1f} %",
            f"{100 * case['added_least']:.1f} to {100 * case['added_most']:.1f} %",
            f"{100 * case['outside_steps']:.1f} %",
            f"{case['added_cpu_ms_per_trial']:.1f}",
        ]
        for case in record["cases"]
    ]
    return _table(head, rows) + "\n\n" + _commands(records)


def _commands(records: list[dict[str, Any]]) -> str:
    machines = {f"{r['processor']}, {r['cores']} cores, torch {r['torch']}" for r in records}
    lines = list(dict.fromkeys(f"    {r['command']}" for r in records))
    return "\n".join([*lines, "", f"Machine: {'; '.join(sorted(machines))}."])


def methods() -> str:
    """All search methods on the networks that have results, one table each."""
    head, rows, records = comparison.summary()
    parts = [_table(head, rows)]
    for name, subject in SUBJECTS.items():
        if comparison.recorded(name):
            head, rows, found = comparison.searches(name)
            records += found
            splits = f"Hold-out: {subject.holdout_is}. Test: {subject.test_is}."
            parts.append(f"**{name}**. {splits}\n\n{_table(head, rows)}")
    if not records:
        return "No results yet."
    return "\n\n".join([*parts, "![Best score](results/methods/curves.svg)", _commands(records)])


def correlation() -> str:
    """How well scores predict the accuracy after fine-tuning."""
    head, rows, records = comparison.correlations()
    return _table(head, rows) + "\n\n" + _commands(records) if rows else "No results yet."


def reconstruct() -> str:
    """What reconstruction and recalibration are worth, and how long they take."""
    head, rows, records = reconstruction.worth()
    times = _table(*reconstruction.durations())
    return "\n\n".join([_table(head, rows), times, _commands(records)])


_WAYS = {
    "plain": "plain",
    "folded": "folded, on the hold-out",
    "layerwise": "and statistics layer by layer",
    "fewer": "and fewer calibration images",
    "few": "and 256 images of the hold-out for all",
    "racing": "with `evaluation.racing`",
}


def ingredients() -> str:
    """What each ingredient of `allocate` is worth."""
    head, rows, records = allocate.worth()
    return _table(head, rows) + "\n\n" + _commands(records) if rows else "No results yet."


def curve() -> str:
    """`allocate` beside others from 80 % to 20 % of the MACs."""
    head, rows, records = curves.curves()
    return _table(head, rows) + "\n\n" + _commands(records) if rows else "No results yet."


def finetune() -> str:
    """What fine-tuning makes of good and of poor starts."""
    head, rows, records = finetuning.worth()
    return _table(head, rows) + "\n\n" + _commands(records) if rows else "No results yet."


def evaluator() -> str:
    """Candidates a minute, one ingredient more at a time, and how plans then rank."""
    (record,) = _load("evaluator.json")
    parts = [record[name] for name in ("ingredients", "race") if record.get(name)]
    rows = []
    for part in parts:
        for name, words in _WAYS.items():
            if name not in part:
                continue
            figures = part[name]
            cells = [words, str(figures["plans"]), f"{figures['seconds']:.2f}"]
            cells.append(f"{figures['ratio']:.2f}")
            if name == "plain":
                rows.append([*cells, *[""] * 5])
                continue
            loss = figures["cross_entropy"]
            cells += [
                f"{loss['spearman']:.3f} ({loss['interval'][0]:.2f} to {loss['interval'][1]:.2f})"
            ]
            cells += [f"{figures['top1']['spearman']:.3f}"]
            cells += ["yes" if figures["best_is_best"] else "no"]
            late = [f"{figures['late_ratio']:.2f}", f"{figures['examples']:.0f}"]
            rows.append([*cells, *(late if name == "racing" else ["", ""])])
    head = ["way", "plans", "seconds a plan", "times as many", "Spearman, loss", "Spearman, top-1"]
    head += ["same winner", "times as many, second half", "images of the hold-out"]
    return _table(head, rows) + "\n\n" + _commands(parts)


TABLES: dict[str, Callable[[], str]] = {
    "compress": compress,
    "methods": methods,
    "correlation": correlation,
    "ingredients": ingredients,
    "curve": curve,
    "finetune": finetune,
    "reconstruct": reconstruct,
    "timing": timing,
    "widths": widths,
    "soundness": soundness,
    "outside": outside,
    "kills": kills,
    "disk": disk,
    "core": core,
    "evaluator": evaluator,
}


def generated(text: str) -> str:
    """The page with every table between its marks made anew."""
    for name, make in TABLES.items():
        start, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, rest = text.split(start, 1)
        text = before + start + make() + "\n" + end + rest.split(end, 1)[1]
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    before = PAGE.read_text()
    after = generated(before)
    if options.check and before != after:
        raise SystemExit(f"{PAGE} is not what the results give: run python -m benchmarks.tables")
    PAGE.write_text(after)
    comparison.plot()


if __name__ == "__main__":
    main()
