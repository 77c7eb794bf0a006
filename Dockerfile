# The command line of clustrix, for CI systems, for notebooks in a cluster and for the chart's `helm test`:
#   docker build --tag registry.example.org/team/clustrix:0.1.0 .
#
# BASE has Python 3.10 or later. BUILDER has the same Python, pip, and what pip needs at your site (certificates, a
# configuration, wheels); of it the image gets the installed packages alone. An index of yours: --build-arg PIP_INDEX_URL=...
ARG BASE=docker.io/library/python:3.13-slim
ARG BUILDER=${BASE}

FROM ${BUILDER} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY clustrix clustrix
# The interpreter stands at the same place in both images, and an environment without pip is all that is taken over. Of
# the Kubernetes client, clustrix does not use the half for asyncio: a quarter of the environment.
RUN python3 -m venv --without-pip /opt/clustrix && \
    python3 -m pip --python /opt/clustrix/bin/python3 --no-cache-dir --disable-pip-version-check \
      install --no-compile '.[kubernetes]' && \
    cd /opt/clustrix/lib/python3*/site-packages && rm -rf kubernetes/aio clustrix-*.dist-info/direct_url.json && \
    python3 -m compileall -q -j 0 .

FROM ${BASE}
LABEL org.opencontainers.image.title="clustrix" org.opencontainers.image.licenses="MIT"
RUN echo 'clustrix:x:65532:65532::/home/clustrix:/sbin/nologin' >>/etc/passwd && \
    mkdir /home/clustrix && chown 65532:65532 /home/clustrix
COPY --from=build /opt/clustrix /opt/clustrix
ENV PATH=/opt/clustrix/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/home/clustrix \
    PYTHONUNBUFFERED=1
WORKDIR /home/clustrix
USER 65532:65532
ENTRYPOINT ["clustrix"]
CMD ["--help"]
