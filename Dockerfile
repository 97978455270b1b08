# Builds the blobs in a container, for pipelines that have Docker and nothing else. See docs/docker.md.
#
#   docker build -t blobs_all .
#   docker create --name extract_blobs blobs_all
#   docker cp extract_blobs:/blobs ./blobs
#   docker rm extract_blobs
#
# The bytes are those of `neb build`: the base image provides a shell, Go and certificates, and no byte of a
# blob. It must work with the classic builder, which knows neither cache mounts nor here-documents.

# Go 1.26.5 on Debian 13. The digest is the one that github.com/docker-library/repo-info lists for this tag in
# repos/golang/remote/1.26-trixie.md (commit 01b535c016d07e973eeb58e43ad1e2552018a407).
ARG BASE_IMAGE=golang:1.26-trixie@sha256:4ee9ffa999b4583ce281939cdff828763083610292f252279a0cee77473bd9a7

# TARGET: all, kernel, init or linuxkit. ARCH: x86_64, aarch64 or x86_64,aarch64; the builder's own if empty.
# A stage of its own: mistakes show at once, and neb is compiled once for all targets.
FROM ${BASE_IMAGE} AS arguments
ARG TARGET=all
ARG ARCH
RUN case "$TARGET" in \
      all|kernel|init|linuxkit) ;; \
      *) echo "unknown TARGET '$TARGET': expected all, kernel, init or linuxkit" >&2; exit 2 ;; \
    esac; \
    case "$ARCH" in \
      ""|x86_64|aarch64|x86_64,aarch64|aarch64,x86_64) ;; \
      *) echo "unknown ARCH '$ARCH': expected x86_64, aarch64 or x86_64,aarch64" >&2; exit 2 ;; \
    esac; \
    command -v go >/dev/null || { \
      echo "the base image has no Go in its PATH: use --build-arg BASE_IMAGE=golang:1.26-trixie" >&2; \
      exit 2; }; \
    touch /arguments-are-right

FROM ${BASE_IMAGE} AS build
# Where packages and Go modules come from. Downloads are checked against neb.lock and go.sum in any case.
ARG NEB_MIRROR
ARG GOPROXY
ARG GOSUMDB

WORKDIR /src
COPY --from=arguments /arguments-are-right /
COPY go.mod go.sum ./
RUN go mod download

COPY . .
RUN CGO_ENABLED=0 go build -buildvcs=false -trimpath -o /usr/local/bin/neb ./cmd/neb

ARG TARGET=all
ARG ARCH
RUN neb build "$TARGET" ${ARCH:+--arch "$ARCH"} --output /result

# One architecture: /blobs holds the files themselves. Two: a directory for each.
RUN set -- /result/*/; \
    if [ $# -eq 1 ]; then cp -a "$1" /blobs; else mkdir /blobs && cp -a "$@" /blobs/; fi

FROM scratch AS artifacts
COPY --from=build /blobs/ /blobs/
# Never run: docker create requires a command.
CMD ["none"]
