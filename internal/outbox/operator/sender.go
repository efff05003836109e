package operator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
)

// Sender is a service that sends requests as source, as a caller of a Desk. It has no Right: OwnStatus and CancelOwn
// alone answer a sender, and only of requests that its source has asked for. Every other id is ErrUnknown, whether
// another source has asked for it or nobody has. A source is compared as a whole: crm is not crm.eu. The acts of a sender
// are recorded as those of source:SOURCE.
//
// A source with bytes that are no text is refused everything: the tables have U+FFFD in their place, so that two such
// sources are one.
func Sender(source string) Caller {
	c := Caller{Name: "source:" + source, source: source}
	if strings.ContainsRune(request.Text(source), '\uFFFD') {
		c.source = ""
	}
	return c
}

// mayAskOwn refuses whoever is no sender.
func (desk *Desk) mayAskOwn() error {
	if desk.caller.source == "" {
		return ErrForbidden
	}
	return nil
}

// askedFor is true of the requests, of outbox, that a source has asked for, first or again. It is the one place that says
// which requests are a sender's own. source is a parameter in SQL.
func askedFor(source string) string {
	return `(outbox.source = ` + source + `::text OR EXISTS (SELECT FROM outbox_repeats r WHERE r.outbox_id = outbox.id AND r.source = ` + source + `::text))`
}

// OwnStatus is what a sender is told of its request: the shape of a result, and where the request stands.
type OwnStatus struct {
	// Result names the message by which the source has asked last. Its error is the latest reason why there is no
	// interaction, also of a request that is tried again.
	results.Result
	Outcome *string       `json:"outcome"` // null: there is none yet
	State   request.State `json:"state"`
	DueAt   *time.Time    `json:"due_at"` // of the next attempt, or of the next lookup; null: neither is planned
	Why     string        `json:"why"`    // one sentence: why the request is where it is
}

// OwnStatus answers a sender where its request stands. It fails with ErrUnknown.
func (desk *Desk) OwnStatus(ctx context.Context, requestID string) (OwnStatus, error) {
	if err := desk.mayAskOwn(); err != nil {
		return OwnStatus{}, err
	}
	var s results.Settled
	var d Detail
	var asked results.Asked
	// One statement, so that both halves see one row, and so that nobody learns from its time whose an id is.
	err := desk.reads.QueryRow(ctx, `
		SELECT theirs.*, own.* FROM (SELECT `+results.SettledColumns+` FROM outbox o WHERE request_id = $1) AS theirs, LATERAL (
			SELECT coalesce(its_stream, stream), coalesce(its_sequence, stream_sequence), `+detailColumns+`
			  FROM outbox LEFT JOIN LATERAL (
			       SELECT r.stream AS its_stream, r.stream_sequence AS its_sequence FROM outbox_repeats r WHERE r.outbox_id = outbox.id AND r.source = $2::text ORDER BY r.id DESC LIMIT 1) AS again ON true
			 WHERE request_id = $1 AND `+askedFor("$2")+`) AS own`, requestID, desk.caller.source).
		Scan(append(append(s.Targets(), &asked.Stream, &asked.Sequence), d.targets()...)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return OwnStatus{}, ErrUnknown
	}
	var g gate.Status
	if err == nil && d.State == request.Pending {
		g, err = gate.Read(ctx, desk.reads)
	}
	if err != nil {
		return OwnStatus{}, unread("own status", err)
	}
	s.Asked = asked
	own := OwnStatus{Result: s.Answer().Body, State: d.State, DueAt: d.DueAt, Why: d.toldSender(g)}
	if d.State.Final() || d.ForPersonSince != nil {
		outcome := string(d.State)
		own.Outcome = &outcome
	}
	return own, nil
}

// toldSender is where, with what keeps the request there. Who holds the fleet, and in which words, is not the senders'.
func (d Detail) toldSender(g gate.Status) string {
	sentence := strings.TrimSuffix(d.where(g), ".")
	switch {
	case d.State == request.Pending && g.State == gate.Held:
		sentence += fmt.Sprintf("; but its operators hold the whole fleet since %s, and nothing is sent until they release it", request.ShowTime(g.HeldSince))
	case d.State == request.Pending && g.State == gate.Paused:
		sentence += fmt.Sprintf("; but the whole fleet pauses until %s, as Flex has asked for", request.ShowTime(d.Now.Add(g.PausedFor)))
	case d.State == request.Uncertain && d.CancelRequestedAt != nil:
		sentence += fmt.Sprintf("; it was cancelled at %s and is never sent again, but what exists already is adopted", at(d.CancelRequestedAt))
	case d.State == request.Uncertain && d.WaitsForPerson():
		sentence += "; it waits for a person" + since(d.ForPersonSince)
	}
	return sentence + "."
}

// Cancelled is what became of a sender's wish to cancel its request.
type Cancelled struct {
	Cancelled bool          `json:"cancelled"` // the request has ended unsent, by this wish or before
	State     request.State `json:"state"`
	Why       string        `json:"why"` // one sentence: why the request is where it is
}

// CancelOwn cancels a sender's own request. A pending request ends unsent. An uncertain one may exist: it stays, and is
// never sent again. While a call is under way, and once the request has settled, nothing is changed. It fails with
// ErrUnknown, with ErrNoReason or ErrReason, and with ErrLeftOut where another session holds the row or changes it again and again.
func (desk *Desk) CancelOwn(ctx context.Context, requestID string, a Act) (Cancelled, error) {
	if err := desk.mayAskOwn(); err != nil {
		return Cancelled{}, err
	}
	if err := a.reason(); err != nil {
		return Cancelled{}, err
	}
	own := Filter{RequestIDs: []string{requestID}, askedBy: desk.caller.source}
	for range cancelTries {
		done, err := desk.carryOut(ctx, cancelling("its sender"), a, own, nil)
		if err != nil {
			return Cancelled{}, err
		}
		if len(done.Locked) > 0 {
			return Cancelled{}, fmt.Errorf("cancel: %w", ErrLeftOut)
		}
		now, err := desk.OwnStatus(ctx, requestID)
		switch {
		case err != nil && done.Of[Unsent] > 0: // it is done all the same
			return Cancelled{Cancelled: true, State: request.Cancelled, Why: "It was cancelled."}, nil
		case err != nil && done.N > 0:
			return Cancelled{State: request.Uncertain, Why: "It may exist; it is never sent again, but what exists already is adopted."}, nil
		case err != nil:
			return Cancelled{}, err
		}
		if done.N > 0 || now.State != request.Pending { // else its call has ended in between, and brought it back
			return Cancelled{Cancelled: now.State == request.Cancelled, State: now.State, Why: now.Why}, nil
		}
	}
	return Cancelled{}, fmt.Errorf("cancel: it changes at this moment: %w", ErrLeftOut)
}

// cancelTries is how often CancelOwn tries to meet a request between two calls.
const cancelTries = 3
