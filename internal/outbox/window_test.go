package outbox

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/outbox/results"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/natstest"
	"flexworker/internal/testing/pgtest"
)

// TestPublishedAfterTheWindow: a result was published, its mark was lost, and it is published again when the stream's
// duplicate window is over. The second copy is byte for byte the first, under the same id, by which its readers drop it.
func TestPublishedAfterTheWindow(t *testing.T) {
	t.Parallel()
	s, r := newStore(t), newResults(t, natstest.Options{})
	r.create(t, func(c *jetstream.StreamConfig) { c.Duplicates = 100 * time.Millisecond })
	settle(t, s, event("a", 1), good)
	age(t, s)
	answers, err := s.Results.Unpublished(t.Context(), &results.Cursor{})
	if err != nil || len(answers) != 1 {
		t.Fatal(answers, err)
	}
	if _, err := r.publisher(t, s).Send(answers[0]); err != nil { // published, and died before the mark
		t.Fatal(err)
	}
	<-r.PublishAsyncComplete()
	expect.Eventually(t, func() error { // what came later is taken anew: so the window is over for the result
		m := nats.NewMsg("interactions.results.created.probe")
		m.Header.Set(natstest.Forged, "yes")
		ack, err := r.PublishMsg(t.Context(), m, jetstream.WithMsgID("probe"))
		if err != nil {
			return err
		}
		if ack.Duplicate || ack.Sequence < 3 {
			return errors.New("the window is not over")
		}
		return nil
	})
	if !publishStrays(t, r.publisher(t, s)) || s.row(t, "a").PublishedAt == nil {
		t.Fatal("not published again")
	}
	var copies []*jetstream.RawStreamMsg
	for _, m := range r.all(t) {
		if m.Header.Get(natstest.Forged) == "" {
			copies = append(copies, m)
		}
	}
	if len(copies) != 2 || string(copies[0].Data) != string(copies[1].Data) || copies[0].Header.Get("Nats-Msg-Id") != copies[1].Header.Get("Nats-Msg-Id") {
		t.Errorf("%d copies: %v", len(copies), copies)
	}
	pgtest.CheckOutbox(t, s.pool)
}
