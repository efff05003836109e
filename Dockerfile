# Two images: the worker (the default) and the strict endpoint that stands in for Flex.
#   docker build -t flexworker --build-arg VERSION="$(git describe --tags --always)" .
#   docker build -t flexworker-endpoint --build-arg VERSION="$(git describe --tags --always)" --target endpoint .
# Both with the same VERSION: it is compiled in, so that another one compiles all of it a second time.
# Needs BuildKit for the mounts that keep what was compiled. From Docker 23 on it is the default where the plugin buildx is
# installed; before, DOCKER_BUILDKIT=1 asks for it. The older builder stops with `the --mount option requires BuildKit`.

FROM golang:1.26.8-alpine AS build
WORKDIR /src
# The dependencies first: they change less often than the code, and stay in Docker's cache.
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG VERSION=unknown
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 go build -trimpath -ldflags "-X main.version=${VERSION}" -o /out/ ./cmd/worker ./cmd/endpoint

FROM scratch AS endpoint
COPY --from=build /out/endpoint /endpoint
# A number, since there is no /etc/passwd, and since Kubernetes can only tell from a number that it is not root.
USER 65532:65532
ARG VERSION=unknown
LABEL org.opencontainers.image.title="flexworker-endpoint" org.opencontainers.image.version="${VERSION}"
EXPOSE 9090
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s CMD ["/endpoint", "healthcheck"]
ENTRYPOINT ["/endpoint"]

FROM scratch AS worker
# To know Twilio by.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/worker /worker
USER 65532:65532
ARG VERSION=unknown
LABEL org.opencontainers.image.title="flexworker" org.opencontainers.image.version="${VERSION}"
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s CMD ["/worker", "healthcheck"]
ENTRYPOINT ["/worker"]
