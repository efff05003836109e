package operator

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/database"
	"flexworker/internal/outbox/request"
)

// Report is what an audit found.
type Report struct {
	Counts    []Count    `json:"counts"`
	Offenders []Offender `json:"offenders"`
	Forgotten int64      `json:"-"` // results that were published before the result stream begins; one of Counts
}

// Count is one number of the account.
type Count struct {
	What string `json:"what"`
	N    int64  `json:"n"`
}

// Offender is something that breaks a rule of the account.
type Offender struct {
	Rule string `json:"rule"`
	ID   string `json:"id"`
	Why  string `json:"why,omitempty"`
}

// rules must hold in the tables alone. Each statement returns the ids that break its rule. The schema's
// constraints refuse more than these.
var rules = []struct{ rule, sql string }{
	{"every sid belongs to one request",
		`SELECT interaction_sid || ' (' || string_agg(request_id, ', ' ORDER BY id) || ')' FROM outbox
		  WHERE interaction_sid IS NOT NULL GROUP BY interaction_sid HAVING count(*) > 1`},
	{"every row was written from one message",
		`SELECT min(request_id) FROM outbox GROUP BY stream_sequence, stream_time HAVING count(*) > 1`},
	{"every attempt has one row of history that was applied, or two when a late answer corrected a lapse",
		`SELECT o.request_id FROM outbox o
		  CROSS JOIN LATERAL generate_series(1, o.attempt - CASE WHEN o.state = 'sending' THEN 1 ELSE 0 END) AS n
		  LEFT JOIN outbox_attempts a ON a.outbox_id = o.id AND a.kind = 'attempt' AND a.number = n AND a.applied
		 GROUP BY o.id, o.request_id, n HAVING count(a.id) NOT BETWEEN 1 AND 2`},
	{"every row of history belongs to a request",
		`SELECT DISTINCT a.outbox_id::text FROM outbox_attempts a WHERE NOT EXISTS (SELECT FROM outbox o WHERE o.id = a.outbox_id)`},
	{"every created request has an attempt, a lookup or an act that says so",
		`SELECT request_id FROM outbox o WHERE state = 'created'
		    AND NOT EXISTS (SELECT FROM outbox_attempts a WHERE a.outbox_id = o.id AND a.applied AND a.outcome IN ('created', 'found'))
		    AND NOT EXISTS (SELECT FROM outbox_acts c WHERE c.request_id = o.request_id AND c.act = 'resolve created')`},
	{"what was not created has no attempt that was",
		`SELECT request_id FROM outbox o WHERE state <> 'created'
		    AND EXISTS (SELECT FROM outbox_attempts a WHERE a.outbox_id = o.id AND a.outcome IN ('created', 'found'))`},
	{"no request has two attempts that created",
		`SELECT o.request_id FROM outbox o JOIN outbox_attempts a ON a.outbox_id = o.id
		  WHERE a.kind = 'attempt' AND a.outcome = 'created' GROUP BY o.id, o.request_id HAVING count(DISTINCT a.number) > 1`},
	{"every set-up belongs to a created request",
		`SELECT s.id::text FROM outbox_setups s WHERE NOT EXISTS (SELECT FROM outbox o WHERE o.id = s.id AND o.state = 'created')`},
	{"nothing stands in sending long after its lease ran out",
		`SELECT request_id FROM outbox WHERE state = 'sending' AND leased_until < clock_timestamp() - interval '1 minute'`},
}

// Audit balances the account: the request stream against the tables, the tables against themselves, and the tables
// against the result stream. It reads all of them. Requests in flight never offend, so an audit of an idle worker
// says most. Where requests or results is nil, that stream is not looked at. Rows older than retention may have been
// removed, so nothing that old is missed in the tables; 0: everything is.
func (desk *Desk) Audit(ctx context.Context, requests, results jetstream.Stream, consumer string, retention time.Duration) (Report, error) {
	r := Report{Offenders: []Offender{}} // [] in JSON where there are none
	if err := desk.MayLook(); err != nil {
		return r, err
	}
	if err := desk.auditCounts(ctx, &r); err != nil {
		return r, err
	}
	for _, rule := range rules {
		rows, err := desk.pool.Query(ctx, rule.sql)
		if err != nil {
			return r, database.Wrap("audit: "+rule.rule, err)
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return r, database.Wrap("audit: "+rule.rule, err)
		}
		for _, id := range ids {
			r.offend(rule.rule, id, "")
		}
	}
	if requests != nil {
		if err := desk.auditRequests(ctx, &r, requests, consumer, retention); err != nil {
			return r, err
		}
	}
	if results != nil {
		return r, desk.auditResults(ctx, &r, results, retention)
	}
	return r, nil
}

func (r *Report) offend(rule, id, why string) {
	r.Offenders = append(r.Offenders, Offender{Rule: rule, ID: id, Why: why})
}

func (r *Report) count(what string, n int64) { r.Counts = append(r.Counts, Count{What: what, N: n}) }

func (desk *Desk) auditCounts(ctx context.Context, r *Report) error {
	rows, err := desk.pool.Query(ctx, `
		(SELECT 'requests ' || s.state, count(o.id) FROM unnest($1::text[]) WITH ORDINALITY AS s (state, n)
		  LEFT JOIN outbox o USING (state) GROUP BY s.state, s.n ORDER BY s.n)
		UNION ALL SELECT 'repeats', count(*) FROM outbox_repeats
		UNION ALL SELECT kind || ' messages', count(*) FROM outbox_malformed GROUP BY kind
		UNION ALL SELECT kind || 's made', count(*) FROM outbox_attempts WHERE outcome <> 'released' GROUP BY kind
		UNION ALL SELECT 'created, ' || coalesce(replace(word, 'setup_failed', 'set-up failed'), 'set-up not known yet'), count(*) FROM outbox_setups GROUP BY word
		UNION ALL SELECT 'settled, not yet published', count(*) FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL`, stateNames())
	if err != nil {
		return database.Wrap("audit: count", err)
	}
	counts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Count])
	r.Counts = append(r.Counts, counts...)
	return database.Wrap("audit: count", err)
}

func stateNames() []string {
	names := make([]string, len(request.States))
	for i, s := range request.States {
		names[i] = string(s)
	}
	return names
}
