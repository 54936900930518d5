"""Every table, in one place: importing this module completes `metadata`."""

from __future__ import annotations

from models.artifact import Artifact
from models.base import Base
from models.blob import Blob
from models.chain_time import ChainTime
from models.dataset import Dataset
from models.event import Event
from models.idempotency_key import IdempotencyKey
from models.job import Job
from models.network import Network
from models.outbox import Outbox
from models.target import Target
from models.trial import Trial
from models.work import Work

TABLES = (
    Artifact,
    Blob,
    ChainTime,
    Dataset,
    Event,
    IdempotencyKey,
    Job,
    Network,
    Outbox,
    Target,
    Trial,
    Work,
)
metadata = Base.metadata
