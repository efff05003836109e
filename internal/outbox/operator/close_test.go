package operator_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// A twin is a request that was created twice in a real imitation of Flex: one interaction is kept, and one is a duplicate.
type twin struct {
	*rig
	flex            *flextest.Server
	client          *flex.Client
	kept, duplicate string
}

// newTwin creates r-1 twice. shared: both times in one conversation.
func newTwin(t *testing.T, shared bool) *twin {
	t.Helper()
	w := &twin{rig: newRig(t), flex: flextest.New(t)}
	var err error
	w.client, err = flex.New(flex.Config{URL: w.flex.URL(), TaskRouterURL: w.flex.URL(), LookupAttribute: "interaction_request", Timeout: 20 * time.Second, Concurrency: 2, UserAgent: "a test",
		Credentials: func() (string, string) { return flextest.AccountSID, flextest.AuthToken }})
	if err != nil {
		t.Fatal(err)
	}
	w.desk = operator.NewDesk(w.pool, ann, func() (operator.Flex, time.Duration, error) { return w.client, time.Minute, nil })
	mustAdd(t, w.rig, "r", 2, keyed)
	channel := `{"type":"sms","initiated_by":"api"}`
	if shared {
		channel = `{"type":"sms","initiated_by":"api","properties":{"media_channel_sid":"CH0000000000000000000000000000000c"}}`
	}
	w.kept, w.duplicate = w.creates(t, "r-1", channel), w.creates(t, "r-1", channel)
	w.keeps(t, "r-1", w.kept)
	return w
}

// creates makes an interaction of a request that Flex is asked for, and nobody records.
func (w *twin) creates(t *testing.T, id, channel string) string {
	t.Helper()
	o := w.client.Create(t.Context(), flex.Interaction{Channel: []byte(channel), LookupKey: flex.LookupKey(id),
		Routing: fmt.Appendf(nil, `{"properties":{"workspace_sid":%q,"attributes":{"customerName":"Ada"}}}`, flextest.WorkspaceSID)})
	if o.Kind != flex.Created {
		t.Fatalf("%+v", o)
	}
	return o.InteractionSID
}

// keeps makes a request created, under this sid.
func (w *twin) keeps(t *testing.T, id, sid string) {
	t.Helper()
	pgtest.Exec(t, w.pool, `UPDATE outbox SET state = 'created', attempt = 1, due_at = NULL, interaction_sid = $2, resolved_by = 'lookup', settled_at = now(), received_at = now() - interval '1 minute' WHERE request_id = $1`, id, sid)
}

// open says which of the two interactions have an open channel.
func (w *twin) open(t *testing.T) string {
	t.Helper()
	var open []string
	for name, sid := range map[string]string{"kept": w.kept, "duplicate": w.duplicate} {
		list, err := w.client.Channels(t.Context(), sid)
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		if list[0].Status == "active" {
			open = append(open, name)
		}
	}
	if len(open) == 2 {
		return "both"
	}
	return strings.Join(open, "")
}

// TestClose: the channel of a duplicate is shown, then closed and recorded, once; the interaction that is kept stays open.
func TestClose(t *testing.T) {
	t.Parallel()
	w := newTwin(t, false)
	closing := operator.Closing{Duplicate: w.duplicate}
	seen, err := w.desk.PreviewClose(t.Context(), ofAttempt(1, aTest), "r-1", closing)
	if err != nil || len(seen.Channels) != 1 || seen.Channels[0].Status != "active" || len(seen.Said) != 2 || !strings.Contains(seen.Said[0], w.duplicate) || !strings.Contains(seen.Said[1], "It is kept: Flex shows "+w.kept) {
		t.Fatalf("%+v, %v", seen, err)
	}
	if got := w.open(t); got != "both" || acts(t, w.rig) != "" {
		t.Fatalf("to look left open: %s; recorded %s", got, acts(t, w.rig))
	}
	if _, err := w.desk.Close(t.Context(), ofAttempt(1, aTest), "r-1", closing); err != nil {
		t.Fatal(err)
	}
	if got := w.open(t); got != "kept" {
		t.Errorf("open: %s", got)
	}
	want := fmt.Sprintf("ann@desk a test close r-1 %s (%s active)", w.duplicate, seen.Channels[0].SID)
	if got := acts(t, w.rig); got != want {
		t.Errorf("recorded %s, want %s", got, want)
	}
	if _, err := w.desk.Close(t.Context(), aTest, "r-1", closing); !errors.Is(err, operator.ErrClosed) {
		t.Error(err)
	}
	if got := acts(t, w.rig); got != want {
		t.Errorf("recorded %s", got)
	}
	if got, err := w.desk.Explain(t.Context(), "r-1"); err != nil || !strings.Contains(got, "ann@desk did: close of attempt 1 (it was "+w.duplicate) {
		t.Error(got, err)
	}
}

// TestCloseRefused: what is kept, or shares a conversation with what is kept, or is not shown to be this request's, stays
// open, and nothing is recorded.
func TestCloseRefused(t *testing.T) {
	t.Parallel()
	w, shared := newTwin(t, false), newTwin(t, true)
	channel := `{"type":"sms","initiated_by":"api"}`
	other := w.creates(t, "r-2", channel)
	foreign := w.creates(t, "somebody else's", channel)
	nameless := w.creates(t, "r-1", channel)
	w.flex.Overwrite(nameless, `{"conversationSid":"CH0000000000000000000000000000000d"}`)
	apart := w.creates(t, "r-1", channel)
	w.flex.Overwrite(apart, `{"interaction_request":"`+flex.LookupKey("r-1")+`"}`)
	everyState(t, w.rig)
	const nobody = "KD000000000000000000000000000000ff"
	for _, tt := range []struct {
		name, id string
		of       *twin
		sid      string
		a        operator.Act
		want     error
		believed error // with Unverified
	}{
		{"the one that is kept", "r-1", w, w.kept, aTest, operator.ErrKept, operator.ErrKept},
		{"the one that is kept, in other letters", "r-1", w, "KD" + strings.ToUpper(w.kept[2:]), aTest, operator.ErrKept, operator.ErrKept},
		{"one conversation", "r-1", shared, shared.duplicate, aTest, operator.ErrShared, operator.ErrShared},
		{"another request's", "r-1", w, foreign, aTest, operator.ErrNotIts, operator.ErrNotIts},
		{"no key", "r-1", w, nameless, aTest, operator.ErrNotIts, nil},
		{"a conversation that is not shown", "r-1", w, apart, aTest, operator.ErrShared, nil},
		{"not there", "r-1", w, nobody, aTest, operator.ErrNotShown, operator.ErrNotShown},
		{"no sid", "r-1", w, "WT1", aTest, operator.ErrRefused, operator.ErrRefused},
		{"not settled", "r-2", w, other, aTest, operator.ErrNotSettled, operator.ErrNotSettled},
		{"an unknown request", "nobody", w, w.duplicate, aTest, operator.ErrUnknown, operator.ErrUnknown},
		{"another attempt", "r-1", w, w.duplicate, ofAttempt(7, aTest), operator.ErrOtherAttempt, operator.ErrOtherAttempt},
		{"another tag", "r-1", w, w.duplicate, operator.Act{Why: "a test", Seen: "1-1-created-9-0"}, operator.ErrStale, operator.ErrStale},
		{"no reason", "r-1", w, w.duplicate, operator.Act{}, operator.ErrNoReason, operator.ErrNoReason},
		{"kept by another request", "r-1", w, sidA, aTest, operator.ErrNotIts, operator.ErrNotIts}, // that of everyState
	} {
		if _, err := tt.of.desk.Close(t.Context(), tt.a, tt.id, operator.Closing{Duplicate: tt.sid}); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if _, err := tt.of.desk.PreviewClose(t.Context(), tt.a, tt.id, operator.Closing{Duplicate: tt.sid, Unverified: true}); !errors.Is(err, tt.believed) {
			t.Errorf("%s, unverified: %v, want %v", tt.name, err, tt.believed)
		}
	}
	if _, err := operator.NewDesk(w.pool, ann, nil).Close(t.Context(), aTest, "r-1", operator.Closing{Duplicate: w.duplicate}); !errors.Is(err, operator.ErrCannotAsk) {
		t.Error(err)
	}
	if n := w.flex.Calls().Closed + shared.flex.Calls().Closed; n != 0 || acts(t, w.rig)+acts(t, shared.rig) != "" {
		t.Errorf("%d were closed; recorded %s%s", n, acts(t, w.rig), acts(t, shared.rig))
	}
}

// TestCloseFails: the record stands before the call. It says where Flex refused, and stays as it is where nobody knows; done
// again the close comes to its end.
func TestCloseFails(t *testing.T) {
	t.Parallel()
	w := newTwin(t, false)
	closing := operator.Closing{Duplicate: w.duplicate}
	before := ""
	for _, tt := range []struct {
		trouble flextest.Fault
		want    error
		open    string
		refused bool
	}{
		{flextest.Status(400), operator.ErrNotClosed, "both", true},
		{flextest.Status(503), operator.ErrMayBeClosed, "both", false},
		{flextest.CreateThenReset, operator.ErrMayBeClosed, "kept", false},
		{"", operator.ErrClosed, "kept", false},
	} {
		w.flex.Set(flextest.Settings{CloseTrouble: tt.trouble})
		if _, err := w.desk.Close(t.Context(), aTest, "r-1", closing); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.trouble, err)
		}
		if got := w.open(t); got != tt.open {
			t.Errorf("%s: open %s", tt.trouble, got)
		}
		why := pgtest.One[string](t, w.pool, `SELECT string_agg(why, '; ' ORDER BY id) FROM outbox_acts`)
		if added := strings.TrimPrefix(why, before); strings.Contains(added, "nothing was closed: Flex refused it") != tt.refused || (added == "") != errors.Is(tt.want, operator.ErrClosed) {
			t.Errorf("%s: recorded %q", tt.trouble, added)
		}
		before = why
	}
}

// before is a Flex in which somebody acts just before a channel is closed.
type before struct {
	operator.Flex
	act func()
}

func (b before) Channels(ctx context.Context, sid string) ([]flex.ChannelState, error) {
	b.act()
	return b.Flex.Channels(ctx, sid)
}

// TestCloseOfWhatIsAdopted: a duplicate that became the request's own, or another's, while Flex was asked stays open.
func TestCloseOfWhatIsAdopted(t *testing.T) {
	t.Parallel()
	for name, adopt := range map[string]string{
		"its own":   `UPDATE outbox SET interaction_sid = $1 WHERE request_id = 'r-1'`,
		"another's": `UPDATE outbox SET state = 'created', attempt = 1, due_at = NULL, resolved_by = 'operator', settled_at = now(), interaction_sid = $1 WHERE request_id = 'r-2'`,
		"an act":    `INSERT INTO outbox_acts (who, why, act, request_id, was) SELECT 'bob', 'so', 'republish', 'r-1', $1`,
	} {
		w := newTwin(t, false)
		desk := operator.NewDesk(w.pool, ann, func() (operator.Flex, time.Duration, error) {
			return before{w.client, func() { pgtest.Exec(t, w.pool, adopt, w.duplicate) }}, time.Minute, nil
		})
		if _, err := desk.Close(t.Context(), aTest, "r-1", operator.Closing{Duplicate: w.duplicate}); !errors.Is(err, operator.ErrStale) {
			t.Errorf("%s: %v", name, err)
		}
		if n := w.flex.Calls().Closed; n != 0 {
			t.Errorf("%s: %d were closed", name, n)
		}
	}
}
