# One worker. No torch, no compiler, no root: graphs run in ONNX Runtime, weights come with the packages.
FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE THIRD_PARTY.md ./
COPY client client
COPY onnx_export onnx_export
COPY server server
COPY streaming_models streaming_models
RUN python -m venv /opt/crosstalk && /opt/crosstalk/bin/pip install --quiet --no-cache-dir --disable-pip-version-check .

FROM python:3.11-slim
COPY --from=build /opt/crosstalk /opt/crosstalk
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin crosstalk
USER crosstalk
ENV PATH=/opt/crosstalk/bin:$PATH PYTHONUNBUFFERED=1 CROSSTALK_HOST=0.0.0.0
EXPOSE 8700
# Ready: models are loaded and Redis answers.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8700/readyz', timeout=4)"]
ENTRYPOINT ["crosstalk"]
CMD ["serve"]
