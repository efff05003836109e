package outbox

import (
	"encoding/json"
	"strconv"
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
	Error          *ResultError    `json:"error"`
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
}

var (
	jsonNull = json.RawMessage("null")
	noneJSON = json.RawMessage("[]")
)

// ResultError is why there is no interaction, or why nobody knows.
type ResultError struct {
	Kind            string          `json:"kind"`
	HTTPStatus      *int            `json:"http_status"`
	TwilioCode      *int            `json:"twilio_code"`
	Message         string          `json:"message"`
	MoreInfo        *string         `json:"more_info"`
	TwilioRequestID *string         `json:"twilio_request_id"`
	Faults          json.RawMessage `json:"faults"`
}

// A settlement is a row as the Publisher needs it: settled, or waiting for a
// person.
type settlement struct {
	id               int64
	requestID        string
	source           string
	state            request.State
	attempt          int
	number           int // outbox.settlement
	request          []byte
	interactionSID   *string
	taskSID          *string
	assignmentStatus *string
	response         []byte
	resolvedBy       *string
	errorKind        *string
	errorMessage     *string
	httpStatus       *int
	twilioCode       *int
	twilioRequestID  *string
	faults           []byte
	warnings         []byte
	asked            asked
	receivedAt       time.Time
	settledAt        *time.Time
	waits            bool // uncertain, and a person has to look; not announced yet
}

// asked is the message that an answer is to, as far as the answer shows it: the
// request's own, or one that asked again.
type asked struct {
	stream                  string
	sequence                int64
	traceparent, tracestate *string
}

// settlementColumns are what scanSettlement reads, of outbox as o.
const settlementColumns = `o.id, o.request_id, o.source, o.state, o.attempt, o.settlement, o.request,
	o.interaction_sid, o.task_sid, o.assignment_status, o.response, o.resolved_by, o.error_kind, o.error_message,
	o.http_status, o.twilio_code, o.twilio_request_id, o.faults, o.warnings,
	o.stream, o.stream_sequence, o.traceparent, o.tracestate, o.received_at, o.settled_at,
	o.state = 'uncertain' AND o.for_person_since IS NOT NULL AND o.announced_at IS NULL AS waits`

// settlementNames are the same of a statement that returned settlementColumns.
const settlementNames = `id, request_id, source, state, attempt, settlement, request,
	interaction_sid, task_sid, assignment_status, response, resolved_by, error_kind, error_message,
	http_status, twilio_code, twilio_request_id, faults, warnings,
	stream, stream_sequence, traceparent, tracestate, received_at, settled_at, waits`

func scanSettlement(row pgx.CollectableRow) (settlement, error) {
	var s settlement
	err := row.Scan(s.targets()...)
	return s, err
}

func (s *settlement) targets() []any {
	return []any{&s.id, &s.requestID, &s.source, &s.state, &s.attempt, &s.number, &s.request,
		&s.interactionSID, &s.taskSID, &s.assignmentStatus, &s.response, &s.resolvedBy, &s.errorKind, &s.errorMessage,
		&s.httpStatus, &s.twilioCode, &s.twilioRequestID, &s.faults, &s.warnings,
		&s.asked.stream, &s.asked.sequence, &s.asked.traceparent, &s.asked.tracestate, &s.receivedAt, &s.settledAt, &s.waits}
}

// owed says whether somebody is to hear of it now.
func (s *settlement) owed() bool { return s.state.Final() || s.waits }

// messageID names this answer for good. A result that changes has another one:
// a stream drops a second message under the same id, whatever its body.
func (s *settlement) messageID() string {
	id := flex.LookupKey(s.requestID) + "-" + strconv.Itoa(s.number)
	if s.waits {
		id += "-uncertain-" + strconv.Itoa(s.attempt)
	}
	return id
}

// result is the answer as it is published. The same row gives the same bytes.
func (s *settlement) result() Result {
	r := Result{
		RequestID: &s.requestID, Outcome: string(s.state), InteractionSID: s.interactionSID, TaskSID: s.taskSID,
		Attempts: s.attempt, ResolvedBy: s.resolvedBy, Metadata: jsonNull, Warnings: noneJSON,
		Revision: &s.number, Stream: s.asked.stream, Sequence: s.asked.sequence, ReceivedAt: s.receivedAt.UTC(),
	}
	if s.warnings != nil {
		r.Warnings = s.warnings
	}
	if s.settledAt != nil {
		at := s.settledAt.UTC()
		r.SettledAt = &at
	}
	if metadata, ok := rawjson.Member(s.request, "metadata"); ok {
		r.Metadata = metadata
	}
	if s.state == request.Created {
		r.Channel, r.Routing = flex.Describe(s.response)
		if r.Routing != nil && s.assignmentStatus != nil {
			r.Routing.AssignmentStatus = s.assignmentStatus
		}
	}
	r.Error = s.resultError()
	return r
}

func (s *settlement) resultError() *ResultError {
	if s.errorKind == nil {
		return nil
	}
	e := &ResultError{Kind: *s.errorKind, HTTPStatus: s.httpStatus, TwilioCode: s.twilioCode,
		TwilioRequestID: s.twilioRequestID, Faults: jsonNull}
	if s.errorMessage != nil {
		e.Message = *s.errorMessage
	}
	if s.faults != nil {
		e.Faults = s.faults
	}
	if info, ok := rawjson.Member(s.response, "more_info"); ok {
		if text, _ := rawjson.Text(info); len(text) > 0 {
			moreInfo := string(text)
			e.MoreInfo = &moreInfo
		}
	}
	return e
}
