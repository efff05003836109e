#!/bin/sh
# Makes sure that libfaketime and pgbouncer are on this machine, for `make faults`. When they are missing it installs Debian's
# packages, where it may; elsewhere it says what to install, and fails.
set -eu
. "$(dirname "$0")/debian.sh"

found() {
	ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 && PATH=$PATH:/usr/sbin command -v pgbouncer >/dev/null
}

install_on_debian() {
	echo "faults: installing Debian's packages"
	apt_update && apt_install libfaketime pgbouncer
}

if found || { may_install && install_on_debian && found; }; then
	exit 0
fi
cat >&2 <<'TEXT'
faults: libfaketime or pgbouncer is missing. Install both
  on Debian or Ubuntu, as root:  apt-get update && apt-get install libfaketime pgbouncer
TEXT
exit 1
