"""Settings of the service, from the environment: `ESPALIER_DATABASE_URL` and so on."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Where things are, and the service's limits.

    What is not given lies under `home`: an SQLite database, a folder of blobs, and the Unix
    socket of a Redis that `espalier serve` starts.
    """

    model_config = SettingsConfigDict(env_prefix="ESPALIER_", frozen=True)

    home: Path = Field(Path("var/espalier"), description="folder for what has no place of its own")
    database_url: str = Field("", description="sqlite:///FILE or postgresql://...")
    redis_url: str = Field("", description="redis://... or redis+socket://FILE")
    blobs: str = Field("", description="file://FOLDER or s3://BUCKET/PREFIX")
    cache: Path | None = Field(None, description="folder for local copies of remote blobs")
    cache_bytes: int = Field(20 * 2**30, ge=2**20, description="size of that folder")
    hosts: str = Field(
        "", description="names that the API answers to beside loopback's, between commas"
    )
    client_timeout_s: float = Field(
        30.0, gt=0, description="longest silence of a client within a request or an answer"
    )
    max_upload_bytes: int = Field(8 * 2**30, ge=1, description="largest network or dataset")
    examination_cpu_s: float = Field(
        10.0, gt=0, description="processor time to examine an upload, beside that for its bytes"
    )
    examination_memory_bytes: int = Field(
        2 * 2**30, ge=2**28, description="address space of a process that examines an upload"
    )
    examinations: int = Field(2, ge=1, description="uploads that are examined at once")

    lease_s: float = Field(30.0, gt=0, description="how long a claim holds without being renewed")
    heartbeat_s: float = Field(3.0, gt=0, description="between renewals; cancel is seen as fast")
    sweep_s: float = Field(5.0, gt=0, description="between the reaper's rounds")
    max_attempts: int = Field(5, ge=1, description="fruitless attempts at a unit of work")
    retry_delay_s: float = Field(2.0, ge=0, description="before a second attempt; then doubled")
    trials_ahead: int = Field(8, ge=1, description="trials of one job that wait or run at once")
    slice_s: float = Field(30.0, gt=0, description="fine-tuning between two checkpoints")
    step_limit_s: float = Field(3600.0, gt=0, description="longest run of one unit of work")
    stop_grace_s: float = Field(8.0, gt=0, description="from asking a child to stop to killing it")
    torch_threads: int = Field(1, ge=1, description="of each child")
    blob_grace_s: float = Field(3600.0, ge=0, description="age at which an unused blob is deleted")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.heartbeat_s > self.lease_s / 3:
            raise ValueError(
                f"heartbeat_s = {self.heartbeat_s} leaves fewer than three renewals in a lease of "
                f"{self.lease_s} s: raise ESPALIER_LEASE_S or lower ESPALIER_HEARTBEAT_S"
            )
        return self

    @property
    def host_names(self) -> frozenset[str]:
        """What a request may name in `Host` beside loopback's names, in lower case."""
        return frozenset(name.strip().lower() for name in self.hosts.split(",")) - {""}

    @property
    def database(self) -> str:
        """The database's URL, with the driver named."""
        url = self.database_url or f"sqlite:///{self.home.absolute() / 'espalier.db'}"
        for short in ("postgresql://", "postgres://"):
            if url.startswith(short):
                return "postgresql+psycopg://" + url.removeprefix(short)
        return url

    @property
    def broker(self) -> str:
        """The broker's URL."""
        return self.redis_url or f"redis+socket://{self.redis_socket}"

    @property
    def redis_socket(self) -> Path:
        """The Unix socket on which `espalier serve` lets its own Redis listen."""
        return self.home.absolute() / "redis.sock"

    @property
    def blob_url(self) -> str:
        """Where blobs are stored."""
        return self.blobs or f"file://{self.home.absolute() / 'blobs'}"

    @property
    def cache_folder(self) -> Path:
        """Local copies of blobs that are stored elsewhere."""
        return self.cache or self.home.absolute() / "cache"
