package operator

import "flexworker/internal/outbox/request"

// A Change is an act on requests: which ones it takes, what becomes of each, and how.
type Change struct {
	// Name is the act as outbox_acts records it.
	Name string
	// Takes says in words which requests it takes.
	Takes string
	// can is the condition, in SQL, that a request has to meet.
	can string
	// left names in words, as a text in SQL, why it leaves a request as it is.
	left string
	// what names in words, as a text in SQL, what becomes of a request.
	what string
	// set are the assignments of the UPDATE.
	set string
	// unverified: what may exist is sent without a lookup. It is recorded.
	unverified bool
}

// undecidedEnd says whether a request has settled although nobody knows whether an attempt created it.
const undecidedEnd = `(state IN ('rejected', 'abandoned', 'expired', 'cancelled') AND attempt > 0 AND (undecided OR error_kind = 'undecided'))`

// lostReason is the reason that Recheck gave to the latest attempt. It is null where that attempt was not lost.
const lostReason = `(SELECT error FROM outbox_attempts WHERE outbox_id = o.id AND kind = 'attempt' AND number = o.attempt AND outcome = 'lost' AND applied LIMIT 1)`

// What becomes of a request, in words: the keys of Affected.Of. A retry may add when.
const (
	SentAgain   = "sent again"
	AskedFirst  = "looked up before they are sent again"
	DueNow      = "pending, due now"
	Unsent      = "cancelled"
	NeverResent = "uncertain, but never sent again: they end as created where a lookup or a person finds them, else as cancelled"
)

// ToRetry leads settled requests without an interaction back to pending. Their count of attempts begins anew. A
// deadline that has passed no longer counts; not_before still does. A request that is pending already becomes due
// now. A request that was rejected for its faults stays, since the check would refuse it again, and so does one that was
// erased: nobody knows any more what it asked.
//
// A request that an attempt may have created becomes uncertain: it is looked up, and sent again only when it is
// proved absent. With unverified it is sent at once. Where Recheck has marked the request, the rules of a recheck
// hold: its task may be older than its row, and a person decides what no lookup can.
func ToRetry(unverified bool) Change {
	first := undecidedEnd
	if unverified {
		first = `false`
	}
	return Change{
		Name: "retry", unverified: unverified,
		Takes: "what is rejected (not by the check before Flex), abandoned, expired or cancelled, and not erased, and what is pending and not due yet",
		can: ` AND (state IN ('rejected', 'abandoned', 'expired', 'cancelled') AND faults IS NULL AND erased_at IS NULL
			OR state = 'pending' AND due_at > greatest(clock_timestamp(), ` + request.NotBeforeSQL + `))`,
		what: `CASE WHEN state = 'pending' THEN 'pending' WHEN ` + first + ` THEN '` + AskedFirst + `' WHEN attempt = 0 THEN 'sent' ELSE '` + SentAgain + `' END ||
			CASE WHEN ` + first + ` THEN ''
			     WHEN ` + request.NotBeforeSQL + ` > clock_timestamp() THEN ', due ' || to_char((` + request.NotBeforeSQL + `) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') || ', its not_before'
			     WHEN state = 'pending' THEN ', due now' ELSE '' END ||
			CASE WHEN state <> 'pending' AND expires_at <= clock_timestamp() THEN '; its expires_at has passed and no longer counts' ELSE '' END`,
		left: `CASE WHEN state = 'created' THEN 'created: nothing is to be sent' WHEN state = 'sending' THEN 'being sent' WHEN state = 'uncertain' THEN 'uncertain: whether they exist is decided first'
			WHEN state = 'pending' THEN 'pending: a retry would send them no sooner' WHEN faults IS NOT NULL THEN 'refused by the check before Flex, and would be again' ELSE 'erased: nobody knows what they asked' END`,
		set: `
			state = CASE WHEN ` + first + ` THEN 'uncertain' ELSE 'pending' END,
			due_at = CASE WHEN ` + first + ` THEN clock_timestamp() ELSE greatest(clock_timestamp(), ` + request.NotBeforeSQL + `) END,
			lookups = CASE WHEN ` + first + ` THEN 0 ELSE lookups END,
			error_kind = CASE WHEN ` + first + ` AND ` + lostReason + ` IS NOT NULL THEN 'lost' ELSE error_kind END,
			error_message = CASE WHEN ` + first + ` THEN coalesce(` + lostReason + `, error_message) ELSE error_message END,
			received_at = CASE WHEN ` + first + ` AND ` + lostReason + ` IS NOT NULL THEN least(received_at, attempt_began_at) ELSE received_at END,
			attempt_began_at = coalesce(attempt_began_at, received_at),
			uncertain_since = CASE WHEN ` + first + ` THEN coalesce(uncertain_since, settled_at) ELSE uncertain_since END,
			undecided = undecided OR NOT ` + first + ` AND ` + undecidedEnd + `,
			for_person_since = NULL, cancel_requested_at = NULL,
			uncounted = CASE WHEN state = 'pending' THEN uncounted ELSE attempt END,
			expires_at = CASE WHEN state = 'pending' OR expires_at > clock_timestamp() THEN expires_at END,
			revision = revision + CASE WHEN state = 'pending' THEN 0 ELSE 1 END,
			settled_at = NULL, published_at = NULL, announced_at = NULL, resolved_by = NULL`,
	}
}

// unsentYet says whether a request is pending and no attempt can have created it.
const unsentYet = `(state = 'pending' AND NOT undecided)`

// ToCancel ends pending requests unsent. An uncertain request may exist, and so may a pending one with an
// undecided attempt: it stays, or becomes, uncertain. Lookups go on, or begin at once, and may adopt it, but it is never
// sent again.
// A lookup that is under way does not know of the cancel, so its finding is not obeyed. The reason why the request
// had not been created yet stays in error_kind, so that a retry can choose by it.
func ToCancel() Change { return cancelling("an operator") }

// cancelling is ToCancel by an operator or by the request's sender.
func cancelling(by string) Change {
	return Change{
		Name:  "cancel",
		Takes: "what is pending, and what is uncertain and not cancelled yet",
		can:   ` AND (state = 'pending' OR state = 'uncertain' AND cancel_requested_at IS NULL)`,
		what:  `CASE WHEN ` + unsentYet + ` THEN '` + Unsent + `' ELSE '` + NeverResent + `' END`,
		left:  `CASE WHEN state = 'sending' THEN 'being sent' WHEN state = 'uncertain' THEN 'cancelled already' ELSE 'settled: ' || state END`,
		set: `
			state = CASE WHEN ` + unsentYet + ` THEN 'cancelled' ELSE 'uncertain' END,
			due_at = CASE WHEN state = 'uncertain' THEN due_at WHEN NOT ` + unsentYet + ` THEN clock_timestamp() END,
			cancel_requested_at = CASE WHEN NOT ` + unsentYet + ` THEN clock_timestamp() END, lookups = lookups + 1,
			attempt_began_at = coalesce(attempt_began_at, received_at), uncertain_since = coalesce(uncertain_since, clock_timestamp()),
			settled_at = CASE WHEN ` + unsentYet + ` THEN clock_timestamp() END,
			resolved_by = CASE WHEN ` + unsentYet + ` THEN 'operator' END,
			error_kind = coalesce(error_kind, 'cancelled'),
			error_message = CASE WHEN ` + unsentYet + ` THEN ` + cancelledMessage(by) + ` ELSE error_message END`,
	}
}

// cancelledMessage says who stopped a request, an operator or its sender, and what its reason was before.
func cancelledMessage(by string) string {
	return `'cancelled by ` + by + `' || coalesce('; before: ' || nullif(regexp_replace(error_message, '^cancelled by (an operator|its sender)(; before: )?', ''), ''), '')`
}

// ToRepublish has results published once more, under the ids they have: the
// stream drops what it still remembers.
func ToRepublish() Change {
	return Change{Name: "republish", Takes: "what is settled, once its result was published", can: ` AND settled_at IS NOT NULL AND published_at IS NOT NULL`, what: `'published again'`,
		left: `CASE WHEN settled_at IS NULL THEN 'not settled yet: there is no result' ELSE 'not published yet: that goes on by itself' END`, set: `published_at = NULL`}
}

// ToLookUp has uncertain requests looked up as soon as the fleet may search.
func ToLookUp() Change {
	return Change{Name: "lookup", Takes: "what is uncertain", can: ` AND state = 'uncertain'`, what: `'looked up now'`, left: `state || ', not uncertain'`, set: `due_at = clock_timestamp()`}
}
