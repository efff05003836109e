package outbox

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
)

// repeat answers the events whose id was known: the same message again, the
// same question again, or another request under an id that is taken. What it stores
// it stores in one order, whoever else has the same messages: known's lists are in
// the order of the stream, the rows come in that of their ids.
//
// What needs a table that is held waits. Without outbox_malformed it is not known what a message was answered
// before; that it is the very one that made the request is.
func (s *Store) repeat(ctx context.Context, events []request.Event, known map[string][]int, answers []Added, held results.Tables) error {
	began := time.Now()
	ids := make([]string, 0, len(known))
	for id, asking := range known {
		ids = append(ids, id)
		slices.SortFunc(asking, func(i, j int) int { return events[i].Compare(events[j].Message) })
	}
	pasts, unknown, err := s.pasts(ctx, events, known, held)
	if err != nil {
		return err
	}
	rows, err := s.pool.Query(ctx, `
		SELECT id, request_id, request, raw, stream_sequence, stream_time, source, state, for_person_since IS NOT NULL, received_at, settled_at, erased_at IS NOT NULL
		  FROM outbox WHERE request_id = ANY($1) ORDER BY id`, ids)
	if err != nil {
		return database.Wrap("add: read known", err)
	}
	var repeats []results.Repeat
	var conflicts []request.Malformed
	var repeating, conflicting []int // the events that they are
	var withErased []int
	var conflictsWithErased []request.Malformed
	var id int64
	var requestID, source string
	var stored, raw []byte
	var at time.Time
	var f request.First
	_, err = pgx.ForEachRow(rows, []any{&id, &requestID, &stored, &raw, &f.Sequence, &at, &source, &f.State, &f.ForPerson, &f.ReceivedAt, &f.SettledAt, &f.Erased}, func() error {
		f.Source = results.Shorten(results.ShortName, source)
		for _, i := range known[requestID] {
			switch e := events[i]; {
			case pasts[i].Kind == "malformed": // it was answered so, whatever it is understood as by now
				answers[i] = Redelivered
			case place(e.Message) == spot{f.Sequence, at.UnixMicro()}:
				answers[i] = Redelivered
			case unknown:
				answers[i] = waiting
			case f.Erased:
				withErased = append(withErased, i)
				conflictsWithErased = append(conflictsWithErased, request.Malformed{Message: e.Message, RequestID: e.RequestID, Err: f.Conflict(requestID, nil)})
			default:
				if differs := request.Differs(e, stored, raw); differs != nil {
					conflicting = append(conflicting, i)
					conflicts = append(conflicts, request.Malformed{Message: e.Message, RequestID: e.RequestID, Err: f.Conflict(requestID, differs)})
				} else {
					repeating = append(repeating, i)
					repeats = append(repeats, results.Repeat{ID: id, RequestID: requestID, Message: e.Message})
				}
			}
		}
		delete(known, requestID)
		return nil
	})
	if err != nil {
		return database.Wrap("add: read known", err)
	}
	for _, gone := range known {
		for _, i := range gone {
			switch p := pasts[i]; {
			case unknown:
				answers[i] = waiting
			case p.Kind != "": // a conflict with it, while there was one
				answers[i] = Redelivered
			case p.TooOld:
				answers[i] = old
			default: // removed between the two statements
				answers[i] = removed
			}
		}
	}
	if unknown && slices.Contains(answers, waiting) {
		_ = s.Messages.MalformedLocked(ctx, began) // Add says it to each
	}
	again, err := s.repeatsOfErased(ctx, conflictsWithErased)
	if err != nil {
		return err
	}
	for n, i := range withErased {
		switch {
		case again == nil:
			answers[i] = waiting
		case again[n]:
			answers[i] = Redelivered
		default:
			conflicting, conflicts = append(conflicting, i), append(conflicts, conflictsWithErased[n])
		}
	}
	kept, err := s.Messages.KeepRepeats(ctx, repeats)
	failed := answer(answers, repeating, Repeated, kept, err)
	kept, err = s.Messages.KeepMalformed(ctx, "conflict", conflicts)
	return cmp.Or(failed, answer(answers, conflicting, Conflicting, kept, err))
}

// repeatsOfErased says which messages under the ids of erased requests asked again before: as nothing can be compared with
// an erased request, what came before is known by its place alone. nil: that cannot be read, while outbox_repeats is held.
func (s *Store) repeatsOfErased(ctx context.Context, all []request.Malformed) ([]bool, error) {
	messages := make([]request.Message, len(all))
	for n := range all {
		messages[n] = all[n].Message
	}
	again, err := s.Messages.Repeated(ctx, messages)
	if len(s.Messages.HeldAfter(ctx, err)) > 0 {
		return nil, nil
	}
	return again, err
}

// pasts are what is known of the messages of these events; unknown: nothing, while outbox_malformed is held.
func (s *Store) pasts(ctx context.Context, events []request.Event, known map[string][]int, held results.Tables) (pasts map[int]results.Past, unknown bool, err error) {
	if held.Malformed() {
		return nil, true, nil
	}
	var at []int
	var messages []request.Message
	for _, asking := range known {
		for _, i := range asking {
			at, messages = append(at, i), append(messages, events[i].Message)
		}
	}
	all, err := s.Messages.Pasts(ctx, messages, s.newest())
	if s.Messages.HeldAfter(ctx, err).Malformed() {
		return nil, true, nil
	}
	pasts = make(map[int]results.Past, len(at))
	for n, p := range all {
		pasts[at[n]] = p
	}
	return pasts, false, err
}

// answer gives the events at these indices the answer good, where their messages are kept.
func answer(answers []Added, at []int, good Added, kept []results.Kept, err error) error {
	if err != nil && !errors.Is(err, results.ErrTableLocked) {
		return err
	}
	for n, i := range at {
		switch {
		case err != nil:
			answers[i] = waiting
		case kept[n] == results.RowLocked:
			answers[i] = locked
		case kept[n] == results.Gone:
			answers[i] = removed
		default:
			answers[i] = good
		}
	}
	return nil
}

// addMalformedBatch is the write of AddMalformed.
func (s *Store) addMalformedBatch(ctx context.Context, all []request.Malformed) ([]error, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	kept, err := s.Messages.KeepMalformed(ctx, "malformed", all)
	own := make([]error, len(all))
	for i := range kept {
		if kept[i] == results.RowLocked {
			own[i] = ErrLocked
		}
	}
	return own, err
}
