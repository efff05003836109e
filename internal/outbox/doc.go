/*
Package outbox owns a request from the moment it is stored until its result is
published: its states, the policy, every statement that touches the tables, and
the loops that move it.

Its parts are packages of their own, and none of them knows this one, which joins them:

	outbox/request  the states, and the policy: where an outcome or a finding leads. Pure
	outbox/gate     whether calls may be made: the fleet's gate, this replica's breaker, the fleet
	outbox/limiter  permits: how many calls this replica may have in flight
	outbox/lookup   what became of an attempt whose outcome is not known
	outbox/upkeep   what time alone moves; what is old; the poll that wakes all loops
	outbox/results  what is owed, and its publishing
	outbox/setup    whether Flex has set up the channel of what is created (CONFIRM)
	outbox/operator what people ask and decide: the one layer of acts under the command line, the page, the API, and
	                the questions of senders (cmd/worker, internal/admin/page, internal/admin/api, internal/senders)

Read one request's way first: request/state.go and request/policy.go, dispatch.go, add.go, insert.go, workers.go, attempt.go,
complete.go, record.go, results/publisher.go. claim.go is for what waits in the table. Then what may go wrong: standing.go,
indoubt.go, locked.go, upkeep/sweep.go, upkeep/clock.go, lookup/resolver.go and lookup/evidence.go, results/unpublished.go.
What people ask and do is in package operator.

# The states

	add ──► pending ──claim──► sending ──record──► created | rejected | abandoned
	           ▲                  ├──record: refused, blocked; released, reclaim────► pending
	           │                  └──record: uncertain; lapse──► uncertain ──resolve: found──► created
	           └───────────────────────────resolve: absent──────────┘  └─resolve: attempts used up, or policy fail──► abandoned
	pending ──expire──► expired       pending ──cancel──► cancelled       add, with faults ──► rejected
	add, while a permit is free and nothing that is due waits ──► sending: both arrows in one statement, an eager start
	rejected | abandoned | expired | cancelled ──retry──► pending; uncertain, where an attempt was never decided; never, once it was erased
	pending, lapsed, uncertain ──recheck──► uncertain, after the tables have lost what was written from some moment on;
	what has settled unsent stays, and a retry leads it to uncertain
	uncertain ──cancel──► uncertain, never sent again: where it would become pending it becomes cancelled
	late, of the same attempt: record moves an uncertain request as it does a sending one, and, created, a pending one too;
	reclaim leads an uncertain one back to pending

	state      means                                      whose move               entered by
	pending    waits until due_at                         Dispatcher               add; record after refused or blocked; released;
	                                                                               reclaim; resolve when proved absent, or by
	                                                                               UNCERTAIN_POLICY=retry; retry
	sending    leased: attempt runs until leased_until    its holder, then Upkeep  claim; add, with a permit
	uncertain  may exist: next lookup at due_at; with     Resolver, then a person  record, lapse; expire and cancel where
	           for_person_since a person is asked too                              an earlier attempt is undecided
	created    exists, interaction_sid is known           Publisher                record, resolve
	rejected   Flex will never take it                    Publisher                record; add, when the event has faults;
	                                                                               resolve (ends_as)
	abandoned  given up: every counted attempt is used    Publisher                resolve: also by UNCERTAIN_POLICY=fail, or
	           up, or the policy gives up                                          ends_as; record, when it alone was blocked
	expired    the deadline passed while it was pending   Publisher                expire; resolve (ends_as)
	cancelled  an operator stopped it                     Publisher                cancel; record, reclaim and resolve, when
	                                                                               cancel was asked meanwhile

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

	Store.Add     hands an event to the Dispatcher, or inserts it itself    (add.go, repeat.go)
	              where none runs; returns after the commit
	Dispatcher    insert, which leases where it can; claim; one create call (dispatch.go, insert.go, claim.go, workers.go, attempt.go;
	              a lease                                                   permits: package limiter)
	Completer     record: what became of each lease, for all that wait      (complete.go, record.go)
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
	outbox                   add                                  whoever moves it, see above     prune
	outbox_attempts          record, lapse, reclaim, recheck,     erase, which blanks errors      prune, with the request
	                         each lookup
	outbox_malformed         add                                  Publisher, with its mark;       prune
	                                                              erase, which blanks it
	outbox_repeats           add                                  the same two                    prune, with the request
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

Refused, released and reclaimed are uncounted: RETRY_MAX_ATTEMPTS does not count them.
Blocked is when this replica's credentials, account or address are at fault. A refusal that may
be one tenant's, a 403, is uncounted so many times; from then on its attempts count, and end.

# Who stops whom

The gate, one row, is shut for all: by Flex, with a 429 that names a time, and by people.
A replica in trouble of its own stops alone, by its breaker: at a 401, a redirect or a path
that Twilio does not know at once, after five calls in a row without an answer, after one while another replica is
stopped for it. It then begins no call, gives back what it has leased, leases nothing by
an add, leaves messages and lookups to the others where there are others, is not ready,
and asks every two seconds by a read that creates nothing. When all fare so, all are
stopped. Failures of one tenant, a source and a workspace, stop nobody for long: before
a breaker opens over one tenant another's request is tried.

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
no answer. What stays unclear for ten settle times and six lookups, what Flex
answered with a 2xx without a sid, and what has no task goes by UNCERTAIN_POLICY; after
a recheck, and while a person holds the fleet, to a person.

What waits for a person (for_person_since) is still looked up, behind all others and at
most every ten minutes, and at once when TaskRouter answers again (lookup/hearing.go). What was sent again
though nobody knows (undecided) is looked for from the earliest such attempt on; what its
latest attempt came to waits in ends_as for a proof over all of them. What a person
cancelled meanwhile (cancel_requested_at) is never pending again.

# What a crash leaves

	after receive, before the add commits    unacked message           redelivery
	after the add, before the ack            request, unacked message  redelivery; Add says redelivered; ack. If add leased it: lapse, too
	while claiming, before its commit        pending                   the next claim
	the answer to a claim, or an add that    as before, or sending     its lease is reclaimed by the process, if that lives: nothing
	leases, is lost                                                    was sent; else the next line
	after claim, before the call             sending, nothing sent     lapse -> uncertain: nobody can tell it from the next line
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

A row is owned by a lease where a repeat would do harm (the call), by postponing
due_at where it would be waste (a lookup), and by nothing where it does not matter
(a result has a message id that the stream knows). Rows are
locked in the order of their ids, and the gate's row before any of them. A row that
somebody else holds locked is its own trouble: a write of many goes on without it,
and it is tried again apart (locked.go). So are the tables that only some messages need: those
messages wait, and all others are stored. The sid of an interaction that no key in the answer
proves is locked before any row, until it is committed: of two requests that are given one
interaction at the same moment, the second sees the first (findOwners). What is stored comes from Postgres's clock
alone; the process's clock only ever makes it stop sooner. Where Postgres's clock goes back,
each wait begins anew at its usual length, and the time of an attempt from before is taken
to begin when the stream had the message (upkeep/clock.go). Signals within a process
(a new row wakes the Dispatcher, a settled one goes to the Publisher) may be lost:
correctness rests on the poll of package upkeep.

Records and marks are written in turns, so that each gathers more while the other is
written (Completer); neither waits longer than turnWait.
*/
package outbox
