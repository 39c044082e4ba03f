# The environment of `make env` without the tools for tests, and the project. Linted, never built.
#   docker build --tag ofq .
#   docker run --rm --volume "$PWD/results:/ofq/results" ofq snakemake digits
FROM python:3.11-slim

WORKDIR /ofq
COPY pyproject.toml README.md LICENSE ./
COPY envs/constraints.txt envs/
COPY src src
RUN pip install --no-cache-dir --constraint envs/constraints.txt --editable '.[export,pipeline]'

COPY . .
RUN useradd --uid 1000 --create-home ofq && chown --recursive 1000 /ofq
USER 1000
CMD ["snakemake"]
