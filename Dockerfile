# Two images from one file: `api` (no torch) and `worker` (torch).
FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
RUN useradd --create-home --uid 10001 espalier \
    && mkdir -p -m 700 /var/lib/espalier \
    && chown espalier /var/lib/espalier
WORKDIR /srv/espalier
COPY constraints.txt pyproject.toml README.md LICENSE alembic.ini ./

# The API reads packages and plans without torch, so its image carries none.
FROM base AS api
RUN pip install -c constraints.txt \
    alembic "celery[redis]" fastapi httpx numpy obstore optuna pillow "psycopg[binary]" pydantic \
    pydantic-settings python-multipart redis rich safetensors scipy sqlalchemy structlog typer \
    "uvicorn[standard]"
COPY espalier espalier
COPY models models
COPY migrations migrations
COPY search search
COPY api api
RUN pip install --no-deps .
USER espalier
CMD ["python", "-m", "api", "--host", "0.0.0.0", "--port", "8765"]

FROM base AS worker
# The index decides the build of torch: CUDA by default, see TORCH_INDEX in docker-compose.yml.
ARG TORCH_INDEX=""
COPY espalier espalier
COPY models models
COPY migrations migrations
COPY search search
COPY worker worker
COPY api api
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt torch==2.13.0 .
USER espalier
CMD ["python", "-m", "celery", "-A", "worker.app", "worker", "--pool", "threads", "--concurrency", "1"]
