#!/usr/bin/env bash
# The binary in a container as restricted as on Fargate, without a Docker daemon and without a base image.
#
#   container.sh install                          the Debian packages, where missing; exits 77 if that is impossible
#   container.sh build BINARY STATE_DIR           image `etl` of the binary, its libraries, the CA bundle, jobs/ and schemas/
#   container.sh run STATE_DIR NAME [PODMAN RUN OPTION…] -- [ETL ARGUMENT…]      paths absolute; exits as etl does
#   container.sh stop STATE_DIR NAME SECONDS      SIGTERM, then SIGKILL after so many seconds
#   container.sh kill STATE_DIR NAME              SIGKILL
set -euo pipefail

# runc, since crun refuses hosts with both versions of cgroups; vfs, since overlays may not nest.
storage() {
    store=(--root "$state/store" --runroot "$state/run" --storage-driver vfs)
    podman=(podman "${store[@]}" --cgroup-manager cgroupfs --runtime runc)
    export CONTAINERS_CONF="$state/containers.conf" TMPDIR="$state/tmp"
}

installed() {
    local program
    for program in buildah podman runc ldd strip; do
        command -v "$program" >/dev/null || return 1 # asked for several at once, it is content with one
    done
}

install() {
    installed && return
    command -v apt-get >/dev/null || { echo "skipped: no apt-get to install podman with" >&2; exit 77; }
    [ "$(id -u)" = 0 ] || { echo "skipped: podman is not installed, and only root can" >&2; exit 77; }
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends buildah podman runc binutils ca-certificates; } >/dev/null 2>&1 ||
        { echo "skipped: apt-get could not install buildah, podman, runc" >&2; exit 77; }
}

build() { # binary
    local binary=$1 repository root=$state/root library bundle
    repository=$(cd "$(dirname "$0")/../.." && pwd)
    mkdir -p "$state/tmp"
    # There may be no journal to write to.
    printf '[containers]\nlog_driver = "k8s-file"\n[engine]\nevents_logger = "none"\n' >"$state/containers.conf"
    rm -rf "$root"
    mkdir -p "$root/etl" "$root/usr/bin" "$root/etc/ssl/certs"
    strip --strip-debug -o "$root/usr/bin/etl" "$binary"
    # Libraries are put where the loader looks for them: at the path that ldd prints, loader included.
    while read -r library; do
        install_file "$library" "$root$library"
    done < <(ldd "$binary" | grep -oE '/[^ ]+' | sort -u)
    for bundle in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
        [ ! -f "$bundle" ] || { install_file "$bundle" "$root/etc/ssl/certs/ca-certificates.crt"; break; }
    done
    printf 'etl:x:65532:65532::/:/sbin/nologin\n' >"$root/etc/passwd"
    printf 'etl:x:65532:\n' >"$root/etc/group"
    printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
    cp -r "$repository/jobs" "$repository/schemas" "$root/etl/"
    chmod -R a+rX "$root"
    printf '%s\n' 'FROM scratch' 'COPY root/ /' 'USER 65532:65532' 'WORKDIR /etl' 'ENTRYPOINT ["/usr/bin/etl"]' >"$state/Containerfile"
    buildah "${store[@]}" build --quiet --isolation chroot --file "$state/Containerfile" --tag etl "$state" >/dev/null
    printf 'image etl: %s bytes\n' "$(du --bytes --summarize "$root" | cut -f1)"
    rm -rf "$root"
}

install_file() {
    mkdir -p "$(dirname "$2")"
    cp --dereference "$1" "$2"
}

# Ulimits are lowered to what hosts allow: raising them takes CAP_SYS_RESOURCE.
run() { # name, podman's options, --, etl's arguments
    local name=$1 options=()
    shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    [ $# = 0 ] || shift
    cd "$state/tmp" # where a file `oom` appears when memory runs out
    exec "${podman[@]}" run --rm --replace --name "$name" --network host --read-only --read-only-tmpfs=false --tmpfs /tmp:size=64m,mode=1777 \
        --ulimit nofile=1024:20000 --ulimit nproc=1024:2048 --cap-drop all --security-opt no-new-privileges \
        "${options[@]}" etl "$@"
}

case ${1-} in
    install) install; exit ;;
    build) binary=${2:?a binary} state=${3:?a directory for state} ;;
    run | stop | kill) state=${2:?a directory for state} ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
installed || { echo "skipped: no podman; container.sh install" >&2; exit 77; }
mkdir -p "$state"
state=$(cd "$state" && pwd)
storage
case $1 in
    build) build "$binary" ;;
    run) shift 2; run "$@" ;;
    stop) "${podman[@]}" stop --time "${4:?seconds}" "${3:?a name}" >/dev/null ;;
    kill) "${podman[@]}" kill --signal KILL "${3:?a name}" >/dev/null ;;
esac
