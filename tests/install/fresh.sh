#!/usr/bin/env bash
# fresh.sh [--bare] [--keep] [COMMAND...]
#
# Proves that a stranger can build the project: makes a bare Debian 12 root with debootstrap, puts a clean clone of the
# last commit into it and runs there, as root, `./dev run` and then `./dev test` (or the ./dev commands given). Needs
# root, debootstrap, git and about 3 GB in TMPDIR.
#
#   --bare   leave the package sources as debootstrap wrote them; without it the machine's own Debian 12 sources and
#            apt settings are copied, so that a mirror or proxy that the machine needs is used
#   --keep   leave the root behind and say where it is
#
# CI, ATTN_SANITIZERS and the proxy variables are handed on.
set -euo pipefail

bare=no
keep=no
commands=()
for argument in "$@"; do
  case "$argument" in
    --bare) bare=yes ;;
    --keep) keep=yes ;;
    -*) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
    *) commands+=("$argument") ;;
  esac
done
[ ${#commands[@]} -gt 0 ] || commands=(run test)

fail() { echo "fresh.sh: $*" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || fail "must run as root (debootstrap, chroot)"
for tool in debootstrap git chroot; do
  command -v "$tool" >/dev/null || PATH="$PATH:/usr/sbin" command -v "$tool" >/dev/null || fail "$tool is missing"
done
PATH="$PATH:/usr/sbin"

repository="$(git -C "$(dirname "${BASH_SOURCE[0]}")" rev-parse --show-toplevel)"
work="$(mktemp -d "${TMPDIR:-/tmp}/attnc-fresh.XXXXXX")"
root="$work/root"

cleanup() {
  # Nothing may be deleted while it is mounted.
  if mountpoint -q "$root/proc" && ! umount "$root/proc"; then
    echo "fresh.sh: $root/proc is still mounted; the root stays" >&2
    return
  fi
  if [ "$keep" = yes ]; then echo "fresh.sh: the root is $root"; else rm -rf --one-file-system "$work"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# The sources of this machine that are Debian 12's, third parties' left out.
host_sources() {
  local file
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    if [ -f "$file" ] && grep -qE '(^|[[:space:]])bookworm(-[a-z]+)?([[:space:]]|$)' "$file"; then echo "$file"; fi
  done
}

mirror="" # debootstrap has one of its own
if [ "$bare" = no ] && [ -n "$(host_sources)" ]; then
  # shellcheck disable=SC2016 # apt-get expands it
  found="$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' 'Created-By: Packages' | sed -n 1p)"
  mirror="${found:-$mirror}"
fi

echo "fresh.sh: Debian 12 into $root"
mkdir -p "$root"
debootstrap --variant=minbase bookworm "$root" ${mirror:+"$mirror"} >"$work/debootstrap.log" 2>&1 ||
  { tail -n 20 "$work/debootstrap.log" >&2; fail "debootstrap failed"; }
echo "fresh.sh: debootstrap done after ${SECONDS}s"

cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
if [ "$bare" = no ]; then
  [ -z "$(host_sources)" ] || : >"$root/etc/apt/sources.list"
  while read -r file; do cat "$file" >"$root$file"; done < <(host_sources)
  apt-config dump | grep -E '^Acquire::(http|https|Retries|Check-)' >"$root/etc/apt/apt.conf.d/99machine" || true
fi

git clone --quiet --no-hardlinks "$repository" "$root/root/attnc"
mount -t proc proc "$root/proc"

handed_on=()
for name in CI ATTN_SANITIZERS http_proxy https_proxy no_proxy; do
  [ -z "${!name+set}" ] || handed_on+=("$name=${!name}")
done
for command in "${commands[@]}"; do
  echo "fresh.sh: ./dev $command, at ${SECONDS}s"
  chroot "$root" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/root LANG=C.UTF-8 "${handed_on[@]}" sh -c "cd /root/attnc && ./dev $command"
done
echo "fresh.sh: all done after ${SECONDS}s"
