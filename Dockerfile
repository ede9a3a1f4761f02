# Workers for tf-spawner: TensorFlow, tf-keras, what tf.summary needs and what reports on GPUs, in a virtual environment.
#   docker build -t tf-spawner .
#   docker build -t tf-spawner:gpu --build-arg VARIANT=gpu .
# All that comes from outside is pinned: the base by its digest (docker buildx imagetools inspect python:3.11-slim-bookworm
# prints the newest one), the packages by the versions and hashes of requirements/ (make lock).
FROM python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# tfrecord-lite is there as source alone. The stand-in for the base in the tests has no headers of its own: python3-dev.
RUN apt-get update && apt-get install -y --no-install-recommends g++ python3-dev && rm -rf /var/lib/apt/lists/*
COPY requirements/build.txt requirements/source.txt /requirements/
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --no-deps --only-binary :all: -r /requirements/build.txt \
    && /opt/build/bin/pip wheel --require-hashes --no-deps --no-build-isolation --no-binary tfrecord-lite \
       -w /wheels -r /requirements/source.txt

FROM python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b

ARG VARIANT=cpu

ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

COPY requirements/${VARIANT}.txt requirements/tf-keras.txt /requirements/
COPY --from=build /wheels /wheels
RUN python -m venv /opt/venv \
    && pip install --require-hashes --no-deps --only-binary :all: -r /requirements/${VARIANT}.txt -r /requirements/tf-keras.txt \
    && pip install --no-deps --no-index /wheels/*.whl \
    && find /opt/venv -depth \( -name __pycache__ -o -name tests -path "*/numpy/*" -o -path "*/tensorflow/include" \) \
       -exec rm -rf {} +

COPY setup.cfg pyproject.toml README.md LICENSE /src/
COPY tfspawner /src/tfspawner
COPY templates /src/templates
RUN pip install --no-deps --no-build-isolation /src && rm -rf /src/build && useradd --uid 1000 --create-home trainer

USER 1000
WORKDIR /home/trainer
CMD ["tf-spawner", "--help"]
