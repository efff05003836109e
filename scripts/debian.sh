# Sourced by the scripts that make sure of what this machine has: how they install Debian's packages.

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	else
		sudo -n "$@" # -n: never ask for a password, as nobody may be there to type it
	fi
}

# may_install says whether this is a Debian on which packages may be installed.
may_install() { command -v apt-get >/dev/null && as_root true 2>/dev/null; }

# apt_update reads the lists of packages, and apt_install installs from them.
apt_update() { as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq; }
apt_install() { as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; }
