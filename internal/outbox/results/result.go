package results

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
	"flexworker/internal/rawjson"
)

// Result is every answer that is published, to a message that became a request and
// to one that could not: the contract's section 4. All keys are always there; what
// does not apply is null.
type Result struct {
	RequestID      *string         `json:"request_id"` // null: malformed, there is no usable one
	Outcome        string          `json:"outcome"`
	InteractionSID *string         `json:"interaction_sid"`
	TaskSID        *string         `json:"task_sid"`
	Channel        *flex.Channel   `json:"channel"`
	Routing        *flex.Routing   `json:"routing"`
	Attempts       int             `json:"attempts"`
	ResolvedBy     *string         `json:"resolved_by"`
	Error          *Error          `json:"error"`
	Warnings       json.RawMessage `json:"warnings"` // an array of {path, problem}
	Metadata       json.RawMessage `json:"metadata"`
	// MetadataLeftOut: the request has metadata, with which the result would be
	// larger than the stream takes.
	MetadataLeftOut bool `json:"metadata_left_out"`
	// Revision grows when a person changes a settled request; null: there is no
	// request, or the answer does not tell of it (malformed, conflict).
	Revision *int `json:"revision"`
	// Stream and Sequence name the message that this answers: of a repeat, the
	// message that asked again.
	Stream     string     `json:"stream"`
	Sequence   int64      `json:"sequence"`
	ReceivedAt time.Time  `json:"received_at"`
	SettledAt  *time.Time `json:"settled_at"`
	// Confirmation is there where the outcome is confirmed, setup_failed or unconfirmed; nil: its keys are not there.
	*Confirmation
}

// JSONNull is what a member is that does not apply.
var JSONNull = json.RawMessage("null")

var noneJSON = json.RawMessage("[]")

// Error is why there is no interaction, or why nobody knows.
type Error struct {
	Kind            string          `json:"kind"`
	HTTPStatus      *int            `json:"http_status"`
	TwilioCode      *int            `json:"twilio_code"`
	Message         string          `json:"message"`
	MoreInfo        *string         `json:"more_info"`
	TwilioRequestID *string         `json:"twilio_request_id"`
	Faults          json.RawMessage `json:"faults"`
}

// A Settled is a row as the Publisher needs it: settled, or waiting for a
// person.
type Settled struct {
	ID               int64
	RequestID        string
	Source           string
	State            request.State
	Attempt          int
	Revision         int // outbox.revision
	Request          []byte
	InteractionSID   *string
	TaskSID          *string
	AssignmentStatus *string
	Response         []byte
	ResolvedBy       *string
	ErrorKind        *string
	ErrorMessage     *string
	HTTPStatus       *int
	TwilioCode       *int
	TwilioRequestID  *string
	faults           []byte
	Warnings         []byte
	Asked            Asked
	ReceivedAt       time.Time
	SettledAt        *time.Time
	waits            bool // uncertain, and a person has to look; not announced yet
}

// Asked is the message that an answer is to, as far as the answer shows it: the
// request's own, or one that asked again.
type Asked struct {
	Stream                  string
	Sequence                int64
	Traceparent, Tracestate *string
}

// SettledColumns are what ScanSettled reads, of outbox as o.
const SettledColumns = `o.id, o.request_id, o.source, o.state, o.attempt, o.revision, o.request,
	o.interaction_sid, o.task_sid, o.assignment_status, o.response, o.resolved_by, o.error_kind, o.error_message,
	o.http_status, o.twilio_code, o.twilio_request_id, o.faults, o.warnings,
	o.stream, o.stream_sequence, o.traceparent, o.tracestate, o.received_at, o.settled_at,
	o.state = 'uncertain' AND o.for_person_since IS NOT NULL AND o.announced_at IS NULL AS waits`

// SettledNames are the same of a statement that returned SettledColumns.
const SettledNames = `id, request_id, source, state, attempt, revision, request,
	interaction_sid, task_sid, assignment_status, response, resolved_by, error_kind, error_message,
	http_status, twilio_code, twilio_request_id, faults, warnings,
	stream, stream_sequence, traceparent, tracestate, received_at, settled_at, waits`

// ScanSettled reads a row of SettledColumns.
func ScanSettled(row pgx.CollectableRow) (Settled, error) {
	var s Settled
	err := row.Scan(s.Targets()...)
	return s, err
}

// Targets are where the columns of SettledColumns are read into.
func (s *Settled) Targets() []any {
	return []any{&s.ID, &s.RequestID, &s.Source, &s.State, &s.Attempt, &s.Revision, &s.Request,
		&s.InteractionSID, &s.TaskSID, &s.AssignmentStatus, &s.Response, &s.ResolvedBy, &s.ErrorKind, &s.ErrorMessage,
		&s.HTTPStatus, &s.TwilioCode, &s.TwilioRequestID, &s.faults, &s.Warnings,
		&s.Asked.Stream, &s.Asked.Sequence, &s.Asked.Traceparent, &s.Asked.Tracestate, &s.ReceivedAt, &s.SettledAt, &s.waits}
}

// Due is when the request was to be sent at the earliest: when it was received, or at its not_before where that is
// later. A not_before that ends in a second 60 does not count.
func (s *Settled) Due() time.Time {
	if value, ok := rawjson.Member(s.Request, "not_before"); ok {
		text, _ := rawjson.Text(value)
		if at, err := time.Parse(time.RFC3339, strings.ToUpper(string(text))); err == nil && at.After(s.ReceivedAt) {
			return at
		}
	}
	return s.ReceivedAt
}

// Owed says whether somebody is to hear of it now.
func (s *Settled) Owed() bool { return s.State.Final() || s.waits }

// MessageID names this answer for good. A result that changes has another one:
// a stream drops a second message under the same id, whatever its body.
func (s *Settled) MessageID() string {
	id := flex.LookupKey(s.RequestID) + "-" + strconv.Itoa(s.Revision)
	if s.waits {
		id += "-uncertain-" + strconv.Itoa(s.Attempt)
	}
	return id
}

// result is the answer as it is published. The same row gives the same bytes.
func (s *Settled) result() Result {
	r := Result{
		RequestID: &s.RequestID, Outcome: string(s.State), InteractionSID: s.InteractionSID, TaskSID: s.TaskSID,
		Attempts: s.Attempt, ResolvedBy: s.ResolvedBy, Metadata: JSONNull, Warnings: noneJSON,
		Revision: &s.Revision, Stream: s.Asked.Stream, Sequence: s.Asked.Sequence, ReceivedAt: s.ReceivedAt.UTC(),
	}
	if s.Warnings != nil {
		r.Warnings = s.Warnings
	}
	if s.SettledAt != nil {
		at := s.SettledAt.UTC()
		r.SettledAt = &at
	}
	if metadata, ok := rawjson.Member(s.Request, "metadata"); ok {
		r.Metadata = metadata
	}
	if s.State == request.Created {
		r.Channel, r.Routing = flex.Describe(s.Response)
		if r.Routing != nil && s.AssignmentStatus != nil {
			r.Routing.AssignmentStatus = s.AssignmentStatus
		}
	}
	r.Error = s.resultError()
	return r
}

func (s *Settled) resultError() *Error {
	if s.ErrorKind == nil {
		return nil
	}
	e := &Error{Kind: *s.ErrorKind, HTTPStatus: s.HTTPStatus, TwilioCode: s.TwilioCode,
		TwilioRequestID: s.TwilioRequestID, Faults: JSONNull}
	if s.ErrorMessage != nil {
		e.Message = *s.ErrorMessage
	}
	if s.faults != nil {
		e.Faults = s.faults
	}
	switch {
	case e.Message == "": // erased
	case s.State == request.Uncertain:
		e.Message += "; wait for the final result, and do not send the same under another request_id"
	case s.State == request.Abandoned && *s.ErrorKind == "undecided":
		e.Message += "; it may exist: ask the operators before you ask again under a new request_id"
	case s.State == request.Abandoned:
		e.Message += "; its request_id is used up: you may ask again under a new one"
	case s.State == request.Expired:
		e.Message += "; its request_id is used up: ask again under a new one"
	case s.State == request.Rejected && s.faults != nil:
		e.Message += "; its request_id is used up: send the corrected request under a new one"
	}
	if info, ok := rawjson.Member(s.Response, "more_info"); ok {
		if text, _ := rawjson.Text(info); len(text) > 0 {
			moreInfo := string(text)
			e.MoreInfo = &moreInfo
		}
	}
	return e
}

// ForPerson is true where a person has been asked. An index has this expression; for_person_since IS
// NOT NULL says the same and has none.
const ForPerson = `coalesce(for_person_since, '-infinity') > '-infinity'`
