/*
Package outbox owns a request from the moment it is stored until its result is published. Together with its parts
it holds the states, the policy, every statement that touches the tables, and the loops that move a request.

Its parts are packages of their own. None of them imports this one, which joins them. TestImportsWithinOutbox, in
cmd/worker/docs_test.go, lists what each of them may import.

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

Read one request's way first. Once Store.Add has returned, the message is acked (intake.ack); its call may be under way by then.

	package consumer  intake.handle, keep, store; decode, which reads and checks (event.go, check.go)
	stored            Store.Add; Dispatcher.startInsert, insert (dispatch.go); Store.addLeasing (add.go), insertPast, insert (insert.go)
	called            workers.begin; Dispatcher.deliver (deliver.go); flex.Client.Create; attempt.Decide, which asks Policy.After (request/policy.go)
	recorded          Dispatcher.record; Completer.Complete (attempt/complete.go), recordBatch (attempt/record.go)
	published         Outgoing.Offer; Publisher.put, mark (results/publisher.go); Outgoing.MarkPublished (results/queue.go)

claim.go is for what waits in the table. Then what may go wrong: standing.go, indoubt.go, locked.go, upkeep/sweep.go,
upkeep/clock.go, lookup/resolver.go and lookup/evidence.go, results/unpublished.go. What people ask and do is in package operator.

Where a change begins. docs/internals.md has each list whole, and those of a state, a finding, a field, a setting.

	a new outcome     flex/outcome.go, its kind; flex/classify.go or codes.go, which give it to an answer; Policy.After
	of Flex           (request/policy.go), where it leads; gate/breaker.go and limiter, what it means for this replica
	a new column      a migration with its comment and constraint; its writer, insert (insert.go) or recordSQL (attempt/record.go),
	of outbox         and each move that has to empty it; the list of writers below; operator/erase.go if it may be personal;
	                  operator/show.go if people see it; results/result.go if a result shows it; the simulation if it decides a move

# Two words

The outcome of a call is a flex.Kind: what the call told. The outcome of a result is the word in its subject: the final state
of the request, or uncertain, malformed, conflict, confirmed, setup_failed, unconfirmed.

Undecided is an attempt of which nobody has found out whether it created an interaction. In the table of moves it is the column.

	outbox.undecided      there is such an attempt, and the request has gone on all the same: it is sent again, or has ended
	error_kind undecided  lookups could not tell: a person decides, or UNCERTAIN_POLICY has decided
	request.Undecided     the type of UNCERTAIN_POLICY, which is Policy.Undecided
	Move.Undecided        the move rests on no proof: UNCERTAIN_POLICY decides, or a person

# The states

	add ──► pending ──claim──► sending ──record──► created | rejected | abandoned
	           ▲ ▲                │ │
	           │ └────────────────┘ └──record, lapse──► uncertain ──lookup, a person──► created | rejected | abandoned | expired | cancelled
	           └────────────────────────────────────────────┘
	add ──► sending | rejected     pending ──expire──► expired     pending ──cancel──► cancelled

	state      means                                                      whose move
	pending    waits until due_at                                         Dispatcher
	sending    leased: the attempt may run until leased_until             the lease's holder, then Upkeep
	uncertain  an interaction may exist. The next lookup is at due_at.    Resolver; with for_person_since a person, too
	created    the interaction exists, and interaction_sid names it       Publisher
	rejected   Flex, or the check before it, will never take the request  Publisher
	abandoned  given up: the attempts are used up, or the policy gives up Publisher
	expired    expires_at passed, and no attempt had created it           Publisher
	cancelled  an operator or the sender stopped it before it was created Publisher

Created, rejected, abandoned, expired and cancelled are final: settled_at is set, the result is published, and published_at is
set once the stream has acknowledged the result. A request that begins to wait for a person is announced with a result
"uncertain"; a final one follows. Of the moves below only retry leaves a final state, and no move leaves created. Retry takes no request that was erased, and
none whose event had faults. Each move has the name of its statement:

	add            Store.insert                        lookup         lookup.Requests.Resolve
	claim          Store.claim                         a person       operator.Desk.Resolve
	record         Completer.recordBatch (recordSQL)   cancel, retry  Desk.Do with ToCancel, ToRetry; the sender's: Desk.CancelOwn
	reclaim        Store.reclaim                       recheck        Desk.Recheck
	lapse, expire  upkeep.Upkeep.Lapse, Expire

	from       to         by                when
	           pending    add               the request is new
	           sending    add               the request is new, without not_before and expires_at; a permit is free, the gate grants a
	                                        call, no backlog is known
	           rejected   add               the request is new, and its event has faults
	pending    sending    claim             it is due, a permit is free, and the gate grants a call
	           expired    expire            expires_at has passed, and no attempt is undecided
	           cancelled  cancel            no attempt is undecided
	           uncertain  expire, cancel    an earlier attempt is undecided: what came of that is found out first
	           created,   record            late: Flex answered the latest attempt after the request was pending again
	           rejected
	           uncertain  record            late: a 2xx without a sid that is its own, or an end that waits for an undecided attempt
	sending    created    record            Flex said so
	           rejected   record            Flex said so, and no earlier attempt is undecided
	           pending    record            refused, blocked, or released: nothing was created
	           pending    reclaim           the answer to the claim, or the add, was lost: no call was made
	           abandoned  record            blocked, perhaps alone, and the attempts are used up (Policy.BlockedAlone); none is undecided
	           uncertain  record            the outcome is not known, or an earlier attempt is undecided (ends_as)
	           uncertain  lapse             the lease has ended, and nothing was recorded
	uncertain  created    lookup, a person  a task was found; a person says which interaction it is
	           pending    lookup, a person  absent: lookups prove it, or a person says so. Or UNCERTAIN_POLICY=retry
	           abandoned  lookup            proved absent, and the attempts are used up. Or nothing is proved, and UNCERTAIN_POLICY=fail; or
	                                        =retry, where no attempt is left, or the request must not be sent (ends_as, cancel_requested_at)
	           ends_as    lookup, a person  absent: rejected, abandoned or expired, as ends_as says
	           expired    a person          absent, and expires_at has passed
	           cancelled  lookup, a person  absent, and cancel_requested_at is set, whatever ends_as says
	           uncertain  lookup            unclear: it is looked up again
	           uncertain  cancel            never sent again: cancel_requested_at is set
	           as sending record            late, of the latest attempt. Where ends_as is set: created, rejected and uncertain alone. Where
	                                        cancel_requested_at is set: cancelled in place of pending, or uncertain while one is undecided
	           pending,   reclaim           late: the lease lapsed before. Not where ends_as is set. Where cancel_requested_at is set:
	           cancelled                    cancelled, unless an earlier attempt is undecided
	not final  uncertain  recheck           the tables have lost what was written from some moment on. Sending: once the lease has ended;
	                                        pending: once not_before has passed
	pending    pending    retry             it is not due yet: due now, or at not_before
	rejected,  pending    retry             no attempt is undecided, or --unverified
	abandoned, uncertain  retry             an attempt may have created it: it is looked up before it is sent
	expired,
	cancelled

A result goes to RESULTS_SUBJECT.outcome.source. A source of more than 1,024 bytes, which the request stream takes, is cut
there and ends with a hash (results/subject.go).

Every answer has the shape of Result and names the message that it is to. What was decided about a message is not decided again
while it may be replayed: its request stays while its own message, or a repeat of it, is younger than RETENTION (upkeep/prune.go),
malformed messages and conflicts (both are rows of outbox_malformed) stay as long, and what is older is no new request (insert.go). All three are judged by
the clock of Postgres and the time that the stream gave the message.

# Who moves what

	Store.Add     hands an event to the Dispatcher; returns after the commit (add.go; an id that is known: results/known.go)
	Dispatcher    insert, which leases where it can; claim; reclaim; calls   (dispatch.go; permits: package limiter)
	Completer     record: what became of each lease, for all that wait       (package attempt)
	Resolver      looks for the task of an uncertain request                 (package lookup)
	Upkeep        lapse, expire, prune, count; sets right wrong times        (package upkeep)
	Publisher     results, announcements, repeats, malformed, set-ups; mark  (package results)
	Confirmer     with CONFIRM, the word of each created request             (package setup)
	the gate      how many calls the whole fleet may begin now               (gate/gate.go)
	the breaker   whether this replica may make calls at all                 (gate/breaker.go)
	Registry      this worker's row, what it knows of the others, the rate   (gate/registry.go)
	people        retry, cancel, lookup, resolve, republish, close, erase,   (package operator)
	              hold, release, rate; after a loss recheck; a sender: cancel

# Who owns which table

	table                    rows are made by                              changed by
	outbox                   add                                           by column, see below
	outbox_attempts          record, lapse, reclaim, recheck, each lookup  erase, which blanks errors
	outbox_malformed         results.Messages, for Add and AddMalformed    Publisher, with its mark; erase, which blanks it
	outbox_repeats           results.Messages, for Add                     Publisher, with its mark; erase, which blanks it
	outbox_setups            Publisher, with the mark of a result created, Confirmer, until there is a word; then Publisher, with its
	                         if CONFIRM is on                              mark; erase
	outbox_confirmation      its migration, the one row                    Confirmer
	outbox_gate              its migration, the one row                    claim and add, which spend tokens; a 429; lookups, which take
	                                                                       turns; Registry (rate); people; upkeep/clock.go
	outbox_replicas          Registry, for its own worker                  Registry, for its own worker
	outbox_acts              package operator, with each act; Registry,    close, where Twilio refused; erase, which blanks reasons
	                         when it sets the rate
	outbox_idempotency_keys  operator/once.go, before the act              operator/once.go, with the answer; erase, which blanks it
	outbox_minutes           upkeep/count.go                               nobody
	outbox_counted           its migration, the one row                    upkeep/count.go

Prune removes requests, with their attempts, repeats and set-ups, malformed messages, and keys after 24 h. An act that surely
changed nothing removes its key. Registry removes the row of its worker as that stops, and another's after an hour without a sign.
upkeep/count.go removes minutes after a week, or to count one anew. Nobody removes any other row.

# Who writes which column of outbox

Names are those of the moves. Take begins a lookup, and wakeWaiting brings those forward that wait for a person (lookup/requests.go). clock.go is upkeep/clock.go, after the clock went back.

	request_id, source, priority, lookup_key, stream, stream_sequence, stream_time: add alone
	request, raw, warnings, faults, traceparent, tracestate: add; erase blanks what is personal
	state                  every move
	due_at                 every move; Take, to 45 s ahead; wakeWaiting; the acts lookup and release; clock.go
	settled_at             each move to a final state sets it; retry empties it; clock.go
	received_at            add; recheck, and the retry of what was rechecked, set it back to when the message came; clock.go
	expires_at             add; retry empties it once it has passed
	attempt                add with a permit, claim; recheck counts the lost attempt
	attempt_began_at       add with a permit, claim, recheck; expire, cancel and retry where it is null; clock.go
	lookup_attribute       add with a permit, claim, recheck; lookup/unreadable.go empties it
	leased_by              add with a permit, claim; record, reclaim, lapse and recheck empty it
	leased_until           the same; clock.go
	uncounted              record, reclaim and recheck add to it; retry sets it to attempt, so that the count begins anew
	interaction_sid, task_sid, assignment_status: record, lookup, a person
	response               record, lookup, a person; erase
	resolved_by            record, reclaim, lookup, a person, cancel; retry empties it
	error_kind             every move but claim; add where the event has faults; retry where recheck had marked the request
	error_message          the same; erase
	http_status, twilio_code, twilio_request_id: record; lapse, reclaim and recheck empty them
	uncertain_since        record, lapse, recheck; expire, cancel and retry where it is null; clock.go
	lookups                Take, expire, cancel and clock.go add to it, and so do record where the request is no longer sending, and
	                       reclaim and recheck where it is uncertain. Else these set it to 0, as lapse does, and a retry to uncertain. A finding is obeyed only while it is what Take has made it
	answered               record, lookup; claim; reclaim and lapse, which leave what an undecided attempt has; recheck
	undecided              lookup, a person's absent, retry, recheck
	ends_as                record and expire set it; record, lookup and a person empty it
	for_person_since       lookup and recheck set it; record, reclaim, lookup, a person, retry and recheck empty it; clock.go
	cancel_requested_at    cancel; retry empties it
	revision               add; retry raises it
	announced_at           Publisher; record, reclaim, lapse, expire, recheck and retry empty it
	published_at           Publisher; republish and retry empty it
	erased_at              erase

# Who owns what waits

	            ┌─────────────── Dispatcher.loop ────────────────┐
	Store.Add ─►│ events that wait   free permits   is more due? │
	            └──┬───────────────────────────────────────┬─────┘
	               │ insert: one at a time                 │ claim: one at a time; may wait for the gate's row
	               └────────────► leases ──► workers ◄──────┘
	                              each: one call, whose permit goes back to the loop; then Completer

The loop takes the permits, for an insert as many as it may lease, for a claim all that are free. While rows that
are due wait in the table the claim has them, and an insert leases nothing. An insert never waits for a claim. Events
are held for a moment where that saves a write: Dispatcher.room (dispatch.go) says when. A call gives its permit back when it ends,
before its record.

# Why never twice

The claim, or the add that leases, commits state sending before the first byte leaves, so a send that nobody can remember is
still known to have been possible. (id, attempt) names the lease: each claim raises attempt and nothing lowers it. A write that
follows a call says WHERE id AND attempt, so what another has decided meanwhile stands (ErrLeaseLost). A lease that merely lapsed
is still that attempt's: an answer of Flex that comes late is better than any lookup. An attempt is not begun when what is left of
its lease, on this process's own monotonic clock and counted from before the claim, does not cover the longest call.

Only what surely was not created leads back to pending: refused (nothing was written, or Twilio said 429), blocked (credentials,
account, rights or our address are at fault: Twilio itself said so, or there were no credentials to send), released (no call was made), reclaimed
(leased by a statement whose answer did not come: no call was made), and proved absent. All else is uncertain. It is not sent
again before it is proved absent. The exceptions are decisions: UNCERTAIN_POLICY=retry, and a person's resolve or retry.

Refused, released, reclaimed and, by recheck, lost attempts are uncounted: RETRY_MAX_ATTEMPTS does not count them. Neither does it
count a blocked attempt whose fault is every call's. A 403, or another of Twilio's refusals that may concern one tenant alone
(flex.MayBeOneTenants), is uncounted while the request has fewer than RETRY_MAX_ATTEMPTS uncounted attempts of all these kinds.
Later ones count. So the request ends as abandoned once RETRY_MAX_ATTEMPTS attempts have counted (Policy.BlockedAlone).

# Who stops whom

The gate, one row, is shut for all: by Flex, with a 429 that names a time, and by people. A replica in trouble of its own stops
alone, by its breaker (gate/breaker.go): at once where there are no credentials, and after a 401, a code of Twilio about the
account, a path that Twilio does not know, or a redirect; after three different requests in a row that were refused by what may
concern one tenant alone, as a 403, where they are of two tenants or more; after five calls in a row without an answer, or after a
single one while another replica has been stopped so for four seconds. A stopped replica begins no call, releases what it has leased, and
leases nothing by an add. Where there are other replicas it leaves messages and lookups to them. It is not ready, and every two
seconds it asks by a read that creates nothing. Once the read succeeds, one call is tried, and refusals that may be one tenant's
stop the replica no more for a minute. When all replicas fare so, all are stopped. Failures of one tenant, which is a source and a
workspace, stop nobody for long: before a breaker stops the replica because of one tenant, it tries a request of another tenant.

# Finding out

Every request with a workspace carries its lookup key in its task's attributes. An uncertain request is looked for after 1, 2, 4, ...
seconds, one that lapsed after four, since its holder may live and know better. What is found is adopted, unless the task is older
than the request: then a person decides. All else waits for the settle time, the longest in the fleet, after the last moment at
which the attempt could have been under way (uncertain_since). Then two witnesses have to agree, the task search and the event log
from attempt_began_at on. A task is deleted five minutes after its end, and may have ended at once: later than five minutes after
the attempt began the log alone decides, if it shows a later creation, and beyond its 30 days nothing does. A search for several
keys proves absence only when it found one of them, or a canary key: the key of a request that this process has seen created. A
lookup that fails is no answer. UNCERTAIN_POLICY decides about a request that stays unclear for ten settle times and six lookups,
about one that Flex answered with a 2xx without a sid, and about one that has no task. After a recheck, and while a person holds
the fleet, a person decides in place of the policy.

What waits for a person (for_person_since) and has a task is still looked up, behind all others: after a minute, then after as long
as the person has had, at the latest after ten minutes, and at once when TaskRouter answers again (lookup/hearing.go). A request that is undecided is looked for from the earliest such attempt on. If its
latest attempt, or expires_at, ended it, that final state is kept in ends_as, and applied only when all undecided attempts are
proved absent. A request that was cancelled meanwhile (cancel_requested_at) is never pending again.

# What a crash leaves

Most rows are about a process that ends. "Answer lost" is about Postgres's answer to a COMMIT that does not come: nobody knows then
whether the COMMIT was carried out. What it has settled, if it was, is found unpublished.

	when                                     what it leaves            who mends it, and how
	after receive, before the add commits    unacked message           redelivery
	after the add, before the ack            request, unacked message  redelivery; Add says redelivered; ack. If add leased it: lapse, too
	while claiming, before its commit        pending                   the next claim
	after claim, before the call             sending, nothing sent     lapse -> uncertain, since nobody can know that no call had begun
	during the call, or before its record    sending, may exist        lapse -> uncertain
	after a 429's pause, before its record   gate paused, sending      the pause runs out; the requests lapse
	record cannot be stored, Postgres away   sending                   no crash: tried again for 10 minutes, also after the lease; else lapse.
	                                                                   The log has what Flex answered
	while a batch of records is written      all of it or nothing      the lines of the call and of the record, each
	after record, before publish             settled, unpublished      any replica publishes it
	after publish, before the mark           settled, unpublished      published again under the same id, which the stream drops
	Postgres crashes soon after a mark       settled, unpublished      the same: no mark waits for the disk. With CONFIRM the mark
	                                                                   of a created one writes its set-up: both are there, or neither
	before a look at a set-up is stored      the look is due in 45 s   looked at again: the first look that is stored counts
	during a lookup                          uncertain, due in 45 s    looked up again
	while a minute is counted                all of it or nothing      counted by the next look of any replica: outbox_counted says from where
	after an idempotency key was written,    a key without an answer   under-way for a minute, then interrupted, until the key goes after 24 h:
	before the answer to its act was                                   nobody does the act under it. outbox_acts says whether it was done
	stopped past the lease, then continued   lapsed lease              no call, unless it was stopped between that check and the first byte
	answer lost: claim, add that leases      as before, or sending     a process that lives reclaims the lease. If it died, if Postgres refuses
	                                                                   the reclaim, or the COMMIT took longer than traceless (indoubt.go): lapse
	answer lost: another add, AddMalformed   nothing, or stored;       the message is added again, by this process or after redelivery.
	                                         unacked message           Add says redelivered; a malformed message is kept once
	answer lost: a record                    as before, or moved       asked for in the history before it is tried again. If the process
	                                                                   dies, too: lapse, where it was not carried out
	answer lost: a mark                      marked, or not            published again, where it is not marked
	answer lost: what a lookup has found     uncertain, or moved       looked up again within 45 s, where it is uncertain
	answer lost: a lapse, an expire          as before, or moved       the next sweep
	answer lost: an act                      done, or not              Show tells, and the act may be done again

# Owners and clocks

A call is owned by a lease, since a repeat would do harm. A lookup is owned by a later due_at, since a repeat only costs work. A
result has no owner: the stream knows its message id and drops a repeat. Rows are locked in the order of their ids, and the gate's
row before any of them. A row that somebody else holds locked is its own trouble: a write of many goes on without it, and it is
tried again apart (locked.go). Where somebody holds outbox_malformed or outbox_repeats as a whole, the messages that need the
table wait, and all others are stored. Where it is outbox_setups, the marks of created requests wait, while CONFIRM is on. Where
the answer does not carry the request's lookup key, record locks the interaction's sid before any row, until it commits: of two
requests that are given one interaction at the same moment, the second sees the first (findOwners). Where rows are locked by
others, record locks the rows that are free first and then the sid, and waits for neither.

What is stored comes from Postgres's clock alone; the process's clock only ever makes it stop sooner. Where Postgres's clock goes
back, a lease, a pause and the settle time begin anew at their usual length; what waits for due_at is due at once, not_before apart. An attempt from before then counts as begun when the stream had the message
(upkeep/clock.go). Signals within a process (a new row wakes the Dispatcher, a settled one goes to the Publisher) may be lost:
correctness rests on the poll of package upkeep. Records (Completer) and marks (Publisher) are written in turns, so that each
gathers more while the other is written. Neither waits longer than turnWait.
*/
package outbox
