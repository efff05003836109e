package outbox

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/flex"
	"flexworker/internal/rawjson"
)

// Result is what is published about a request: the contract's section 4.
type Result struct {
	RequestID      string          `json:"request_id"`
	Outcome        string          `json:"outcome"`
	InteractionSID *string         `json:"interaction_sid"`
	TaskSID        *string         `json:"task_sid"`
	Channel        *flex.Channel   `json:"channel"`
	Routing        *flex.Routing   `json:"routing"`
	Attempts       int             `json:"attempts"`
	ResolvedBy     *string         `json:"resolved_by"`
	Error          *ResultError    `json:"error"`
	Metadata       json.RawMessage `json:"metadata"`
	ReceivedAt     time.Time       `json:"received_at"`
	SettledAt      *time.Time      `json:"settled_at"`
}

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
	state            State
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
	traceparent      *string
	receivedAt       time.Time
	settledAt        *time.Time
	waits            bool // uncertain, and a person has to look
}

// settlementColumns are what scanSettlement reads, of outbox as o.
const settlementColumns = `o.id, o.request_id, o.source, o.state, o.attempt, o.settlement, o.request,
	o.interaction_sid, o.task_sid, o.assignment_status, o.response, o.resolved_by, o.error_kind, o.error_message,
	o.http_status, o.twilio_code, o.twilio_request_id, o.faults, o.traceparent, o.received_at, o.settled_at,
	o.state = 'uncertain' AND o.due_at IS NULL AS waits`

// settlementNames are the same of a statement that returned settlementColumns.
const settlementNames = `id, request_id, source, state, attempt, settlement, request,
	interaction_sid, task_sid, assignment_status, response, resolved_by, error_kind, error_message,
	http_status, twilio_code, twilio_request_id, faults, traceparent, received_at, settled_at, waits`

func scanSettlement(row pgx.CollectableRow) (settlement, error) {
	var s settlement
	err := row.Scan(s.targets()...)
	return s, err
}

func (s *settlement) targets() []any {
	return []any{&s.id, &s.requestID, &s.source, &s.state, &s.attempt, &s.number, &s.request,
		&s.interactionSID, &s.taskSID, &s.assignmentStatus, &s.response, &s.resolvedBy, &s.errorKind, &s.errorMessage,
		&s.httpStatus, &s.twilioCode, &s.twilioRequestID, &s.faults, &s.traceparent, &s.receivedAt, &s.settledAt, &s.waits}
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
		RequestID: s.requestID, Outcome: string(s.state), InteractionSID: s.interactionSID, TaskSID: s.taskSID,
		Attempts: s.attempt, ResolvedBy: s.resolvedBy, Metadata: json.RawMessage("null"),
		ReceivedAt: s.receivedAt.UTC(),
	}
	if s.settledAt != nil {
		at := s.settledAt.UTC()
		r.SettledAt = &at
	}
	if metadata, ok := rawjson.Member(s.request, "metadata"); ok {
		r.Metadata = metadata
	}
	if s.state == Created {
		r.Channel, r.Routing = flex.Describe(s.response)
		if r.Routing != nil && s.assignmentStatus != nil {
			r.Routing.AssignmentStatus = *s.assignmentStatus
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
		TwilioRequestID: s.twilioRequestID, Faults: json.RawMessage("null")}
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
