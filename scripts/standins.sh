# Sourced by scripts/containers.sh: an engine and the images of Dockerfile and docker-compose.yml, on a machine that has
# none. What can be had is taken as it is: a running engine, an image that is there or that a registry gives. The rest is
# made of Debian's packages, of this machine's Go and of go.mod's NATS server, under the names that the files have.
# It uses $work, a folder that whoever sources it removes, and calls say, and apt_update and apt_install of scripts/debian.sh.

engine=    # the process of a dockerd that was started here
standins=() # images that were made here

# start_engine starts a dockerd whose data is below $work, where no engine answers.
start_engine() {
	if docker info >/dev/null 2>&1; then
		return
	fi
	if [ "$(id -u)" != 0 ]; then
		say "no Docker engine answers, and starting one needs root"
		return 1
	fi
	if ! command -v dockerd iptables >/dev/null; then
		command -v apt-get >/dev/null || { say "no Docker engine, and no apt-get to install one"; return 1; }
		say "installing docker.io and iptables, Debian's packages"
		apt_update && apt_install docker.io iptables >/dev/null
	fi
	# dockerd leaves rules, a bridge and the forwarding of packets behind.
	iptables-save >"$work/rules"
	forwarding=$(cat /proc/sys/net/ipv4/ip_forward)
	export DOCKER_HOST=unix://$work/docker.sock
	dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" -H "$DOCKER_HOST" >"$work/dockerd.log" 2>&1 &
	engine=$!
	for _ in $(seq 120); do
		if docker info >/dev/null 2>&1; then
			return
		fi
		kill -0 "$engine" 2>/dev/null || break
		sleep 0.5
	done
	say "the engine does not start on this machine; its last words:"
	tail -n 5 "$work/dockerd.log"
	return 1
}

# stop_engine ends what start_engine started, and removes what a dockerd leaves behind.
stop_engine() {
	[ -n "$engine" ] || return 0
	kill "$engine" 2>/dev/null && wait "$engine" || true
	ip link delete docker0 2>/dev/null || true
	iptables-restore <"$work/rules" || true
	echo "$forwarding" >/proc/sys/net/ipv4/ip_forward
}

# debian makes a Debian 13 below $work: it has Postgres 17, and the plugins of the docker command that Debian 12 lacks.
debian() {
	[ ! -d "$work/debian" ] || return 0
	if ! command -v debootstrap >/dev/null; then
		say "installing debootstrap, Debian's package"
		apt_update && apt_install debootstrap >/dev/null
	fi
	say "making a Debian 13 for the stand-ins"
	debootstrap --variant=minbase --include=postgresql-17,gosu,wget,ca-certificates,docker-compose,docker-buildx \
		trixie "$work/debian" >"$work/debootstrap.log" 2>&1 || { tail -n 5 "$work/debootstrap.log"; return 1; }
	mv "$work/debian/usr/libexec/docker/cli-plugins" "$work/plugins"
	rm -rf "$work"/debian/var/cache/apt "$work"/debian/var/lib/apt/lists
	cp /etc/ssl/certs/ca-certificates.crt "$work/debian/etc/ssl/certs/" # whom this machine trusts
}

# plugins gives the docker command its compose and buildx, where it lacks compose.
plugins() {
	if docker compose version >/dev/null 2>&1; then
		return
	fi
	debian
	export DOCKER_CONFIG=$work/config
	mkdir "$DOCKER_CONFIG"
	cp -r "$work/plugins" "$DOCKER_CONFIG/cli-plugins"
}

# image NAME: it is there, or it is pulled, or a stand-in is made of it.
image() {
	local name=$1
	if docker image inspect "$name" >/dev/null 2>&1 || timeout 120 docker pull --quiet "$name" >/dev/null 2>&1; then
		return
	fi
	say "$name cannot be pulled: a stand-in is made"
	debian
	if ! docker image inspect flexworker-debian >/dev/null 2>&1; then
		tar -C "$work/debian" -c . | docker import - flexworker-debian >/dev/null
		standins+=(flexworker-debian)
	fi
	local context=$work/image
	rm -rf "$context"
	mkdir "$context"
	case $name in
	golang:*) standin_golang "$context" ;;
	nats:*) standin_nats "$context" ;;
	postgres:*) standin_postgres "$context" ;;
	*) say "nobody has written a stand-in for $name"; return 1 ;;
	esac
	# The older builder needs no plugin.
	DOCKER_BUILDKIT=0 docker build --quiet --tag "$name" "$context" >"$work/build.log" 2>&1 || { cat "$work/build.log"; return 1; }
	standins+=("$name")
}

standin_golang() {
	cp -a "$(go env GOROOT)" "$1/go"
	cat >"$1/Dockerfile" <<-DOCKERFILE
		FROM flexworker-debian
		COPY go /usr/local/go
		ENV PATH=/usr/local/go/bin:/usr/sbin:/usr/bin GOPATH=/go GOTOOLCHAIN=local GOPROXY=$(go env GOPROXY)
		WORKDIR /go
	DOCKERFILE
}

standin_nats() {
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$1/nats-server" github.com/nats-io/nats-server/v2
	cat >"$1/Dockerfile" <<-'DOCKERFILE'
		FROM flexworker-debian
		COPY nats-server /usr/bin/
		VOLUME /data
		ENTRYPOINT ["nats-server"]
	DOCKERFILE
}

# What the official image's entrypoint does, as far as docker-compose.yml asks for it.
standin_postgres() {
	cat >"$1/entrypoint" <<-'ENTRYPOINT'
		#!/bin/bash
		set -e
		if [ "$(id -u)" = 0 ]; then
			mkdir -p "$PGDATA" && chown -R postgres "$PGDATA" && chmod 700 "$PGDATA"
			exec gosu postgres "$0" "$@"
		fi
		if [ ! -s "$PGDATA/PG_VERSION" ]; then
			initdb -U "$POSTGRES_USER" --pwfile=<(echo "$POSTGRES_PASSWORD") --auth-local=trust --auth-host=scram-sha-256 -D "$PGDATA"
			echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
			pg_ctl -D "$PGDATA" -o "-c listen_addresses=" -w start
			createdb -U "$POSTGRES_USER" --maintenance-db=postgres "$POSTGRES_DB"
			pg_ctl -D "$PGDATA" -w stop
		fi
		exec "$@" -c listen_addresses='*'
	ENTRYPOINT
	chmod +x "$1/entrypoint"
	cat >"$1/Dockerfile" <<-'DOCKERFILE'
		FROM flexworker-debian
		ENV PATH=/usr/lib/postgresql/17/bin:/usr/sbin:/usr/bin LANG=C.UTF-8 PGDATA=/var/lib/postgresql/data
		VOLUME /var/lib/postgresql/data
		COPY entrypoint /usr/bin/
		ENTRYPOINT ["entrypoint"]
		STOPSIGNAL SIGINT
		CMD ["postgres"]
	DOCKERFILE
}
