package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/consumer"
)

// Streams is what the settings say of NATS.
type Streams struct {
	Requests  consumer.Names
	Results   string        // RESULTS_STREAM
	Subject   string        // RESULTS_SUBJECT
	Service   string        // SERVICE_SUBJECT; "": none
	Inbox     string        // the prefix of the worker's inboxes
	Retention time.Duration // RETENTION
}

// Publishes are the subjects on which a worker has to be allowed to publish, as docs/operating.md lists them, but for the
// inboxes of senders: allow_responses may stand for these.
func (s Streams) Publishes() []string {
	of := s.Requests.Stream + "." + s.Requests.Consumer
	return []string{s.Subject + ".>", "$JS.API.CONSUMER.INFO." + of, "$JS.API.CONSUMER.MSG.NEXT." + of, "$JS.ACK." + of + ".>", "$JS.API.STREAM.NAMES",
		"$JS.API.STREAM.INFO." + s.Requests.Stream, "$JS.API.STREAM.MSG.GET." + s.Requests.Stream}
}

// Subscribes are the subjects to which a worker has to be allowed to subscribe.
func (s Streams) Subscribes() []string {
	all := []string{s.Inbox + ".>", "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES." + s.Requests.Stream + "." + s.Requests.Consumer}
	if s.Service != "" {
		all = append(all, s.Service+".status.>", s.Service+".cancel.>", "$SRV.>")
	}
	return all
}

// NATS asks the server, on a connection that has come about.
func (r *Report) NATS(ctx context.Context, conn *nats.Conn, s Streams) {
	js, err := jetstream.New(conn)
	if err != nil {
		r.add("nats", "JetStream", Fault, "", "%v", err)
		return
	}
	r.add("nats", "connection", OK, "", "server version %s", conn.ConnectedServerVersion())
	r.requests(ctx, js, s)
	r.results(ctx, js, s)
	r.service(ctx, js, s)
	r.permissions(ctx, conn, s)
}

// Unconnected says why there is no connection to NATS.
func (r *Report) Unconnected(err error) {
	status, do := Away, "start it, or put NATS_URL right; is the address reached from here?"
	if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) {
		status, do = Settings, "put user and password of NATS_URL, or NATS_CREDS_FILE, right"
	}
	r.add("nats", "connection", status, do, "%s", said(err))
	r.unknown("nats", "there is no connection", "request stream", "consumer", "result stream", "questions of senders", "permissions")
}

// unasked is a line about what the server did not tell: mostly a permission is missing.
func (r *Report) unasked(what, subject string, err error) {
	r.add("nats", what, Unknown, "allow this user to publish on "+subject, "the server does not tell: %v", err)
}

func within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, askLimit)
}

func (r *Report) requests(ctx context.Context, js jetstream.JetStream, s Streams) {
	ctx, cancel := within(ctx)
	defer cancel()
	n := s.Requests
	stream, err := js.Stream(ctx, n.Stream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound) && n.Create:
		r.add("nats", "request stream", OK, "", "%s does not exist; the first worker that starts makes it (CREATE_STREAMS)", n.Stream)
		r.unknown("nats", "its stream does not exist yet", "consumer")
		return
	case errors.Is(err, jetstream.ErrStreamNotFound):
		r.add("nats", "request stream", Fault, fmt.Sprintf("nats stream add %s --subjects '%s.>' --storage file --retention limits --max-age 7d --dupe-window 100ms --defaults, or CREATE_STREAMS=true",
			n.Stream, n.Subject), "%s does not exist", n.Stream)
		r.unknown("nats", "its stream does not exist", "consumer")
		return
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount), errors.Is(err, nats.ErrNoResponders):
		r.add("nats", "request stream", Fault, "enable JetStream for this account", "JetStream does not answer: %v", err)
		r.unknown("nats", "JetStream does not answer", "consumer")
		return
	case err != nil:
		r.unasked("request stream", "$JS.API.STREAM.INFO."+n.Stream, err)
	default:
		r.requestStream(ctx, js, s, stream.CachedInfo().Config)
	}
	switch err := n.Inspect(ctx, js); {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		r.add("nats", "consumer", OK, "", "%s does not exist; the first worker that starts makes it", n.Consumer)
	case errors.Is(err, consumer.ErrDrift):
		r.add("nats", "consumer", Fault, "delete it, so that a worker makes it anew, or set REQUESTS_CONSUMER to another name", "%v", err)
	case err != nil:
		r.unasked("consumer", "$JS.API.CONSUMER.INFO."+n.Stream+"."+n.Consumer, err)
	default:
		r.add("nats", "consumer", OK, "", "%s is as the worker needs it", n.Consumer)
	}
}

func (r *Report) requestStream(ctx context.Context, js jetstream.JetStream, s Streams, has jetstream.StreamConfig) {
	n := s.Requests
	if !slices.ContainsFunc(has.Subjects, func(subject string) bool { return covers(subject, n.Subject+".>") }) {
		if len(has.Sources) == 0 && has.Mirror == nil {
			r.add("nats", "request stream", Fault, fmt.Sprintf("nats stream edit %s --subjects '%s.>'", n.Stream, n.Subject), "%s takes %s, and not %s.>", n.Stream, strings.Join(has.Subjects, ", "), n.Subject)
			return
		}
		r.add("nats", "request stream", OK, "", "%s has its messages from another stream", n.Stream)
	} else {
		r.add("nats", "request stream", OK, "", "%s takes %s.>", n.Stream, n.Subject)
	}
	if has.Storage == jetstream.MemoryStorage {
		r.add("nats", "request stream", Advice, "make it anew with --storage file", "%s is kept in memory: requests that wait are lost when the server stops", n.Stream)
	}
	c := consumer.Consumer{Stream: js, Names: n, Retention: s.Retention, Log: slog.New(slog.DiscardHandler)}
	for _, advice := range c.Advice(ctx) {
		r.add("nats", "request stream", Advice, "", "%s", advice)
	}
}

// window is the duplicate window that the results stream should have at least: a result is published again after an outage.
const window = 30 * time.Minute

func (r *Report) results(ctx context.Context, js jetstream.JetStream, s Streams) {
	ctx, cancel := within(ctx)
	defer cancel()
	subject := s.Subject + ".>"
	create := fmt.Sprintf("nats stream add %s --subjects '%s' --storage file --retention limits --max-age 30d --dupe-window 30m --defaults", s.Results, subject)
	bound, err := js.StreamNameBySubject(ctx, subject)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound) && s.Requests.Create:
		r.add("nats", "result stream", OK, "", "%s does not exist; the first worker that starts makes it (CREATE_STREAMS)", s.Results)
		return
	case errors.Is(err, jetstream.ErrStreamNotFound):
		r.add("nats", "result stream", Fault, create+", or CREATE_STREAMS=true", "no stream takes %s", subject)
		return
	case err != nil:
		r.unasked("result stream", "$JS.API.STREAM.NAMES", err)
		return
	case bound != s.Results:
		r.add("nats", "result stream", Fault, "set RESULTS_STREAM="+bound+", or have "+s.Results+" take that subject", "%s goes to stream %s", subject, bound)
		return
	}
	r.add("nats", "result stream", OK, "", "%s takes %s", s.Results, subject)
	stream, err := js.Stream(ctx, s.Results)
	if err != nil {
		r.unasked("result stream's settings", "$JS.API.STREAM.INFO."+s.Results, err)
		return
	}
	has := stream.CachedInfo().Config
	advise := func(wrong bool, do, says string, args ...any) {
		if wrong {
			r.add("nats", "result stream's settings", Advice, do, s.Results+" "+says, args...)
		}
	}
	before := len(*r)
	advise(has.Retention != jetstream.LimitsPolicy, "make it anew: "+create, "has %v retention: it forgets the ids of messages that are gone, and takes a result twice", has.Retention)
	advise(has.Duplicates < window, "nats stream edit "+s.Results+" --dupe-window 30m", "drops a repeated result within %v alone", has.Duplicates)
	advise(has.Storage == jetstream.MemoryStorage, "make it anew: "+create, "is kept in memory: results that nobody has read are lost when the server stops")
	if len(*r) == before {
		r.add("nats", "result stream's settings", OK, "", "retention, window and storage are as they should be")
	}
}

// service says whether a stream would answer in place of a worker.
func (r *Report) service(ctx context.Context, js jetstream.JetStream, s Streams) {
	const what = "questions of senders"
	if s.Service == "" {
		r.add("nats", what, OK, "", "are not answered (SERVICE_SUBJECT is empty)")
		return
	}
	ctx, cancel := within(ctx)
	defer cancel()
	for _, subject := range []string{s.Service + ".status.>", s.Service + ".cancel.>"} {
		switch stream, err := js.StreamNameBySubject(ctx, subject); {
		case err == nil:
			r.add("nats", what, Fault, "set SERVICE_SUBJECT to another prefix, or take the subject from the stream", "stream %s takes %s, and its acknowledgement would be the answer", stream, subject)
			return
		case !errors.Is(err, jetstream.ErrStreamNotFound):
			r.unasked(what, "$JS.API.STREAM.NAMES", err)
			return
		}
	}
	r.add("nats", what, OK, "", "no stream takes %s.status.> and %s.cancel.>", s.Service, s.Service)
}

// userInfo is where a server tells a user's own permissions, since version 2.10.
const userInfo = "$SYS.REQ.USER.INFO"

// allowed are a user's permissions for one verb, as the server tells them.
type allowed struct {
	Allow []string `json:"allow"`
	Deny  []string `json:"deny"`
}

// lacks are those of subjects that are not allowed as a whole. nil: all are.
func (a *allowed) lacks(subjects []string) (missing []string) {
	for _, subject := range subjects {
		may := a == nil || len(a.Allow) == 0 || slices.ContainsFunc(a.Allow, func(allow string) bool { return covers(subjectOf(allow), subject) })
		if !may || a != nil && slices.ContainsFunc(a.Deny, func(deny string) bool { return covers(subjectOf(deny), subject) || covers(subject, subjectOf(deny)) }) {
			missing = append(missing, subject)
		}
	}
	return missing
}

func (r *Report) permissions(ctx context.Context, conn *nats.Conn, s Streams) {
	const what = "permissions"
	ctx, cancel := within(ctx)
	defer cancel()
	m, err := conn.RequestWithContext(ctx, userInfo, nil)
	var info struct {
		Data *struct {
			Permissions *struct {
				Publish, Subscribe *allowed
				Responses          *struct{}
			} `json:"permissions"`
		} `json:"data"`
	}
	if err == nil {
		err = json.Unmarshal(m.Data, &info)
	}
	if err != nil || info.Data == nil {
		if err == nil {
			err = errors.New("the answer has no data")
		}
		r.unasked(what, userInfo, err)
		return
	}
	all := info.Data.Permissions
	if all == nil {
		r.add("nats", what, OK, "", "this user may do everything")
		return
	}
	var lacking []string
	if missing := all.Publish.lacks(s.Publishes()); len(missing) > 0 {
		lacking = append(lacking, "publish on "+strings.Join(missing, ", "))
	}
	if missing := all.Subscribe.lacks(s.Subscribes()); len(missing) > 0 {
		lacking = append(lacking, "subscribe to "+strings.Join(missing, ", "))
	}
	if s.Service != "" && all.Responses == nil && len(all.Publish.lacks([]string{"_INBOX.>"})) > 0 {
		lacking = append(lacking, "publish on _INBOX.>, where it answers senders")
	}
	if len(lacking) > 0 {
		r.add("nats", what, Fault, "allow this user to "+strings.Join(lacking, "; to "), "this user may not do all that a worker does")
		return
	}
	r.add("nats", what, OK, "", "this user may do all that a worker does")
}

// subjectOf is what a permission is for, without the queue that may stand behind it.
func subjectOf(permission string) string {
	subject, _, _ := strings.Cut(permission, " ")
	return subject
}

// covers says whether a pattern takes every subject that another takes.
func covers(pattern, other string) bool {
	a, b := strings.Split(pattern, "."), strings.Split(other, ".")
	for i, token := range a {
		switch {
		case token == ">":
			return len(b) > i
		case i >= len(b), b[i] == ">", token != "*" && token != b[i]:
			return false
		}
	}
	return len(a) == len(b)
}
