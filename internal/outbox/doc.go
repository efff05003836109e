/*
Package outbox owns a request from the moment it is stored until its result is published. Together with its parts
it holds the states, the policy, every statement that touches the tables, and the loops that move a request.

Its parts are packages of their own. None of them imports this one, which joins them (TestImportsWithinOutbox has all edges):

	outbox/request  the states, and the policy: where an outcome or a finding leads. Pure
	outbox/gate     whether calls may be made: the fleet's gate, this replica's breaker, the fleet
	outbox/limiter  permits: how many calls this replica may have in flight
	outbox/attempt  a lease, and the record of what became of its attempt
	outbox/lookup   what became of an attempt whose outcome is not known
	outbox/upkeep   what time alone moves; what is old; the poll that wakes all loops
	outbox/results  what is owed, and its publishing
	outbox/setup    whether Flex has set up the channel of what is created (CONFIRM)
	outbox/operator what people ask and decide: the one layer of acts under the command line, the page, the API, and
	                the questions of senders (cmd/worker, internal/admin/page, internal/admin/api, internal/senders)

Read one request's way first: request/state.go and request/policy.go, dispatch.go, add.go, insert.go, workers.go, deliver.go,
attempt/lease.go, attempt/decide.go, attempt/complete.go, attempt/record.go, results/publisher.go. claim.go is for what waits
in the table. Then what may go wrong: standing.go, indoubt.go, locked.go, upkeep/sweep.go, upkeep/clock.go, lookup/resolver.go
and lookup/evidence.go, results/unpublished.go. What people ask and do is in package operator.

# The states

	add ──► pending ──claim──► sending ──record──► created | rejected | abandoned
	           ▲ ▲                │ │
	           │ └────────────────┘ └──record, lapse──► uncertain ──lookup, a person──► created | rejected | abandoned | expired | cancelled
	           └────────────────────────────────────────────┘

	state      means                                                      whose move
	pending    waits until due_at                                         Dispatcher
	sending    leased: the attempt may run until leased_until             the lease's holder, then Upkeep
	uncertain  an interaction may exist. The next lookup is at due_at.    Resolver; with for_person_since a person, too
	created    the interaction exists, and interaction_sid names it       Publisher
	rejected   Flex, or the check before it, will never take the request  Publisher
	abandoned  given up: the attempts are used up, or the policy gives up Publisher
	expired    expires_at passed while the request was pending            Publisher
	cancelled  an operator or the sender stopped it                       Publisher

Every move, with the function that makes it. "retry" alone leaves a final state.

	from       to         by                      when
	           pending    add (insert.go)         the request is new
	           sending    add                     ... a permit is free, and no due request waits: one statement, an eager start
	           rejected   add                     ... the event has faults
	pending    sending    claim (claim.go)        it is due, and a permit is free
	           expired    expire (upkeep)         expires_at has passed
	           cancelled  cancel (operator)       no attempt is undecided
	           uncertain  expire, cancel          an earlier attempt is undecided: what came of that is found out first
	           created    record                  late: Flex answered the latest attempt after the request was pending again.
	           rejected                           So does a 2xx without a sid: uncertain
	sending    created    record (attempt)        Flex said so
	           rejected   record                  Flex said so, and no earlier attempt is undecided
	           pending    record                  refused, blocked, or released: nothing was created
	           pending    reclaim (indoubt.go)    the answer to the claim was lost: no call was made
	           abandoned  record                  blocked alone, and the attempts are used up (Policy.BlockedAlone)
	           uncertain  record                  the outcome is not known, or an earlier attempt is undecided (ends_as)
	           uncertain  lapse (upkeep)          the lease has ended, and nothing was recorded
	uncertain  created    lookup, a person        a task was found; a person says which interaction it is
	           pending    lookup, a person        proved absent; UNCERTAIN_POLICY=retry
	           abandoned  lookup                  proved absent, and the attempts are used up; UNCERTAIN_POLICY=fail
	           rejected,  lookup, a person        proved absent, and ends_as says how the request ends then
	           abandoned,
	           expired
	           any        record, reclaim         late, of the latest attempt: as if it were sending
	           cancelled  each of these           in place of pending, where cancel_requested_at is set
	           uncertain  cancel                  never sent again: cancel_requested_at is set
	pending,   uncertain  recheck (operator)      the tables have lost what was written from some moment on
	sending,                                      (sending: once the lease has ended)
	uncertain
	final, but pending    retry (operator)        never after erase, nor where the event had faults
	created    uncertain  retry                   an attempt may have created it: looked up before it is sent

The last five are final: settled_at is set, the result is published, and
published_at is set once the stream has acknowledged it. A request that begins
to wait for a person is announced with a result "uncertain"; a final one follows.

A result goes to RESULTS_SUBJECT.outcome.source. A source of more than 1,024 bytes,
which the request stream takes, is cut there and ends with a hash (results/subject.go).

Every answer has the shape of Result and names the message that it is to. What was decided
about a message is not decided again while it may be replayed: its request stays while its
own message, or a repeat of it, is younger than RETENTION (upkeep/prune.go), malformed messages and
conflicts stay as long, and what is older is no new request (insert.go). All three are judged by
the clock of Postgres and the time that the stream gave the message.

# Who moves what

	Store.Add     hands an event to the Dispatcher, or inserts it itself    (add.go; an id that is known:
	              where none runs; returns after the commit                 results/known.go)
	Dispatcher    insert, which leases where it can; claim; one create call (dispatch.go, insert.go, claim.go, workers.go, deliver.go;
	              a lease                                                   permits: package limiter)
	Completer     record: what became of each lease, for all that wait      (package attempt)
	Resolver      looks for the task of an uncertain request                (package lookup)
	reclaim       what was leased by a statement whose answer did not come  (indoubt.go, by the Dispatcher)
	Upkeep        lapse, expire, prune; sets right what the database's      (package upkeep)
	              clock had said before it went back; counts what settled
	Publisher     results, announcements, repeats, malformed, set-ups; mark (package results)
	Confirmer     with CONFIRM, the word of each created request            (package setup)
	Policy        where an outcome leads: pure                              (package request)
	the gate      how many calls the whole fleet may begin now              (gate/gate.go)
	the breaker   whether this replica may make calls at all                (gate/breaker.go)
	Registry      this worker's row, what it knows of the others, the rate  (gate/replicas.go)
	people        retry, cancel, lookup, resolve, republish, close, erase,  (package operator)
	              hold, release, rate; a sender: cancel
	after a loss  recheck                                                   (operator/recheck.go)

# Who owns which table

	table                    rows are made by                     changed by                      removed by
	outbox                   add                                  by column, see below            prune
	outbox_attempts          record, lapse, reclaim, recheck,     erase, which blanks errors      prune, with the request
	                         each lookup
	outbox_malformed         add                                  Publisher, with its mark;       prune
	                                                              erase, which blanks it
	outbox_repeats           add                                  Publisher, with its mark;       prune, with the request
	                                                              erase, which blanks it
	outbox_setups            Publisher, with the mark of a        Confirmer, until there is a     prune, with the request
	                         result created, if CONFIRM is on     word; then Publisher, with its
	                                                              mark; erase
	outbox_confirmation      its migration, the one row           Confirmer                       nobody
	outbox_gate              its migration, the one row           claim and add, which spend      nobody
	                                                              tokens; a 429; lookups, which
	                                                              take turns; Registry (rate);
	                                                              people; upkeep/clock.go
	outbox_replicas          Registry, for its own worker         Registry, for its own worker    Registry, as its worker stops; that of
	                                                                                              another, after an hour without a sign
	outbox_acts              package operator, with each act;     close, where Twilio refused;    nobody
	                         Registry, when it sets the rate      erase, which blanks reasons
	outbox_idempotency_keys  operator/once.go, before the act     operator/once.go, with the      prune, after 24 h; an act that surely
	                                                              answer; erase, which blanks it  changed nothing
	outbox_minutes           upkeep/count.go                      nobody                          upkeep/count.go, after a week, or to
	                                                                                              count a minute anew
	outbox_counted           its migration, the one row           upkeep/count.go                 nobody

# Who writes which column of outbox

	request_id, source, priority, request, raw, warnings,       add alone; erase blanks what is personal
	faults, traceparent, tracestate, stream, stream_sequence,
	stream_time, lookup_key
	received_at                                                 add; recheck and retry set it back to when the message came
	attempt, attempt_began_at, leased_by, leased_until,         claim, and add with a permit. Whoever ends the lease clears
	lookup_attribute                                            leased_by and leased_until; recheck counts the lost attempt
	state, due_at, settled_at                                   whoever moves the request: the table of moves above
	interaction_sid, task_sid, assignment_status, response,     record, and resolve by a lookup or a person
	resolved_by, http_status, twilio_code, twilio_request_id
	error_kind, error_message                                   the same, and whoever else moves the request for a reason
	uncounted                                                   record and reclaim; retry, with which the count begins anew
	uncertain_since, lookups, answered, for_person_since        whoever makes it uncertain, then the Resolver
	undecided, ends_as                                          record, expire, retry, recheck
	cancel_requested_at                                         cancel; retry clears it
	expires_at                                                  add; retry, once it has passed
	revision                                                    add; retry raises it
	announced_at, published_at                                  Publisher; republish clears published_at, retry both
	erased_at                                                   erase

# Who owns what waits

	            ┌─────────────── Dispatcher.loop ────────────────┐
	Store.Add ─►│ events that wait   free permits   a backlog?   │
	            └──┬───────────────────────────────────────┬─────┘
	               │ insert: one at a time                 │ claim: one at a time; may wait for the gate's row
	               └────────────► leases ──► workers ◄──────┘
	                              each: one call, then Completer; its permit goes back to the loop

The loop takes the permits, for an insert as many as it may lease, for a claim all that are free. While rows that
are due wait in the table the claim has them, and an insert leases nothing. An insert never waits for a claim. Events
are held for a moment where that saves a write: room says when. A call gives its permit back when it ends.

# Why never twice

The claim, or the add that leases, commits state sending before the first byte
leaves, so a send that nobody can remember is still known to have been possible. (id, attempt) names
the lease: each claim raises attempt and nothing lowers it. A write that follows
a call says WHERE id AND attempt, so what another has decided meanwhile stands
(ErrLeaseLost). A lease that merely lapsed is still that attempt's: an answer of
Flex that comes late is better than any lookup. An attempt is not begun when what
is left of its lease, on this process's own monotonic clock and counted from
before the claim, does not cover the longest call.

Only what surely was not created leads back to pending: refused (nothing was
written, or Twilio said 429), blocked (credentials, account; only Twilio
itself can say so), released (no call was made), reclaimed (leased
by a statement whose answer did not come: no call was made), and proved absent. All
else is uncertain. It is not sent again before it is proved absent. The exceptions are
decisions: UNCERTAIN_POLICY=retry, and a person's resolve or retry.

Refused, released and reclaimed attempts are uncounted: RETRY_MAX_ATTEMPTS does not count them.
Blocked means that this replica's credentials, account or address are at fault. A 403 may concern one
tenant alone: the first RETRY_MAX_ATTEMPTS of them are uncounted. Later ones count, so the request ends as abandoned.

# Who stops whom

The gate, one row, is shut for all: by Flex, with a 429 that names a time, and by people.
A replica in trouble of its own stops alone, by its breaker: at once after a 401, a redirect, or a path that
Twilio does not know; after 403s for several sources; after five calls in a row without an answer, or after a single one
while another replica is stopped for that reason. A stopped replica begins no call, releases what it has leased, and leases
nothing by an add. Where there are other replicas it leaves messages and lookups to them. It is not ready, and every two
seconds it asks by a read that creates nothing. When all replicas fare so, all are stopped. Failures of one tenant, which is
a source and a workspace, stop nobody for long: before a breaker stops the replica because of one tenant, it tries a
request of another tenant.

# Finding out

Every request with a workspace carries its lookup key in its task's attributes.
An uncertain request is looked for after 1, 2, 4, ... seconds, one that lapsed
after four, since its holder may live and know better. What is found is adopted,
unless the task is older than the request: then a person decides. All else waits for
the settle time, the longest in the fleet, after the last moment at which the attempt
could have been under way (uncertain_since). Then two
witnesses have to agree, the task search and the event log from attempt_began_at on. A
task is deleted five minutes after its end, and may have ended at once: later than five
minutes after the attempt began the log alone decides, if it shows a later creation, and
beyond its 30 days nothing does. A search
for several keys proves absence only when it found one of them, or a canary key:
the key of a request that this process has seen created. A lookup that fails is
no answer. UNCERTAIN_POLICY decides about a request that stays unclear for ten settle times and six lookups, about
one that Flex answered with a 2xx without a sid, and about one that has no task. After a recheck, and while a person holds
the fleet, a person decides in its place.

What waits for a person (for_person_since) is still looked up, behind all others and at
most every ten minutes, and at once when TaskRouter answers again (lookup/hearing.go). A request that was sent again
though nobody knows what came of an earlier attempt (undecided) is looked for from the earliest such attempt on. If its latest
attempt ended it, that final state is kept in ends_as, and applied only when all undecided attempts are proved absent. A
request that was cancelled meanwhile (cancel_requested_at) is never pending again.

# What a crash leaves

	after receive, before the add commits    unacked message           redelivery
	after the add, before the ack            request, unacked message  redelivery; Add says redelivered; ack. If add leased it: lapse, too
	while claiming, before its commit        pending                   the next claim
	the answer to a claim, or an add that    as before, or sending     if the process lives, it reclaims the lease: nothing was sent.
	leases, is lost                                                    If it died: the next line
	after claim, before the call             sending, nothing sent     lapse -> uncertain, since nobody can know that no call had begun
	during the call, or before its record    sending, may exist        lapse -> uncertain
	after a 429 paused the gate, before its  gate paused, sending      the pause runs out; the requests lapse
	record
	record cannot be stored, Postgres away   sending                   tried again for 10 minutes, also after the lease; else lapse.
	                                                                   The log has what Flex answered
	the answer to a record is lost           as before, or moved       asked for in the history before it is tried again
	while a batch of records is written      all of it or nothing      the two lines above, each
	after record, before publish             settled, unpublished      any replica publishes it
	after publish, before the mark           settled, unpublished      published again under the same id, which the stream drops
	Postgres crashes soon after a mark       settled, unpublished      the same: no mark waits for the disk. With CONFIRM the mark
	                                                                   of a created one writes its set-up: both are there, or neither
	during a look at a set-up, or before     the look is due in 45 s   looked at again: the first look that is stored counts
	its word is stored
	during a lookup                          uncertain, due in 45 s    looked up again
	while a minute is counted                all of it or nothing      counted by the next look of any replica: outbox_counted says from where
	after an idempotency key was written,    a key without an answer   nobody does the act under that key: under-way for a minute, then
	before the answer to its act was                                   interrupted, until the key goes after 24 h. outbox_acts says
	                                                                   whether it was done
	stopped past the lease, then continued   lapsed lease              it does not send. What remains is a stop between that check
	                                                                   and the first byte

# Owners and clocks

A call is owned by a lease, since a repeat would do harm. A lookup is owned by a later due_at, since a repeat only costs
work. A result has no owner: the stream knows its message id and drops a repeat. Rows are
locked in the order of their ids, and the gate's row before any of them. A row that
somebody else holds locked is its own trouble: a write of many goes on without it,
and it is tried again apart (locked.go). So are the tables that only some messages need: those
messages wait, and all others are stored. Where the answer does not carry the request's lookup key, record
locks the interaction's sid before any row, until it commits: of two requests that are given one
interaction at the same moment, the second sees the first (findOwners). Where rows are locked by others, record locks
the rows that are free first and then the sid, and waits for neither. What is stored comes from Postgres's clock
alone; the process's clock only ever makes it stop sooner. Where Postgres's clock goes back,
each wait begins anew at its usual length. An attempt from before then counts as begun when the
stream had the message (upkeep/clock.go). Signals within a process
(a new row wakes the Dispatcher, a settled one goes to the Publisher) may be lost:
correctness rests on the poll of package upkeep.

Records (Completer) and marks (Publisher) are written in turns, so that each gathers more while the other is
written. Neither waits longer than turnWait.
*/
package outbox
