"""`make demo`: a trained network goes in over REST and comes back at half its MACs.

Trains a small residual network on scikit-learn's digits, packs it, starts the service with a real
Celery worker, submits a job, shows its progress, downloads the results, loads both exports without
the class that made them, and times what was handed out beside the original. Leaves
`var/demo/result.json`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import espalier
from benchmarks.digits import save_digits, train
from benchmarks.service import running
from espalier.format.build import load
from espalier.format.manifest import Preprocessing
from espalier.runtimes import RUNTIMES
from espalier.targets import Target, processor
from espalier.timing import paired
from search.export.onnx import export_onnx

ROOT = Path("var/demo")
JOB = {
    "name": "digits at half the MACs",
    "budget": {"macs": "50%"},
    "strategy": {"name": "allocate", "points": 3},
    "evaluation": {"calibration": 256, "holdout": 350, "metric": "cross_entropy"},
    "finetune": {"epochs": 8, "learning_rate": 0.02, "batch_size": 64},
    "seed": 0,
}


def prepare_digits(folder: Path, width: int = 16) -> tuple[Path, Path, dict[str, NDArray[Any]]]:
    """Train the network; return its package, the data's file, and the data."""
    digits = save_digits(folder / "digits.npz")
    network = train(digits["train_images"], digits["train_labels"], width=width)
    package = espalier.pack(
        network,
        torch.zeros(1, 1, 8, 8),
        folder / "digits.espalier",
        name="digits-resnet8",
        preprocessing=Preprocessing(scale=1 / 255),
        classes=tuple(str(digit) for digit in range(10)),
    )
    return package, folder / "digits.npz", digits


def watch(client: espalier.Client, job: str, console: Console) -> dict[str, Any]:
    """Follow a job to its end, showing stage, progress and the best trial so far."""
    columns = (TextColumn("{task.description:<10}"), BarColumn(), TextColumn("{task.fields[best]}"))
    view: dict[str, Any] = {}
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("queued", total=1.0, best="")
        for view in client.watch(job):
            best = view.get("best") or {}
            text = f"best so far: trial {best['number']}" if best else ""
            stage = str(view.get("stage") or view["state"])
            bar.update(task, description=stage, completed=view.get("progress") or 0.0, best=text)
    if view["state"] != "succeeded":
        raise SystemExit(f"the job {view['state']}: {view.get('error')}")
    return view


def as_inputs(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Raw images as the package's manifest says that the network takes them."""
    return (images[:, None] / 255).astype(np.float32)


def accuracies(
    folder: Path, inputs: NDArray[np.float32], labels: NDArray[np.int64]
) -> dict[str, float]:
    """Accuracy of both exports on the test images, loaded as a stranger would."""
    network = espalier.load(folder / "network.espalier")
    with torch.inference_mode():
        ours = network(torch.from_numpy(inputs)).argmax(1).numpy()
    session = onnxruntime.InferenceSession(folder / "network.onnx")
    (logits,) = session.run(None, {session.get_inputs()[0].name: inputs})
    return {
        "espalier.load": float((ours == labels).mean()),
        "onnxruntime": float((logits.argmax(1) == labels).mean()),
    }


def time_beside(package: Path, handed_out: Path, inputs: NDArray[np.float32]) -> dict[str, Any]:
    """The median of three paired measurements: `handed_out` beside the original's ONNX file.

    Args:
        inputs: `(n, ...)`, as the networks take them; the first is passed alone.
    """
    original = ROOT / "original.onnx"
    export_onnx(load(package), torch.from_numpy(inputs[:8]), original, {})
    runtime = RUNTIMES["onnxruntime"]
    pair = [runtime.prepare(file, inputs[:1]) for file in (original, handed_out)]
    timings = sorted((paired(*pair) for _ in range(3)), key=lambda timing: timing.ratio)
    target = Target("onnxruntime", str(runtime.version()), processor())
    ratios = {"ratios": [timing.ratio for timing in timings]}
    return target.to_json() | timings[1].to_json() | ratios


def show(result: dict[str, Any], loaded: dict[str, float], console: Console) -> None:
    table = Table(title="Digits at 50 % of the MACs")
    for name in ("", "before", "after", "ratio"):
        table.add_column(name, justify="left" if not name else "right")
    rows = {
        "test accuracy": ("test_accuracy", "{:.2%}"),
        "MACs": ("macs", "{:,}"),
        "parameters": ("params", "{:,}"),
    }
    for label, (key, form) in rows.items():
        before, after = result[key]["before"], result[key]["after"]
        ratio = f"{after / before:.2f}" if key != "test_accuracy" else ""
        table.add_row(label, form.format(before), form.format(after), ratio)
    timing = result["timing"]
    table.add_row(
        "time of a pass, us",
        *(f"{1e6 * timing[side]:.1f}" for side in ("before_s", "after_s")),
        f"{timing['ratio']:.2f}",
    )
    console.print(table)
    several = ", ".join(f"{ratio:.2f}" for ratio in timing["ratios"])
    console.print(
        f"The file handed out takes {timing['ratio']:.2f} of the original's time "
        f"({timing['low']:.2f} to {timing['high']:.2f}) in {timing['runtime']} "
        f"{timing['version']}, {timing['threads']} thread, batch {timing['batch']}; "
        f"{len(timing['ratios'])} paired measurements: {several}"
    )
    for warning in result["warnings"]:
        console.print(f"warning: {warning['message']}")
    for name, accuracy in loaded.items():
        console.print(f"loaded with {name}: {accuracy:.2%} on the test images")
    for file in result["files"]:
        console.print(f"{file['size_bytes']:>10,} bytes  {file['sha256'][:12]}  {file['name']}")


def show_curve(curve: dict[str, Any], console: Console) -> None:
    """The networks of larger budgets that the same search left."""
    full = curve["original"]["cost"]["macs"]
    console.print("Further networks of the same search, before fine-tuning:")
    for point in curve["points"]:
        share, top1 = point["cost"]["macs"] / full, point["metrics"]["top1"]
        console.print(
            f"  trial {point['trial']}: {share:.0%} of the MACs, {top1:.2%} on the hold-out"
        )


def main() -> None:
    started = time.monotonic()
    console = Console()
    shutil.rmtree(ROOT, ignore_errors=True)
    torch.set_num_threads(1)

    console.print("Training a small residual network on scikit-learn's digits ...")
    package, data, digits = prepare_digits(ROOT, width=32)

    with running(ROOT / "service", workers=2) as service, espalier.Client(service.url) as client:
        uploaded = client.upload_network(package)
        dataset = client.upload_dataset(data)
        job = client.submit({**JOB, "network": uploaded["id"], "dataset": dataset["id"]})
        console.print(f"Submitted job {job['id']} to {service.url}")
        watch(client, job["id"], console)
        downloads = client.download(job["id"], ROOT / "results")
    summary = json.loads((ROOT / "results" / "metrics.json").read_text())

    files = [
        {
            "name": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size_bytes": path.stat().st_size,
        }
        for path in sorted(downloads)
    ]
    inputs = as_inputs(digits["test_images"])
    result = {
        "job": job["id"],
        "strategy": JOB["strategy"]["name"],  # type: ignore[index]  # a literal above
        **{key: summary[key] for key in ("test_accuracy", "macs", "params", "timings", "warnings")},
        "timing": time_beside(package, ROOT / "results" / "network.onnx", inputs),
        "files": files,
        "seconds": round(time.monotonic() - started, 1),
    }
    (ROOT / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    loaded = accuracies(ROOT / "results", inputs, digits["test_labels"])
    show(result, loaded, console)
    show_curve(json.loads((ROOT / "results" / "curve.json").read_text()), console)
    console.print(f"Everything is in {ROOT}/, a report for people in {ROOT}/results/report.html")


if __name__ == "__main__":
    main()
