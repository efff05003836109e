package operator

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
)

// Filter chooses requests. A zero field does not restrict.
type Filter struct {
	RequestIDs     []string
	State          request.State
	Source         string
	ErrorKind      string
	HTTPStatus     int           // of the latest attempt
	TwilioCode     int           // of the latest attempt
	ForPerson      bool          // uncertain, and waits for a person
	Setup          SetupFilter   // what CONFIRM found of it
	OlderThan      time.Duration // since it was received
	ReceivedAfter  time.Time     // or at that moment
	ReceivedBefore time.Time
	Since          time.Duration // settled within this time before now
	Limit          int           // 0: ListMost for a page, no limit for acts
	// Preview is the Affected.Token that Matching gave for the same change and filter: Do takes nothing that was not
	// shown then. "": whatever the filter chooses now.
	Preview string
	// askedBy is a source that has asked for the request: the first, or one that asked again. "": whoever has.
	askedBy string
}

// failed is true of what has settled without an interaction, which the index outbox_failed has.
const failed = `state IN ('rejected', 'abandoned', 'expired', 'cancelled')`

// always is the condition that every request meets.
const always = `true`

// inState is the condition of a state in SQL, written out, so that a kept plan too knows which partial indexes answer it.
// It is false of what is no state.
func inState(s request.State) string {
	switch {
	case !slices.Contains(request.States[:], s):
		return `false`
	case s == request.Pending: // the words of outbox_pending
		return `state = 'pending' AND id > 0`
	default:
		return `state = '` + string(s) + `'`
	}
}

// unchangedSQL is true of a row that stands as it was seen in a snapshot, whose parameter is put in: what has come since, or
// has changed in whatever way, is left out. A row has the lower half of the number of the transaction that wrote it; the
// number is the latest one with that half.
const unchangedSQL = `pg_visible_in_snapshot((SELECT (n - ((n - outbox.xmin::text::bigint) & 4294967295))::text::xid8
	FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS n) AS latest), %s::pg_snapshot)`

// where is the condition of a filter in SQL, with its parameters behind those in args. Where shown is not nil, ages are
// those of that preview, and what is not as it was shown is left out.
func (f Filter) where(args *params, shown *preview) string {
	now := func() string {
		if shown == nil {
			return `now()`
		}
		return args.add(time.UnixMicro(shown.At)) + `::timestamptz`
	}
	all := []string{always}
	if shown != nil {
		if shown.Snapshot == "" { // nothing was shown
			return `false`
		}
		all = append(all, `id <= `+args.add(shown.Newest)+`::bigint`, fmt.Sprintf(unchangedSQL, args.add(shown.Snapshot)))
	}
	and := func(restricts bool, condition func() string) {
		if restricts {
			all = append(all, condition())
		}
	}
	and(f.RequestIDs != nil, func() string { return oneOf(args, f.RequestIDs) })
	and(f.State != "", func() string { return inState(f.State) })
	and(f.Source != "", func() string { return is(args, `source`, f.Source) })
	and(f.askedBy != "", func() string { return askedFor(args.add(f.askedBy)) })
	and(f.ErrorKind != "", func() string { return is(args, `error_kind`, f.ErrorKind) })
	and(f.HTTPStatus != 0, func() string { return `http_status = ` + args.add(f.HTTPStatus) + `::integer` })
	and(f.TwilioCode != 0, func() string { return `twilio_code = ` + args.add(f.TwilioCode) + `::integer` })
	and(f.ForPerson, func() string { return `state = 'uncertain' AND ` + results.ForPerson })
	and(f.Setup != "", func() string {
		return `EXISTS (SELECT FROM outbox_setups s WHERE s.id = outbox.id AND s.` + f.Setup.said() + `)`
	})
	and(f.OlderThan != 0, func() string { return `received_at < ` + now() + ` - ` + args.add(f.OlderThan) + `::interval` })
	and(!f.ReceivedAfter.IsZero(), func() string { return `received_at >= ` + args.add(f.ReceivedAfter) + `::timestamptz` })
	and(!f.ReceivedBefore.IsZero(), func() string { return `received_at < ` + args.add(f.ReceivedBefore) + `::timestamptz` })
	and(f.Since != 0, func() string { return settledWithin(args, now(), f.Since) })
	return strings.Join(all, " AND ")
}

// unstorable says that no column can have a text. Postgres would refuse the question.
func unstorable(text string) bool { return request.Text(text) != text }

// is is the condition that a column has a text.
func is(args *params, column, text string) string {
	if unstorable(text) {
		return `false`
	}
	return column + ` = ` + args.add(text) + `::text`
}

// oneOf is the condition that a request has one of these ids.
func oneOf(args *params, ids []string) string {
	return `request_id = ANY (` + args.add(slices.DeleteFunc(slices.Clone(ids), unstorable)) + `::text[])`
}

// settledWithin is true of what settled within a time before now.
func settledWithin(args *params, now string, d time.Duration) string {
	return `settled_at > ` + now + ` - ` + args.add(d) + `::interval`
}
