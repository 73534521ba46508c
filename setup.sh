#!/bin/sh
# Installs what a Debian 12 machine lacks to build, test and run the lab, then builds. Safe to run again.
# With --host: only what a host of a cluster needs.
set -eu
cd "$(dirname "$0")"

packages="containerd runc crun tini iproute2 nftables conntrack nats-server util-linux procps iputils-ping iptables buildah wireguard-go wireguard-tools attr"
case "${1:-}" in
  --host) ;;
  "") packages="$packages busybox-static docker-registry python3-docker wrk e2fsprogs" ;;
  *) echo "setup: unknown argument $1; accepted is --host" >&2; exit 2 ;;
esac
installed() {
  dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'
}
missing=""
for package in $packages; do
  case "$package" in
    # Docker's own package has both, and Debian's would take it and Docker away.
    containerd | runc) ! installed containerd.io || continue ;;
  esac
  installed "$package" || missing="$missing $package"
done
if [ -n "$missing" ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "setup: cannot install Debian packages: not root; run 'apt-get install$missing' as root first" >&2
    exit 1
  fi
  echo "setup: installing Debian packages:$missing"
  apt-get update -qq
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-remove --no-install-recommends $missing
  # Debian starts these as services, on ports that shoald (4222) and others (5000) need; only what we installed is ended.
  for service in nats-server docker-registry; do
    case "$missing " in
      *" $service "*) [ ! -d /run/systemd/system ] || systemctl disable --now "$service" ;;
    esac
  done
fi

# The stamp is the lock file of the last install, so an unchanged lock installs nothing.
if ! cmp -s package-lock.json node_modules/.shoal-lock; then
  npm install --no-audit --no-fund --loglevel=error
  npx tap build >/dev/null # bakes the plugin list of .taprc into the test runner
  cp package-lock.json node_modules/.shoal-lock
fi
npm run --silent build
