package results

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/request"
)

// Known says what became of an event whose request id was known already.
type Known int

const (
	// Repeated says that it asks for the same as before: it will be answered again.
	Repeated Known = iota
	// Redelivered says that this very message was added, or answered, before.
	Redelivered
	// Conflicting says that it asks for something else than before: it is kept as a conflict.
	Conflicting
	// Removed says that its request is not known any more. Nothing is kept.
	Removed
	// TooOld says the same of a message that is too old to be a new request.
	TooOld
	// RowHeld says that another transaction holds a row that it needs. Nothing is kept.
	RowHeld
	// TableHeld says the same of a table.
	TableHeld
)

// AnswerKnown answers the events whose id was known: the same message again, the
// same question again, or another request under an id that is taken. A message that is older than newest is too old to be
// a new request; nil: none is. held is what Held has said before the events were inserted. What is stored
// is stored in one order, whoever else has the same messages: those of one id in
// the order of the stream, the rows in that of their ids.
//
// What needs a table that is held waits. Without outbox_malformed it is not known what a message was answered
// before; that it is the very one that made the request is.
func (m *Messages) AnswerKnown(ctx context.Context, events []request.Event, newest *time.Duration, held Tables) ([]Known, error) {
	began := time.Now()
	answers := make([]Known, len(events))
	known := map[string][]int{}
	for i := range events {
		known[events[i].RequestID] = append(known[events[i].RequestID], i)
	}
	for _, asking := range known {
		slices.SortFunc(asking, func(i, j int) int { return events[i].Compare(events[j].Message) })
	}
	pasts, unknown, err := m.pastsOf(ctx, events, newest, held)
	if err != nil {
		return nil, err
	}
	rows, err := m.pool.Query(ctx, `
		SELECT id, request_id, request, raw, stream_sequence, stream_time, source, state, for_person_since IS NOT NULL, received_at, settled_at, erased_at IS NOT NULL
		  FROM outbox WHERE request_id = ANY($1) ORDER BY id`, slices.Collect(maps.Keys(known)))
	if err != nil {
		return nil, database.Wrap("add: read known", err)
	}
	var repeats []repeat
	var conflicts, conflictsWithErased []request.Malformed
	var repeating, conflicting, withErased []int // the events that they are
	var id int64
	var requestID, source string
	var stored, raw []byte
	var at time.Time
	var f request.First
	_, err = pgx.ForEachRow(rows, []any{&id, &requestID, &stored, &raw, &f.Sequence, &at, &source, &f.State, &f.ForPerson, &f.ReceivedAt, &f.SettledAt, &f.Erased}, func() error {
		f.Source = Shorten(ShortName, source)
		for _, i := range known[requestID] {
			switch e := events[i]; {
			case pasts[i].kind == "malformed": // it was answered so, whatever it is understood as by now
				answers[i] = Redelivered
			case int64(e.Sequence) == f.Sequence && e.Time.UnixMicro() == at.UnixMicro():
				answers[i] = Redelivered
			case unknown:
				answers[i] = TableHeld
			case f.Erased:
				withErased = append(withErased, i)
				conflictsWithErased = append(conflictsWithErased, request.Malformed{Message: e.Message, RequestID: e.RequestID, Err: f.Conflict(requestID, nil)})
			default:
				if differs := request.Differs(e, stored, raw); differs != nil {
					conflicting = append(conflicting, i)
					conflicts = append(conflicts, request.Malformed{Message: e.Message, RequestID: e.RequestID, Err: f.Conflict(requestID, differs)})
				} else {
					repeating = append(repeating, i)
					repeats = append(repeats, repeat{id: id, requestID: requestID, Message: e.Message})
				}
			}
		}
		delete(known, requestID)
		return nil
	})
	if err != nil {
		return nil, database.Wrap("add: read known", err)
	}
	for _, gone := range known {
		for _, i := range gone {
			switch p := pasts[i]; {
			case unknown:
				answers[i] = TableHeld
			case p.kind != "": // a conflict with it, while there was one
				answers[i] = Redelivered
			case p.tooOld:
				answers[i] = TooOld
			default: // removed between the two statements
				answers[i] = Removed
			}
		}
	}
	if unknown && slices.Contains(answers, TableHeld) {
		_ = m.waitsFor(ctx, malformedTable, began) // Add says it to each
	}
	again, err := m.repeatsOfErased(ctx, conflictsWithErased)
	if err != nil {
		return nil, err
	}
	for n, i := range withErased {
		switch {
		case again == nil:
			answers[i] = TableHeld
		case again[n]:
			answers[i] = Redelivered
		default:
			conflicting, conflicts = append(conflicting, i), append(conflicts, conflictsWithErased[n])
		}
	}
	kept, err := m.keepRepeats(ctx, repeats)
	failed := answer(answers, repeating, Repeated, kept, err)
	kept, err = m.keepMalformed(ctx, "conflict", conflicts)
	return answers, cmp.Or(failed, answer(answers, conflicting, Conflicting, kept, err))
}

// pastsOf are what is known of the messages of events; unknown: nothing, while outbox_malformed is held.
func (m *Messages) pastsOf(ctx context.Context, events []request.Event, newest *time.Duration, held Tables) (pasts []past, unknown bool, err error) {
	nothing := make([]past, len(events))
	if held.Malformed() {
		return nothing, true, nil
	}
	messages := make([]request.Message, len(events))
	for i := range events {
		messages[i] = events[i].Message
	}
	pasts, err = m.pasts(ctx, messages, newest)
	if m.HeldAfter(ctx, err).Malformed() {
		return nothing, true, nil
	}
	return pasts, false, err
}

// answer gives the events at these indices the answer good, where their messages are kept.
func answer(answers []Known, at []int, good Known, all []kept, err error) error {
	if err != nil && !errors.Is(err, ErrTableLocked) {
		return err
	}
	for n, i := range at {
		switch {
		case err != nil:
			answers[i] = TableHeld
		case all[n] == rowLocked:
			answers[i] = RowHeld
		case all[n] == gone:
			answers[i] = Removed
		default:
			answers[i] = good
		}
	}
	return nil
}
