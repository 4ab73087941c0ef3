# The environment of the tests in an image; `make demo` runs in it:
#   docker build --tag t5 .
#   docker run --rm -it t5                                    the demo, on the CPU
#   docker run --rm -it --gpus all --volume "$PWD/outputs:/t5/outputs" t5 \
#     python fine_tune_t5.py --dataset_name mrpc --output_dir outputs/mrpc
# (A volume on /t5 itself would hide the packages in /t5/.venv.)
# The lock names no CUDA packages: on Linux the torch wheel of the package index brings its own.
FROM python:3.11-slim-bookworm

# DeepSpeed compiles its extensions at their first use; make and git for the words of the Makefile.
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ make git \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /t5
COPY requirements.lock Makefile ./
RUN make install
COPY . .
ENV PATH=/t5/.venv/bin:$PATH PYTHONUNBUFFERED=1
CMD ["make", "demo"]
