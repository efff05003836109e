#!/bin/sh
# Makes sure that Node 18 or later and npm are on this machine: a test runs the example in Node with them. When they are
# missing it installs Debian's packages, where it may; elsewhere it says what to install, and fails.
set -eu
. "$(dirname "$0")/debian.sh"

found() {
	command -v npm >/dev/null && version=$(node --version 2>/dev/null) && version=${version#v} && [ "${version%%.*}" -ge 18 ]
}

install_on_debian() {
	echo "node: installing Debian's packages"
	apt_update && apt_install nodejs npm
}

if found || { may_install && install_on_debian && found; }; then
	echo "node: $(command -v node), $version"
	exit 0
fi
cat >&2 <<'TEXT'
node: Node 18 or later with npm is missing. Install both
  on Debian 12, Ubuntu 24.04 or later, as root:  apt-get update && apt-get install nodejs npm
  on macOS:                                      brew install node
TEXT
exit 1
