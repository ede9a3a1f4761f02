# Workers for tf-spawner: TensorFlow, tf-keras, what tf.summary needs and what reports on GPUs, in a virtual environment.
#   docker build -t tf-spawner .
#   docker build -t tf-spawner:gpu --build-arg TENSORFLOW="tensorflow[and-cuda]" .
FROM python:3.11-slim-bookworm

ARG TENSORFLOW=tensorflow-cpu
ARG TENSORFLOW_VERSION=2.21.*

ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

RUN python -m venv /opt/venv \
    && pip install "${TENSORFLOW}==${TENSORFLOW_VERSION}" tensorboard nvidia-ml-py \
    && pip install --no-deps "tf-keras==${TENSORFLOW_VERSION}" \
    && find /opt/venv -depth \( -name __pycache__ -o -name tests -path "*/numpy/*" -o -path "*/tensorflow/include" \) \
       -exec rm -rf {} +

COPY setup.cfg pyproject.toml README.md LICENSE /src/
COPY tfspawner /src/tfspawner
COPY templates /src/templates
RUN pip install "/src[data]" && rm -rf /src/build && useradd --uid 1000 --create-home trainer

USER 1000
WORKDIR /home/trainer
CMD ["tf-spawner", "--help"]
