#!/bin/sh
# Makes sure that libfaketime and pgbouncer are on this machine, for `make faults`. When they are missing it installs Debian's
# packages, where it may; elsewhere it says what to install, and fails.
set -eu

found() {
	ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 && PATH=$PATH:/usr/sbin command -v pgbouncer >/dev/null
}

install_on_debian() {
	as_root=
	if [ "$(id -u)" != 0 ]; then
		# -n: never ask for a password, as nobody may be there to type it.
		sudo -n true 2>/dev/null || return 1
		as_root="sudo -n"
	fi
	echo "faults: installing Debian's packages"
	get="$as_root env DEBIAN_FRONTEND=noninteractive apt-get"
	$get update -qq && $get install -y -qq --no-install-recommends libfaketime pgbouncer
}

if found || { command -v apt-get >/dev/null && install_on_debian && found; }; then
	exit 0
fi
cat >&2 <<'TEXT'
faults: libfaketime or pgbouncer is missing. Install both
  on Debian or Ubuntu, as root:  apt-get update && apt-get install libfaketime pgbouncer
TEXT
exit 1
