"""A real job through the record, a supervisor and a child gives what the library gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.digits import save_digits, train
from espalier.format.lift import pack
from espalier.format.manifest import Preprocessing
from models.job import State
from models.jobs import artifacts_of, create_job
from models.uploads import create_dataset, create_network
from search import engine
from search.files import FolderFiles
from search.records import Inputs
from search.spec import BudgetSpec, EvaluationSpec, FineTuneSpec, JobSpec, RoundingSpec
from search.strategy_specs import NetAdaptSpec
from tests.worker.service import Service
from worker.supervisor import Slot


@pytest.fixture
def job(service: Service, tmp_path: Path) -> tuple[str, Inputs, FolderFiles]:
    """A small real job, submitted, and the same for the library."""
    torch.set_num_threads(1)
    arrays = save_digits(tmp_path / "digits.npz")
    network = train(arrays["train_images"], arrays["train_labels"], epochs=1)
    package = pack(
        network,
        torch.zeros(1, 1, 8, 8),
        tmp_path / "digits.espalier",
        preprocessing=Preprocessing(scale=1 / 255),
    )
    uploaded = [service.store.put_file(path) for path in (package, tmp_path / "digits.npz")]
    with service.database.transaction() as session:
        given: list[dict[str, Any]] = [
            {"digest": stored.digest, "size_bytes": stored.size_bytes, "description": {}}
            for stored in uploaded
        ]
        network_id = create_network(session, name="digits", **given[0]).id
        dataset_id = create_dataset(session, name="digits", **given[1]).id
        spec = JobSpec(
            network=network_id,
            dataset=dataset_id,
            budget=BudgetSpec(macs="60%"),
            strategy=NetAdaptSpec(first_step=0.4, decay=1.0, tuning_steps=1),
            evaluation=EvaluationSpec(metric="cross_entropy", calibration=64, holdout=100),
            finetune=FineTuneSpec(epochs=1, batch_size=64),
            rounding=RoundingSpec(multiple=1),
            seed=5,
        )
        job_id = create_job(session, spec.model_dump(mode="json")).job.id
    files = FolderFiles(tmp_path / "files")
    for path in (package, tmp_path / "digits.npz"):
        files.put(path)
    return job_id, Inputs(spec, *(stored.digest for stored in uploaded)), files


@pytest.mark.slow
def test_the_same_plan_and_accuracy(service: Service, job: tuple[str, Inputs, FolderFiles]) -> None:
    job_id, inputs, files = job
    settings = service.settings.model_copy(update={"slice_s": 0.2, "trials_ahead": 3})
    slot = Slot(service.database, service.store, settings, service.draining)
    slot.serve()
    slot.close()
    row = service.job(job_id)
    assert (row.state, row.error) == (State.SUCCEEDED, None)
    with service.database.transaction(write=False) as session:
        published = {item.name: item for item in artifacts_of(session, job_id)}
    expected = engine.run(inputs, files)
    names = {item.name: item.digest for item in expected.artifacts}
    assert published.keys() == names.keys()
    plan = b"".join(service.store.read(published["plan.json"].digest))
    assert json.loads(plan) == json.loads(files.path(names["plan.json"]).read_bytes())
    assert row.summary is not None
    assert row.summary["test_accuracy"] == expected.summary["test_accuracy"]
    assert row.summary.keys() == expected.summary.keys()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_damaged_upload_fails_the_job_at_once(
    service: Service, job: tuple[str, Inputs, FolderFiles], damage: str
) -> None:
    job_id, inputs, _ = job
    path = service.store.local_path(inputs.dataset)
    assert path is not None
    if damage == "gone":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    slot = Slot(service.database, service.store, service.settings, service.draining)
    assert slot.serve() == 1
    slot.close()
    row = service.job(job_id)
    expected = "blob.missing" if damage == "gone" else "blob.corrupt"
    assert (row.state, row.error_code) == (State.FAILED, expected)
    assert inputs.dataset in (row.error or "")
    assert "upload the file again" in (row.error or "")
