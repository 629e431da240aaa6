#!/bin/sh
# Install the programs that the tests use as real peers. Without root, say what is missing and go on: the tests that
# need it are skipped, or fail where CI=true.
set -eu
PATH=$PATH:/usr/sbin:/sbin
for folder in /usr/lib/postgresql/*/bin; do PATH=$PATH:$folder; done
missing=
for pair in mosquitto:mosquitto turnserver:coturn miniupnpd:miniupnpd nft:nftables ip:iproute2 postgres:postgresql \
    sshd:openssh-server ssh:openssh-client \
    faketime:faketime curl:curl dig:bind9-dnsutils dnsmasq:dnsmasq-base zsh:zsh fish:fish groff:groff systemd-analyze:systemd; do
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
# 123 MB to load: where there is another browser of its kind, that one does.
command -v chromium >/dev/null || command -v google-chrome >/dev/null || missing="$missing chromium"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing for some tests:$missing" >&2
    exit 0
fi
apt-get update -qq
# RUNLEVEL=1: the packages' own daemons must not start; the tests run their own copies in namespaces.
RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
