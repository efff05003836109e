#!/usr/bin/env bash
# Builds and runs Dockerfile and docker-compose.yml on a real Docker engine, and holds the account at the end: the strict
# endpoint's ledger and `worker audit` against what was sent. A worker is killed, and each dependency loses its network
# for CUT seconds while events flow. What the machine lacks is made by scripts/standins.sh, and all of it is removed.
#
#   scripts/containers.sh           CUT=40 by default; as root where no engine runs
set -euo pipefail
cd "$(dirname "$0")/.."

cut=${CUT:-40}
began=$SECONDS
work=$(mktemp -d)
say() { printf '%4d s  %s\n' $((SECONDS - began)) "$*"; }
. scripts/debian.sh
. scripts/standins.sh

# A project of its own: the volumes of somebody's demo are not touched. No secret and no setting of whoever types this.
export VERSION=containers
unset COMPOSE_FILE COMPOSE_PROFILES COMPOSE_PROJECT_NAME TWILIO_ACCOUNT_SID FLEX_URL TASKROUTER_URL SECRETS_DIR
compose() { docker compose --ansi never --env-file demo.env --project-name flexworker-containers "$@"; }

tidy() {
	local status=$?
	trap - EXIT
	rm -f "$work/flowing"
	wait "${flow:-}" 2>/dev/null || true
	if docker info >/dev/null 2>&1; then
		[ "$status" = 0 ] || { compose ps --all && compose logs --tail 15; } 2>&1 | cut -c1-300 || true
		[ -z "${squatter:-}" ] || docker rm --force "$squatter" >/dev/null 2>&1 || true
		compose down --volumes --rmi local --timeout 5 >/dev/null 2>&1 || true
		for name in flexworker:$VERSION flexworker-endpoint:$VERSION ${standins[@]+"${standins[@]}"}; do
			docker rmi --force "$name" >/dev/null 2>&1 || true
		done
	fi
	stop_engine
	rm -rf "$work"
	exit "$status"
}
trap tidy EXIT
trap 'exit 130' INT TERM

passed=0
failed=0
# check WHAT COMMAND...: counts whether the command succeeds.
check() {
	local what=$1
	shift
	if "$@" >"$work/said" 2>&1; then
		passed=$((passed + 1))
		say "ok      $what"
	else
		failed=$((failed + 1))
		say "FAILED  $what"
		tail -n 5 "$work/said" | cut -c1-300
	fi
}
# within SECONDS COMMAND...: asks again until the command succeeds.
within() {
	local until=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $until ] || return 1
		sleep 1
	done
}

event() {
	printf '{"request_id":"%s","channel":{"type":"sms","initiated_by":"api","participants":[{"address":"+15550100","proxy_address":"+15550199"}]},' "$1"
	printf '"routing":{"properties":{"workspace_sid":"WS%032d","workflow_sid":"WW%032d","attributes":{"test_id":"%s"}}}}\n' 2 3 "$1"
}
# send FROM TO: publishes events from this machine, as a service would, until the stream has them.
send() {
	for i in $(seq "$1" "$2"); do event "event-$i"; done >"$work/events"
	until "$work/worker" send --source crm "$work/events" >/dev/null 2>&1; do sleep 1; done
	echo "$2" >"$work/sent"
}
sent() { cat "$work/sent"; }
# flow: five events after the other, as long as there is the file flowing.
flow() {
	touch "$work/flowing"
	while [ -e "$work/flowing" ]; do
		send $(($(sent) + 1)) $(($(sent) + 5))
		sleep 0.5
	done &
	flow=$!
}
stop_flow() {
	rm "$work/flowing"
	wait "$flow"
}

container() { compose ps --all --quiet "$1"; }
worker() { compose exec -T worker /worker "$@"; }
control() { curl --silent --fail --max-time 10 "http://127.0.0.1:9090/_control/$1" "${@:2}"; }
pid() { docker inspect --format '{{.State.Pid}}' "$1"; }
restarts() { for c in $(container worker); do docker inspect --format '{{.RestartCount}}' "$c"; done | awk "{ n += \$1 } END { print n }"; }
ready() { compose exec -T --index 1 worker /worker healthcheck --ready && compose exec -T --index 2 worker /worker healthcheck --ready; }
# table QUERY: what Postgres says.
table() { compose exec -T postgres psql --username worker --tuples-only --no-align -c "$1"; }
# lapsed: how many attempts nobody has recorded.
lapsed() { table "SELECT count(*) FROM outbox_attempts WHERE kind = 'attempt' AND outcome = 'lapsed'"; }
healthy() { [ "$(docker inspect --format '{{.State.Health.Status}}' $(container worker) | sort | uniq -c | xargs)" = "2 healthy" ]; }
created() { worker audit --json | tr -d ' \n' | grep -o '"requestscreated","n":[0-9]*' | grep ":$(sent)$"; }
balances() { worker audit | tee /dev/stderr | grep "The account balances"; }
# once: the endpoint has created each request, and none twice.
once() {
	[ "$(control duplicates)" = null ] && [ "$(control ledger | wc -l)" = "$(sent)" ]
}

say "the engine and what it needs"
start_engine
plugins
say "Docker $(docker version --format '{{.Server.Version}}'), Compose $(docker compose version --short)"
nats=$(sed -n 's/^ *image: \(nats:.*\)/\1/p' docker-compose.yml)
for name in $(sed -n 's/^FROM \(golang:[^ ]*\).*/\1/p' Dockerfile) $(sed -n 's/^ *image: \(\(postgres\|nats\):.*\)/\1/p' docker-compose.yml); do
	image "$name"
done
compose down --volumes >/dev/null 2>&1 || true # what a killed run left

say "docker compose build"
compose build --quiet
say "docker compose up"
check "all are healthy" compose up --detach --wait --wait-timeout 180
copy=$(docker create flexworker:$VERSION)
docker cp --quiet "$copy:/worker" "$work/worker" && docker rm "$copy" >/dev/null

echo 0 >"$work/sent"
check "audit, before there is anything" balances
send 1 1
check "an event is answered" within 60 created
check "explain says so" bash -c "docker compose --env-file demo.env --project-name flexworker-containers exec -T worker /worker explain event-1 | grep 'It is created'"
check "both replicas are ready" within 30 ready
check "worker doctor finds all there and permitted" worker doctor
check "the worker is not root" [ "$(docker inspect --format '{{.Config.User}}' flexworker:$VERSION)" = 65532:65532 ]
check "its file system is read-only" [ "$(docker inspect --format '{{.HostConfig.ReadonlyRootfs}}' $(container worker) | uniq)" = true ]

say "kill -9 of a worker that has calls under way"
control settings -d '{"latency":"5s"}'
send 2 41
# The name of a worker begins with that of its container.
calling() { table "SELECT left(leased_by, 12) FROM outbox WHERE state = 'sending' LIMIT 1"; }
within 30 eval '[ -n "$(calling)" ]'
victim=$(calling)
before=$(pid "$victim")
# docker kill would count as a wish of the user, after which nothing is started anew.
docker run --rm --pid=host --user 0 --entrypoint kill "$nats" -9 "$before"
control settings -d '{"latency":"0s"}'
anew() { local now && now=$(pid "$victim") && [ "$now" != 0 ] && [ "$now" != "$before" ]; }
check "the engine starts it anew" within 60 anew
check "both are healthy again" within 120 healthy
check "all events have their interaction" within 300 created
check "calls were under way: their attempts lapsed" [ "$(lapsed)" -gt 0 ]
say "        $(lapsed) attempts"

was=$(restarts)
for service in nats postgres endpoint; do
	say "$service without its network for $cut s, under a flow of events"
	c=$(container $service)
	network=flexworker-containers_default
	address() { docker inspect --format "{{(index .NetworkSettings.Networks \"$network\").IPAddress}}" "$c"; }
	from=$(address)
	flow
	sleep 5
	already=$(sent)
	docker network disconnect --force $network "$c"
	# Somebody else may take its address, so that it comes back under another one: Docker decides.
	squatter=$(docker run --detach --rm --network $network --entrypoint sleep "$nats" 600)
	sleep "$cut"
	during=$(($(sent) - already))
	docker network connect --alias $service $network "$c"
	docker rm --force "$squatter" >/dev/null
	back=$SECONDS
	sleep 5
	stop_flow
	check "both replicas are ready again" within 120 ready
	check "all events have their interaction" within 300 created
	say "        $during events came meanwhile; $(sent) so far; done $((SECONDS - back)) s after the network was back; address $from -> $(address)"
done
check "no worker was restarted by it" [ "$(restarts)" = "$was" ]

say "the account of $(sent) events"
check "worker audit: the account balances" balances
check "the endpoint's ledger: each created, none twice" once

say "docker compose stop; down; up"
compose stop >/dev/null 2>&1
# A worker that stops in order ends with 0; one that was killed for lateness with 137.
check "the workers stop in order" [ "$(docker inspect --format '{{.State.ExitCode}}' $(container worker) | uniq)" = 0 ]
compose down >/dev/null 2>&1
check "healthy again" compose up --detach --wait --wait-timeout 180
check "all is still there" within 60 created
check "worker audit: the account balances" balances

say "$passed passed, $failed failed"
[ $failed = 0 ]
