/*
Package operator is where people ask about requests and decide about them. Its Desk is the one layer of acts:
the command line translates each verb into one call, and any other way in, a page or an API, does the same. A
Desk has a pool and, for Resolve, somebody who asks Flex: it needs no worker that runs, and it never makes a create call.

Who may call: a Desk is made for one Caller, with a name and a Right. Each method checks the right, and no other
code does. On the command line whoever the database lets in may act; the page and the API take name and right from
the credential.

# Questions

They change nothing.

	List, IDs  which requests there are                          (list.go)
	Show       all that is known of one                          (show.go)
	Explain    the same in prose, and the commands that help     (explain.go, standing.go)
	Status     the fleet and its work at one glance              (status.go)
	Backlog    how many requests are not finished, for metrics   (backlog.go)
	Fleet      the workers, their settings, the rate             (desk.go)
	WhoHolds   the sessions that kept an act waiting             (desk.go)
	Audit      streams and tables against each other             (audit.go, audit_streams.go)
	Matching   what a Change would take, and a token for Do      (do.go, preview.go)
	Choices    the acts that one request allows now              (choices.go)

# Acts

	Do            retry      rejected, abandoned, expired, cancelled -> pending, or uncertain where it may exist;
	                         pending: due now                                            (change.go, do.go)
	              cancel     pending -> cancelled; uncertain stays, and is never sent again
	              lookup     uncertain: looked up now
	              republish  settled and published: published again, under the same message id
	Resolve       created    uncertain -> created                                        (resolve.go, evidence.go)
	              absent     uncertain -> pending, or the end that it waits for; cancelled where that was asked.
	                         Flex and TaskRouter are asked first, and may refuse it; Preview only asks
	Recheck                  pending, lapsed, uncertain -> uncertain, after the tables have lost what was
	                         written; what has settled unsent keeps its state and is marked (recheck.go)
	Hold, Release            the gate is shut until a person opens it; what waits behind a 429 becomes due (gate.go)
	Rate, RateAuto           the fleet's rate, by a person or by FLEX_RATE               (gate.go)

Every act is recorded in outbox_acts by the statement that does it: who, why, what it was before, and the attempt
that the person has seen, if the act speaks of one. The table refuses an act without who or why. An act that speaks
of an attempt changes nothing once another attempt has been made: ErrOtherAttempt.

No act takes a request whose lease still runs: the call may be under way.

# Crashes

An act on requests is one statement: all of it happened or none, and its record says which. Where the answer to the
commit is lost, Show tells, and the act may be done again. Release and Recheck move many rows in transactions of a thousand: what a crash leaves is taken by the same act, done again.

A row that another session holds locked is left out of an act on many, and named (Affected.Locked, ErrLeftOut).
*/
package operator
