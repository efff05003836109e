#!/bin/sh
# Makes sure that there is a Chromium on this machine, for the tests of the page, and axe-core, which they hold every screen
# against, and which npm brings (scripts/node.sh). It looks where the tests look. When there is none it installs Debian's package, where it may; elsewhere it says
# what to install, and fails.
set -eu
. "$(dirname "$0")/debian.sh"

find_browser() {
	if [ -n "${FLEXWORKER_CHROMIUM:-}" ]; then
		[ -x "$FLEXWORKER_CHROMIUM" ] && echo "$FLEXWORKER_CHROMIUM"
		return
	fi
	for name in /usr/lib/chromium/chromium-headless-shell chrome-headless-shell chromium chromium-browser google-chrome google-chrome-stable; do
		if command -v "$name"; then
			return
		fi
	done
	mac="/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
	[ -x "$mac" ] && echo "$mac"
}

install_on_debian() {
	echo "chromium: installing Debian's package"
	# The fonts: without any, a page is measured with boxes in place of letters.
	apt_update && { apt_install chromium-headless-shell fonts-dejavu-core || apt_install chromium fonts-dejavu-core; }
}

if ! find_browser >/dev/null; then
	if [ -n "${FLEXWORKER_CHROMIUM:-}" ] || ! may_install || ! install_on_debian || ! find_browser >/dev/null; then
		cat >&2 <<'TEXT'
chromium: there is no Chromium, which the tests of the page need. Install it
  on Debian, as root:  apt-get update && apt-get install chromium-headless-shell fonts-dejavu-core
  on macOS:            brew install --cask google-chrome
or name it in FLEXWORKER_CHROMIUM.
TEXT
		exit 1
	fi
fi
echo "chromium: $(find_browser)"

axe=$(dirname "$0")/../internal/admin/page/testdata/axe
if [ ! -f "$axe/node_modules/axe-core/axe.min.js" ] || [ "$axe/package-lock.json" -nt "$axe/node_modules/.package-lock.json" ]; then
	echo "chromium: installing axe-core"
	npm ci --prefix "$axe" --ignore-scripts --no-audit --no-fund --silent
fi
