/*
Package operator is where people ask about requests and decide about them. Its Desk is the one layer of acts:
the command line translates each verb into one call, and any other way in, a page or an API, does the same. A
Desk has a pool and, for Resolve and Close, somebody who asks Flex: it needs no worker that runs, and it never makes a create call.

Who may call: a Desk is made for one Caller, with a name and a Right. Each method checks the right, and no other
code does. On the command line whoever the database lets in may act; the page and the API take name and right from
the credential. A Sender has no right but to ask about, and to cancel, what its own source has asked for.

# Questions

They change nothing. A Desk may have a pool of its own for them (ReadingFrom): whoever looks then takes no connection from
what has to be done.

	Requests   a page of the requests that a filter chooses       (requests.go, search.go, filter.go)
	List, IDs  the pages as one list; ids that begin alike        (requests.go, list.go)
	Find       the requests that a text names                     (find.go)
	Show       all that is known of one                          (show.go)
	Explain    the same in prose, and the commands that help     (explain.go, standing.go)
	Acts       what people did                                   (acts.go)
	Malformed  what could not become a request                   (malformed.go)
	Now        the fleet at one glance; Status: and its work by source (status.go)
	Outcomes   what settled, minute by minute; when it was held  (outcomes.go)
	Backlog    how many requests are not finished, for metrics   (backlog.go)
	Fleet      the workers, their settings, the rate             (desk.go)
	Answer     the result of one request, as it is published     (answer.go)
	Marks,     whether somebody who looks has an old screen      (marks.go)
	Newest
	WhoHolds   the sessions that kept an act waiting             (desk.go)
	Audit      streams and tables against each other             (audit.go, audit_streams.go)
	Matching   what a Change would take, and a token for Do      (do.go, preview.go)
	Choices    the acts that one request allows now              (choices.go)
	OwnStatus  where a request stands, for its sender            (sender.go)

Audit and Matching alone may read the whole table. A list is read in the order of an index, from its newest end. What no index
answers is looked at request by request, the newest first, for as long as a page may take; the page says how far it came.

# Acts

	Do            retry      rejected, abandoned, expired, cancelled -> pending, or uncertain where it may exist;
	                         pending: due now                                            (change.go, do.go)
	              cancel     pending -> cancelled, or uncertain where an earlier attempt is undecided; uncertain stays.
	                         What is uncertain then is never sent again
	              lookup     uncertain: looked up now
	              republish  settled and published: published again, under the same message id
	CancelOwn     cancel, of one request, by its sender                                   (sender.go)
	Resolve       created    uncertain -> created                                        (resolve.go, evidence.go)
	              absent     uncertain -> pending, or the end that it waits for; cancelled where that was asked.
	                         Flex and TaskRouter are asked first, and may refuse it; Preview only asks
	Erase                    settled and answered: what may be personal is blanked; it is never sent again (erase.go)
	Close                    settled: the channel of a duplicate of its interaction is closed at Twilio; Flex is
	                         asked first, and may refuse it; PreviewClose only asks (close.go)
	Recheck                  pending, sending after its lease, uncertain -> uncertain, after the tables have lost what was
	                         written; what has settled unsent keeps its state: a retry looks it up first (recheck.go)
	Hold, Release            the gate is shut until a person opens it; what waits behind a 429 becomes due (gate.go)
	Rate, RateAuto           the fleet's rate, by a person or by FLEX_RATE               (gate.go)

Every act is recorded in outbox_acts, in the transaction that does it: who, why, what it was before, and the attempt
that the person has seen, if the act speaks of one. Close alone is recorded before it is done. The table refuses an act
without who or why. An act that speaks of an attempt changes nothing once another attempt has been made: ErrOtherAttempt.

No act takes a request whose lease still runs: the call may be under way.

# Crashes

An act is one transaction: all of it happened or none, and its record says which. Where the answer to the commit is lost,
Show tells, and the act may be done again. Three acts are more than that. Close is recorded before Twilio is called: a crash
between leaves a record of what may not be closed, and done again the close comes to its end. Release opens the gate in one
transaction, and then makes due what waited, a thousand requests in a transaction. Recheck moves a thousand in a transaction.
Done again, Release and Recheck take what a crash has left.

An act may settle a request, or have a result published again. A Desk that was made by Telling names these requests to a
function after the act: with that of its Publisher, a worker publishes the results at once. Of another Desk, and where that is
lost, the poll of any worker finds the results seconds later.

Once does any act at most once for each idempotency key: the key is committed before the act, its answer after it
(once.go). What a crash in between leaves is a key without an answer. Nobody knows then whether the act was done, and
nobody does it again under that key.

A row that another session holds locked is left out of an act on many, and named (Affected.Locked, ErrLeftOut).
*/
package operator
