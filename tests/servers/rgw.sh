#!/usr/bin/env bash
# Ceph's RADOS Gateway, an S3 server written by others than moto: real signatures and policies, objects in memory.
#
#   rgw.sh install     the Debian packages, where missing; exits 77 if that is impossible
#   rgw.sh up DIR      starts mon, osd and radosgw under DIR (absolute, short: it holds Unix sockets); prints
#                      `listening http://127.0.0.1:PORT` and `secure https://127.0.0.1:PORT`, whose authority is DIR/authority.pem
#   rgw.sh down DIR    stops them
#
# Users (key and secret the same): test; guest, who owns nothing and may assume the role arn:aws:iam:::role/reader, which may all.
# One KMS key: key-1.
#
# It enforces If-None-Match on PUT, but neither on CompleteMultipartUpload nor If-Match on PUT.
set -euo pipefail

memory=${RGW_MEMORY:-$((1 << 30))} # bytes of objects; at nine tenths of it, writes wait for ever

installed() {
    local program
    for program in radosgw ceph-mon ceph-osd monmaptool radosgw-admin ceph; do
        command -v "$program" >/dev/null || return 1 # asked for several at once, it is content with one
    done
}

install() {
    installed && return
    command -v apt-get >/dev/null || { echo "skipped: no apt-get to install radosgw with" >&2; exit 77; }
    [ "$(id -u)" = 0 ] || { echo "skipped: radosgw is not installed, and only root can" >&2; exit 77; }
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends radosgw ceph-mon ceph-osd; } >/dev/null 2>&1 ||
        { echo "skipped: apt-get could not install radosgw, ceph-mon, ceph-osd" >&2; exit 77; }
}

free_ports() { # count
    python3 -c '
import socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in sockets))' "$1"
}

start() { # name, command…: in the foreground of its own process, so that its pid is known
    local name=$1
    shift
    setsid "$@" </dev/null >"$dir/$name.out" 2>&1 &
    echo $! >"$dir/$name.pid"
}

ceph_() {
    timeout 30 ceph -c "$dir/ceph.conf" "$@" >>"$dir/ceph.out" 2>&1
}

admin() {
    timeout 120 radosgw-admin -c "$dir/ceph.conf" "$@"
}

statement() { # what it allows
    printf '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", %s}]}' "$1"
}

certificate() { # of an authority that nobody trusts
    (
        cd "$dir"
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout authority.key -out authority.pem
        openssl req -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr
        printf 'subjectAltName = IP:127.0.0.1\n' >server.ext
        openssl x509 -req -days 2 -in server.csr -CA authority.pem -CAkey authority.key -set_serial 1 -extfile server.ext -out server.pem
    ) >"$dir/certificate.out" 2>&1
}

wait_for() { # seconds, what, command…
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        if [ "$SECONDS" -ge "$until" ]; then
            echo "$what is not ready" >&2
            exit 1
        fi
        sleep 0.1
    done
}

osd_up() {
    timeout 30 ceph -c "$dir/ceph.conf" osd stat 2>/dev/null | grep -q '1 up'
}

answers() { # port
    python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)' "http://127.0.0.1:$1" 2>/dev/null
}

up() {
    installed || { echo "skipped: no radosgw; rgw.sh install" >&2; exit 77; }
    local mon rgw secure fsid conf=$dir/ceph.conf
    rm -rf "${dir:?}/mon" "$dir/osd" "$dir/run"
    mkdir -p "$dir/mon" "$dir/osd" "$dir/run"
    read -r mon rgw secure < <(free_ports 3)
    certificate
    fsid=$(python3 -c 'import uuid; print(uuid.uuid4())')
    cat >"$conf" <<CONF
[global]
fsid = $fsid
mon host = v1:127.0.0.1:$mon
mon initial members = a
public addr = 127.0.0.1
ms bind msgr2 = false
auth cluster required = none
auth service required = none
auth client required = none
auth allow insecure global id reclaim = false
mon allow pool size one = true
mon allow pool delete = true
mon warn on pool no redundancy = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
paxos propose interval = 0.05
paxos min wait = 0.02
mon data avail warn = 0
mon data avail crit = 0
mon max pg per osd = 1000
osd objectstore = memstore
osd class update on start = false
osd crush update on start = false
memstore device bytes = $memory
osd max object name len = 4096
run dir = $dir/run
admin socket = $dir/run/\$name.asok
log file = $dir/\$name.log
debug ms = 0
debug mon = 0
debug osd = 0
debug rgw = 0
debug paxos = 0
debug rocksdb = 0
pid file = 
keyring = $dir/keyring
[mon.a]
mon data = $dir/mon
[osd.0]
osd data = $dir/osd
[client.rgw]
rgw data = $dir/run
rgw frontends = beast endpoint=127.0.0.1:$rgw ssl_endpoint=127.0.0.1:$secure ssl_certificate=$dir/server.pem ssl_private_key=$dir/server.key tcp_nodelay=1
rgw enable usage log = false
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = key-1=$(openssl rand -base64 32)
rgw s3 auth use sts = true
rgw sts key = $(openssl rand -hex 8)
CONF
    : >"$dir/keyring"
    {
        monmaptool --create --clobber --fsid "$fsid" --addv a "[v1:127.0.0.1:$mon]" "$dir/monmap"
        ceph-mon -c "$conf" --mkfs -i a --monmap "$dir/monmap" --keyring "$dir/keyring"
    } >"$dir/mkfs.out" 2>&1
    start mon ceph-mon -c "$conf" -f -i a
    timeout 60 ceph-osd -c "$conf" --mkfs -i 0 --keyring "$dir/keyring" >>"$dir/mkfs.out" 2>&1 # asks the mon
    # A young mon may refuse commands, hence the repetition. The fsid is the one that --mkfs wrote: all zeros with memstore.
    wait_for 30 'the mon' ceph_ osd new "$(cat "$dir/osd/fsid")" 0
    start osd ceph-osd -c "$conf" -f -i 0
    wait_for 30 'the mon' ceph_ osd crush add osd.0 1 root=default host=local
    wait_for 60 'the osd' osd_up
    {
        admin user create --uid=test --display-name=test --access-key=test --secret=test
        admin user create --uid=guest --display-name=guest --access-key=guest --secret=guest
        admin role create --role-name=reader --assume-role-policy-doc="$(statement '"Principal": {"AWS": ["arn:aws:iam:::user/guest"]}, "Action": ["sts:AssumeRole"]')"
        admin role-policy put --role-name=reader --policy-name=all --policy-doc="$(statement '"Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]')"
    } >"$dir/user.out" 2>&1
    start rgw radosgw -c "$conf" -f -n client.rgw
    wait_for 60 radosgw answers "$rgw"
    echo "listening http://127.0.0.1:$rgw"
    echo "secure https://127.0.0.1:$secure"
}

ours() { # pid: it may be another's by now
    grep -qzxF -- "$dir/ceph.conf" "/proc/$1/cmdline" 2>/dev/null
}

down() {
    local name pid pids=() until=$((SECONDS + 2))
    for name in rgw osd mon; do
        [ -f "$dir/$name.pid" ] || continue
        pid=$(cat "$dir/$name.pid")
        if ours "$pid" && kill "$pid"; then pids+=("$pid"); fi
        rm -f "$dir/$name.pid"
    done
    for pid in "${pids[@]}"; do # ceph-osd does not always heed SIGTERM
        while ours "$pid" && [ "$SECONDS" -lt "$until" ]; do sleep 0.05; done
        if ours "$pid"; then kill -KILL "$pid" || true; fi
    done
}

case ${1-} in
    install) install ;;
    up | down)
        dir=${2:?a directory}
        mkdir -p "$dir"
        dir=$(cd "$dir" && pwd)
        if [ "$1" = up ]; then
            trap '[ $? = 0 ] || { echo "radosgw did not start; see $dir" >&2; down; }' EXIT
        fi
        "$1"
        ;;
    *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
