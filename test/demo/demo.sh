#!/bin/sh
# `npm run demo`: reads what it was asked before anything is set up, since that takes long and changes the machine.
set -eu
root="$(dirname "$(readlink -f "$0")")/../.."

usage() {
  cat <<'END'
Usage: npm run demo [-- --name NAME]

Sets this machine up, makes five hosts on it and shows what a cluster of them does; it stays up afterwards.

  --name NAME   name of its lab (default shoal); a lab of that name that is up is removed first
  -h, --help    show this and do nothing
END
}

name=shoal
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --name=*) name="${1#--name=}" ;;
    --name)
      [ $# -gt 1 ] || { echo "demo: --name lacks its value" >&2; exit 2; }
      name="$2"
      shift
      ;;
    *) echo "demo: unknown argument $1; accepted are --name NAME and --help" >&2; exit 2 ;;
  esac
  shift
done
case "$name" in
  "" | *[!a-z-]* | ???????????*)
    echo "demo: cannot name a lab $name: 1 to 10 small letters or dashes are accepted" >&2
    exit 2
    ;;
esac

"$root/setup.sh"
exec node "$root/build/test/demo/main.js" "$name"
