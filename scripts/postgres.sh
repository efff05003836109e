#!/bin/sh
# Makes sure that the programs of a Postgres server are on this machine: the tests and the demo start servers of their own
# with them. It looks where internal/testing/pgtest looks. When there are none it installs Debian's package, where it
# may, without the server that the package would start; elsewhere it says what to install, and fails.
set -eu
. "$(dirname "$0")/debian.sh"

if [ -n "${TEST_DATABASE_URL:-}" ]; then
	echo "postgres: the tests use TEST_DATABASE_URL"
	exit 0
fi

complete() { [ -x "$1/initdb" ] && [ -x "$1/postgres" ]; }

find_server() {
	if [ -n "${FLEXWORKER_PG_BIN:-}" ]; then
		complete "$FLEXWORKER_PG_BIN" && echo "$FLEXWORKER_PG_BIN"
		return
	fi
	if path=$(command -v postgres) && command -v initdb >/dev/null; then
		dirname "$path"
		return
	fi
	for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/pgsql/bin \
		/opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
		if complete "$dir"; then
			echo "$dir"
			return
		fi
	done
	return 1
}

install_on_debian() {
	echo "postgres: installing Debian's package"
	apt_update && apt_install postgresql-common || return 1
	# Before the server's package: no cluster, so no server that starts now and with the machine.
	as_root sed -i 's/^#* *create_main_cluster .*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
	apt_install postgresql
}

if dir=$(find_server); then
	echo "postgres: $dir"
	exit 0
fi
if [ -z "${FLEXWORKER_PG_BIN:-}" ] && may_install && install_on_debian && dir=$(find_server); then
	echo "postgres: $dir"
	exit 0
fi
cat >&2 <<'TEXT'
postgres: the programs of a Postgres server (initdb, postgres) are missing. Install them
  on Debian or Ubuntu, as root:  apt-get update && apt-get install postgresql
  on macOS:                      brew install postgresql@17
or name their folder in FLEXWORKER_PG_BIN, or, for tests, a server to use in TEST_DATABASE_URL.
TEXT
exit 1
