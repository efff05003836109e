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

# apt_update reads the lists of packages, and apt_install installs from them. Each waits until no other script of ours does either:
# two runs of the tests may start at once on a new machine. apt_install also waits up to ten minutes where dpkg is locked.
apt_update() { apt_get update; }
apt_install() { apt_get install -y --no-install-recommends "$@"; }
apt_get() {
	as_root env DEBIAN_FRONTEND=noninteractive flock /run/lock/flexworker-apt apt-get -qq -o DPkg::Lock::Timeout=600 "$@"
}
