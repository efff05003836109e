package natstest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/contract"
)

// results is where the worker publishes unless it is told otherwise.
const results = "interactions.results."

// Forged is a header for a message that a test publishes in the worker's place. It is not held against the schema.
const Forged = "Forged"

// checkResults fails the test for each message under interactions.results that is none by docs/schema/result.json: whatever
// a test made the worker publish, its readers can read. A server that is down is started once more for that.
func (s *Server) checkResults(t testing.TB) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		if err := s.run(); err != nil {
			t.Errorf("nats does not start again to show its results: %v", err)
			return
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), silence)
	defer cancel()
	conn, err := nats.Connect("", nats.InProcessServer(s.server), s.login(), nats.Timeout(startLimit))
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	js, err := jetstream.New(conn, Unhurried())
	if err != nil {
		t.Error(err)
		return
	}
	var published []*jetstream.StreamInfo
	streams := js.ListStreams(ctx)
	for info := range streams.Info() {
		if slices.ContainsFunc(info.Config.Subjects, func(subject string) bool { return strings.HasPrefix(subject, results) }) {
			published = append(published, info)
		}
	}
	if err := streams.Err(); err != nil {
		t.Errorf("the streams cannot be listed: %v", err)
	}
	for _, info := range published {
		if err := checkStream(t, js, info); err != nil {
			t.Errorf("the results on stream %s cannot be read: %v", info.Config.Name, err)
		}
	}
}

// silence is how long a server may leave us without an answer. How long it takes for all of its results is up to the machine.
const silence = time.Minute

// getMsg asks again where no answer comes: a question that meets a change of the stream's leader is lost.
func getMsg(stream jetstream.Stream, n uint64) (m *jetstream.RawStreamMsg, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), silence)
	defer cancel()
	for {
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		m, err = stream.GetMsg(one, n)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return m, err
		}
	}
}

func checkStream(t testing.TB, js jetstream.JetStream, info *jetstream.StreamInfo) error {
	ctx, cancel := context.WithTimeout(context.Background(), silence)
	defer cancel()
	stream, err := js.Stream(ctx, info.Config.Name)
	if err != nil {
		return err
	}
	has := info.State
	for n := has.FirstSeq; n <= has.LastSeq && has.Msgs > 0; n++ {
		m, err := getMsg(stream, n)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound): // it was deleted
		case err != nil:
			return err
		case strings.HasPrefix(m.Subject, results) && m.Header.Get(Forged) == "":
			if err := contract.Result(m.Data); err != nil {
				t.Errorf("%s is no result by docs/schema/result.json: %v\n%s", m.Subject, err, m.Data)
			}
		}
	}
	return nil
}
