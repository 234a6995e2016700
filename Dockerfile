# One image for the worker, its migrations and Flower: what differs is the command (see docker-compose.yml).
ARG PYTHON=3.13-slim-trixie

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/pixcrawler
ENV PATH=/opt/pixcrawler/bin:$PATH
# What changes seldom comes first: a change of ours does not fetch everything again.
COPY requirements/deploy.txt requirements/build.txt requirements/
RUN pip install --require-hashes -r requirements/deploy.txt
RUN python -m venv /opt/tools && /opt/tools/bin/pip install --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md CHANGELOG.md LICENSE alembic.ini ./
COPY migrations migrations
COPY pixcrawler_worker pixcrawler_worker
RUN /opt/tools/bin/hatchling build --target wheel --directory dist && pip install --no-deps dist/*.whl

FROM python:${PYTHON}
# An id without a name in other images: nobody else's files are in reach, and a volume keeps its owner.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin pixcrawler \
    && install --directory --owner pixcrawler --group pixcrawler /data
COPY --from=build /opt/pixcrawler /opt/pixcrawler
ENV PATH=/opt/pixcrawler/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIXCRAWLER_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
# SIGTERM lets a worker finish its chunks, or hand them back (docs/deployment.md).
CMD ["celery", "-A", "pixcrawler_worker", "worker", "--loglevel", "INFO"]
