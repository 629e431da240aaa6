# The command as an image, for machines that run containers and nothing else. Build it from the top of the repository:
#   docker build -f deploy/client.Dockerfile -t warpgate-client .
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir --prefix=/installed '.[cli]'

FROM python:3.12-slim
COPY --from=build /installed /usr/local
# Keys are in the volume, or the node is another one after each start; what is sent and received is in the directory that
# it is run in.
RUN useradd --system --create-home --home-dir /var/lib/warpgate warpgate
USER warpgate
ENV WARPGATE_DATA=/var/lib/warpgate
VOLUME /var/lib/warpgate
WORKDIR /files
ENTRYPOINT ["warpgate"]
CMD ["listen", "--echo"]
