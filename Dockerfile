# One image for the worker, its migrations and Flower: what differs is the command (see docker-compose.yml).
ARG PYTHON=3.13-slim-trixie

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/pixcrawler
ENV PATH=/opt/pixcrawler/bin:$PATH
# What rarely changes comes first: a change of the code does not download the dependencies again.
COPY requirements/deploy.txt requirements/build.txt requirements/
RUN pip install --require-hashes -r requirements/deploy.txt
RUN python -m venv /opt/tools && /opt/tools/bin/pip install --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md CHANGELOG.md LICENSE alembic.ini ./
COPY migrations migrations
COPY pixcrawler_worker pixcrawler_worker
RUN /opt/tools/bin/hatchling build --target wheel --directory dist && pip install --no-deps dist/*.whl
# A path without the version of Python: `alembic upgrade head` finds its configuration and the migrations there.
RUN ln -s "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/pixcrawler_worker" /opt/pixcrawler/package

FROM python:${PYTHON}
# A fixed id that other images do not use: the user has access to no other files, and a volume keeps its owner.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin pixcrawler \
    && install --directory --owner pixcrawler --group pixcrawler /data
COPY --from=build /opt/pixcrawler /opt/pixcrawler
ENV PATH=/opt/pixcrawler/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIXCRAWLER_DATA_DIR=/data \
    ALEMBIC_CONFIG=/opt/pixcrawler/package/alembic.ini PIXCRAWLER_HEALTH_FILE=/tmp/pixcrawler-health
USER 10001:10001
WORKDIR /data
VOLUME /data
# After SIGTERM a worker finishes its chunks or releases them (docs/deployment.md).
CMD ["celery", "-A", "pixcrawler_worker", "worker", "--loglevel", "INFO"]
