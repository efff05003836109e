// Package senders answers the services that send requests: where is my request, and take it back. Its Service is a NATS
// service in the form of nats.go's micro, so that `nats micro ls`, info and stats show it. Every replica has one, and each
// question goes to one of them.
//
//	SUBJECT.status.SOURCE   {"request_id": "..."}                 operator.OwnStatus
//	SUBJECT.cancel.SOURCE   {"request_id": "...", "why": "..."}   operator.Cancelled
//
// Who asks is who may publish on the subject: NATS's permissions say so. What they may ask about is for operator.Desk to
// decide: what their own source has asked for. All else is unknown, in the same words whether there is such a request or
// not.
//
// Every answer is JSON. One that is no answer to the question has the headers of a micro service's error, and the error in
// the shape that results have:
//
//	400  the body is not what is asked for: error.faults has every fault
//	404  no request of this source is known under this id: there is none, or no worker has read its message yet
//	503  Postgres is away, somebody holds the row, or this replica stops: ask again
//
// A replica answers one question of each kind at a time; more wait in line, and what is beyond the line is dropped: its
// sender hears nothing, and asks again. After a question that Postgres did not answer those in line are refused for a
// second, so that the line does not grow old.
//
// An answer goes to an inbox alone. Its subject is the sender's choice, and what this connection may publish on is more
// than a sender may: an answer on the results subject would be a forged result.
package senders

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/results"
	"flexworker/internal/trouble"
)

const (
	// inLine is how many questions of one kind wait in a replica.
	inLine = 1024
	// answerLimit is how long one may take.
	answerLimit = 4 * time.Second
	// awayFor is how long questions are refused after one that Postgres did not answer.
	awayFor = time.Second
	// headerRoom is what an answer leaves of the server's message limit for headers.
	headerRoom = 4096
)

// Service answers the questions of senders. Make one with New. Its counters are safe for concurrent use.
type Service struct {
	Config
	Counters Counters

	mu       sync.Mutex
	stopped  bool
	away     time.Time // until then questions are refused
	underWay sync.WaitGroup
	failing  trouble.Trouble
}

// Config is what a Service is made of. Every field is needed.
type Config struct {
	Conn    *nats.Conn
	Subject string // SERVICE_SUBJECT, the prefix before status and cancel
	// Inbox is the prefix of this program's own inboxes, where no answer goes.
	Inbox   string
	Version string // of the worker
	Desk    *operator.Desk
	Log     *slog.Logger
}

// New gives a Service that Run starts.
func New(c Config) *Service { return &Service{Config: c} }

// Run answers until ctx ends. When it returns, no question is under way and none is begun: those that still come are
// refused, without a word to Postgres.
func (s *Service) Run(ctx context.Context) {
	service, err := s.start()
	if err != nil {
		s.Log.Error("questions of senders are not answered", "error", err)
		return
	}
	<-ctx.Done()
	if err := service.Stop(); err != nil {
		s.Log.Warn("the service for senders did not stop in order", "error", err)
	}
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.underWay.Wait()
}

// start makes the service known to NATS.
func (s *Service) start() (micro.Service, error) {
	service, err := micro.AddService(s.Conn, micro.Config{
		Name: "flexworker", Version: semantic(s.Version), Description: "Answers the senders of interaction requests",
		QueueGroup: "flexworker", Metadata: map[string]string{"worker_version": s.Version},
	})
	if err != nil {
		return nil, err
	}
	for _, kind := range Kinds {
		subject := s.Subject + "." + kind.String() + ".>"
		if err := service.AddEndpoint(kind.String(), s.handler(kind), micro.WithEndpointSubject(subject),
			micro.WithEndpointPendingLimits(inLine, -1), micro.WithEndpointMetadata(map[string]string{"subject": s.Subject + "." + kind.String() + ".SOURCE", "body": bodies[kind]})); err != nil {
			return nil, errors.Join(err, service.Stop())
		}
	}
	return service, nil
}

// semantic is a version as micro takes it: without the letter before it, or 0.0.0 where it is none.
func semantic(version string) string {
	version = strings.TrimPrefix(version, "v")
	if parts := strings.SplitN(version, ".", 3); len(parts) == 3 && !strings.ContainsFunc(parts[0]+parts[1]+parts[2], func(r rune) bool { return r < '0' || r > '9' }) {
		return version
	}
	return "0.0.0"
}

// handler answers the questions of one kind.
func (s *Service) handler(kind Kind) micro.HandlerFunc {
	prefix := s.Subject + "." + kind.String() + "."
	return func(r micro.Request) {
		if !s.isInbox(r.Reply()) {
			s.Counters.count(kind, Unanswerable)
			return
		}
		a := s.answer(kind, strings.TrimPrefix(r.Subject(), prefix), r.Data())
		s.Counters.count(kind, a.as)
		body, err := a.encode(s.Conn.MaxPayload() - headerRoom)
		if err != nil {
			s.Log.Error("an answer to a sender cannot be written", "error", err)
			return
		}
		isJSON := micro.WithHeaders(micro.Headers{"Content-Type": {"application/json"}})
		if a.as == Answered {
			err = r.Respond(body, isJSON)
		} else {
			err = r.Error(a.code(), a.fault.Message, body, isJSON)
		}
		if err != nil { // NATS is away: its sender asks again
			s.Log.Debug("an answer to a sender did not leave", "error", err)
		}
	}
}

// isInbox says whether an answer may go there: to an inbox of somebody else, or through an account's import of the service.
func (s *Service) isInbox(subject string) bool {
	if strings.HasPrefix(subject, s.Inbox+".") {
		return false
	}
	return strings.HasPrefix(subject, nats.InboxPrefix) || strings.HasPrefix(subject, "_R_.")
}

// answer is what one question gets.
func (s *Service) answer(kind Kind, source string, body []byte) answer {
	q, faults := read(kind, body)
	if len(faults) > 0 {
		return invalid(faults)
	}
	if !s.begin() {
		return refused(Unavailable, "unavailable", "this worker cannot answer now: ask again")
	}
	defer s.underWay.Done()
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit) // an end of the worker waits for it
	defer cancel()
	desk := s.Desk.For(operator.Sender(source))
	var own any
	var err error
	if kind == Status {
		own, err = desk.OwnStatus(ctx, q.RequestID)
	} else {
		own, err = desk.CancelOwn(ctx, q.RequestID, operator.Act{Why: q.Why})
	}
	switch {
	case errors.Is(err, operator.ErrUnknown), errors.Is(err, operator.ErrForbidden):
		return refused(Unknown, "unknown", notKnown)
	case errors.Is(err, operator.ErrLeftOut):
		return refused(Unavailable, "locked", "the request is held by something else at this moment: ask again")
	case err != nil:
		s.failing.Tell(s.Log, "questions of senders cannot be answered", err)
		s.isAway()
		return refused(Unavailable, "unavailable", "this worker cannot answer now: ask again")
	}
	s.failing.Tell(s.Log, "questions of senders cannot be answered", nil)
	return answer{as: Answered, body: own}
}

// notKnown is true of an id that nobody has, of another source's, and of a message that still waits in the stream: none is
// told from another.
const notKnown = "no request of this source is known under this request_id. If its PubAck has come, no worker may have read it yet: " +
	"ask again for half a minute. Then check request_id, and the source at the end of the subject"

// begin says whether a question may be put to the desk. If so, underWay counts it.
func (s *Service) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || time.Now().Before(s.away) {
		return false
	}
	s.underWay.Add(1)
	return true
}

// isAway has questions refused for a moment.
func (s *Service) isAway() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = time.Now().Add(awayFor)
}

// An answer is the body of one, or why there is none.
type answer struct {
	as    As
	body  any
	fault results.Error // where as is not Answered
}

func refused(as As, kind, message string) answer {
	return answer{as: as, fault: results.Error{Kind: kind, Message: message, Faults: results.JSONNull}}
}

// code is the status of an error, as of HTTP.
func (a answer) code() string {
	return map[As]string{Invalid: "400", Unknown: "404", Unavailable: "503"}[a.as]
}

// encode is the answer as JSON of at most so many bytes.
func (a answer) encode(most int64) ([]byte, error) {
	if a.as != Answered {
		return results.Encode(map[string]results.Error{"error": a.fault})
	}
	body, err := results.Encode(a.body)
	if own, ok := a.body.(operator.OwnStatus); ok && err == nil && int64(len(body)) > most {
		own.Result = results.Reduced(own.Result)
		return results.Encode(own)
	}
	return body, err
}
