package operator

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/results"
)

// noteWord keeps a message about a set-up.
func (l *ledger) noteWord(id string, result results.Result) {
	p := published{outcome: result.Outcome}
	if result.RequestID != nil {
		p.requestID = *result.RequestID
	}
	if before, ok := l.words[id]; ok && (before.outcome != p.outcome || before.requestID != p.requestID) {
		p.different = true
	}
	l.words[id] = p
}

// auditWords holds the words about set-ups against the result stream, which begins then.
func (desk *Desk) auditWords(ctx context.Context, r *Report, seen ledger, begun time.Time) error {
	const rule = "every published word about a set-up is on the stream, and no other"
	rows, err := desk.pool.Query(ctx, `
		SELECT o.request_id, o.revision, s.word, s.published_at FROM outbox_setups s JOIN outbox o USING (id) WHERE s.published_at IS NOT NULL`)
	if err != nil {
		return database.Wrap("audit: set-ups", err)
	}
	var requestID, word string
	var revision int
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&requestID, &revision, &word, &at}, func() error {
		p, ok := seen.words[fmt.Sprintf("%s-%d-setup", flex.LookupKey(requestID), revision)]
		switch {
		case !ok && at.Before(begun):
			r.Forgotten++ // the stream no longer goes back so far
		case !ok:
			r.offend(rule, requestID, "marked as published, and not on the stream")
		case p.different || p.outcome != word || p.requestID != requestID:
			r.offend(rule, requestID, fmt.Sprintf("the stream says %s of %s, the table %s", p.outcome, p.requestID, word))
		}
		return nil
	})
	return database.Wrap("audit: set-ups", err)
}
