package main

import (
	"container/heap"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/flextest"
)

// traffic is the services that send. One goroutine decides what is sent, by the
// seed; the senders send it, again and again until NATS has acknowledged it.
type traffic struct {
	*world
	dice    *rand.Rand
	out     chan message
	later   laters
	sending sync.WaitGroup
}

// message is one message until it is acknowledged.
type message struct {
	n       int // the request; < 0: nonsense
	id      string
	variant int8
	source  string
	name    string // Nats-Msg-Id
	body    string
	due     time.Time
	plain   bool // for the plain consumer
}

const (
	senders = 16
	// In a run by number the machine says how fast the run is: so many requests may be without an answer, and so many that
	// were created without a word about their set-ups. One set-up in ten has its word after a minute.
	unansweredMost, wordlessMost = 10_000, 40_000
)

var sources = [...]string{"crm", "shop", "web.eu", "web.us"}

func newTraffic(w *world, o options) *traffic {
	w.book.seed = o.seed
	return &traffic{world: w, dice: rand.New(rand.NewPCG(o.seed, 1)), out: make(chan message, 4*senders)}
}

// run sends until striking ends, which it does when all requests are sent, then what was
// put off, and returns when all is acknowledged.
func (t *traffic) run(ctx, striking context.Context, end func()) error {
	stopping, stop := context.WithCancel(ctx)
	defer stop()
	for range senders {
		t.sending.Go(func() { t.send(stopping) })
	}
	due, before := 0.0, time.Now()
	for sent := 0; rest(striking, 10*time.Millisecond); {
		now := time.Now()
		due, before = due+t.rate*now.Sub(before).Seconds(), now
		if t.requests > 0 && t.book.behind() {
			due = 0
		}
		for ; due >= 1 && striking.Err() == nil; due-- {
			t.request(striking)
			if sent++; sent == t.requests {
				end()
			}
		}
		for len(t.later) > 0 && time.Now().After(t.later[0].due) {
			t.put(striking, heap.Pop(&t.later).(message))
		}
	}
	// NATS may have been struck last; it is healed in a moment.
	bound := time.AfterFunc(90*time.Second, stop)
	defer bound.Stop()
	for len(t.later) > 0 {
		t.put(stopping, heap.Pop(&t.later).(message))
	}
	close(t.out)
	t.sending.Wait()
	if stopping.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("NATS did not take all within 90 s")
	}
	return nil
}

// put never drops a message that was decided on: one that striking's end cut
// is put off, and sent after it.
func (t *traffic) put(ctx context.Context, m message) {
	select {
	case t.out <- m:
	case <-ctx.Done():
		heap.Push(&t.later, m)
	}
}

func (t *traffic) chance(p float64) bool { return t.dice.Float64() < p }

// request sends a new request and decides what follows it: the same question
// again, another one under its id, or nonsense.
func (t *traffic) request(ctx context.Context) {
	k := t.kind()
	r := &rec{kind: k}
	now := time.Now().UTC()
	switch k {
	case scheduled:
		r.notBefore = now.Add(time.Duration(t.dice.IntN(15_000)) * time.Millisecond).UnixMilli()
	case hurried:
		r.expires = now.Add(time.Duration(500+t.dice.IntN(8000)) * time.Millisecond).UnixMilli()
	case late:
		r.expires = now.Add(-time.Minute).UnixMilli()
	default:
	}
	n, id := t.book.add(r)
	w := wish{n: n, id: id, rec: r, priority: -1, text: t.chance(0.1)}
	if t.chance(0.2) {
		w.priority = t.dice.IntN(10)
	}
	source := sources[t.dice.IntN(len(sources))]
	first := message{n: n, id: id, source: source, name: id, body: w.json(!t.chance(0.1), false)}
	t.put(ctx, first)
	if k == ordinary && t.chance(1.0/oneIn) {
		t.put(ctx, message{plain: true, id: id, name: id, body: w.json(true, false)})
	}
	if t.chance(0.1) {
		for again := range 1 + t.dice.IntN(3) {
			t.putOff(message{n: n, id: id, source: sources[t.dice.IntN(len(sources))], name: fmt.Sprintf("%s-again-%d", id, again),
				body: w.json(true, t.chance(0.5))}, 20*time.Second)
		}
	}
	if t.chance(0.02) {
		other := w
		other.variant = 1
		t.putOff(message{n: n, id: id, variant: 1, source: sources[t.dice.IntN(len(sources))], name: id + "-other",
			body: other.json(true, false)}, 10*time.Second)
	}
	if t.chance(0.01) {
		t.put(ctx, message{n: -1, source: source, name: id + "-nonsense", body: t.nonsense()})
	}
}

func (t *traffic) putOff(m message, most time.Duration) {
	m.due = time.Now().Add(time.Duration(t.dice.Float64() * float64(most)))
	heap.Push(&t.later, m)
}

func (t *traffic) kind() kind {
	shares := [kinds]float64{attached: 0.03, scheduled: 0.03, hurried: 0.02, late: 0.01, faulty: 0.02, refused: 0.01}
	p := t.dice.Float64()
	for k, share := range shares {
		if p -= share; p < 0 && share > 0 {
			return kind(k)
		}
	}
	return ordinary
}

func (t *traffic) nonsense() string {
	list := [...]string{"", "{", "nul", `{"request_id":7,"channel":{}}`, "\xff\xfe\x00", `{"request_id":"` + strings.Repeat("x", 300) + `"}`,
		strings.Repeat("[", 200) + strings.Repeat("]", 200), `{"request_id":"line\nbreak","channel":{}}`}
	return list[t.dice.IntN(len(list))]
}

// wish is a request as it is written down.
type wish struct {
	n        int
	id       string
	rec      *rec
	priority int  // -1: not given
	text     bool // attributes as a text that holds JSON
	variant  int  // 1: another request under the same id
}

// json writes the request; other gives the same values in another order.
func (w wish) json(withID, other bool) string {
	var members []string
	add := func(name, value string) { members = append(members, fmt.Sprintf("%q:%s", name, value)) }
	if withID {
		add("request_id", fmt.Sprintf("%q", w.id))
	}
	channel, routing := w.channel(other), w.routing(other)
	add("channel", channel)
	if routing != "" {
		add("routing", routing)
	}
	if w.priority >= 0 {
		add("priority", fmt.Sprint(w.priority))
	}
	for name, at := range map[string]int64{"not_before": w.rec.notBefore, "expires_at": w.rec.expires} {
		if at != 0 {
			add(name, fmt.Sprintf("%q", time.UnixMilli(at).UTC().Format(time.RFC3339Nano)))
		}
	}
	if w.rec.kind == faulty {
		add("expires_att", `"2030-01-01T00:00:00Z"`)
	}
	add("metadata", fmt.Sprintf(`{"n":%d,"variant":%d}`, w.n, w.variant))
	if other {
		for i, j := 0, len(members)-1; i < j; i, j = i+1, j-1 {
			members[i], members[j] = members[j], members[i]
		}
		return "{ " + strings.Join(members, " ,\n") + " }"
	}
	return "{" + strings.Join(members, ",") + "}"
}

func (w wish) channel(other bool) string {
	media := "sms"
	if w.rec.kind == refused {
		media = "voice"
	}
	proxy := "+15550199"
	if w.variant != 0 { // what makes it another request: metadata alone would not
		proxy = "+15550198"
	}
	if w.rec.kind == attached {
		if w.variant != 0 {
			media = "whatsapp"
		}
		return fmt.Sprintf(`{"type":%q,"initiated_by":"api","sid":%q}`, media, channelSID(w.n))
	}
	if other {
		return fmt.Sprintf(`{"participants":[{"proxy_address":%q,"address":"+1555%07d"}],"initiated_by":"api","type":%q}`, proxy, w.n%1e7, media)
	}
	return fmt.Sprintf(`{"type":%q,"initiated_by":"api","participants":[{"address":"+1555%07d","proxy_address":%q}]}`, media, w.n%1e7, proxy)
}

func (w wish) routing(other bool) string {
	if w.rec.kind == attached {
		return ""
	}
	attributes := fmt.Sprintf(`{"customerName":"Ada %d","test_id":%q}`, w.n, w.id)
	if w.text {
		attributes = fmt.Sprintf("%q", attributes)
	} else if other {
		attributes = fmt.Sprintf(`{"test_id":%q, "customerName":"Ada %d"}`, w.id, w.n)
	}
	return fmt.Sprintf(`{"properties":{"workspace_sid":%q,"workflow_sid":%q,"task_channel_unique_name":"sms","attributes":%s}}`,
		flextest.WorkspaceSID, flextest.WorkflowSID, attributes)
}

// send sends until there is nothing more.
func (t *traffic) send(ctx context.Context) {
	for m := range t.out {
		msg := nats.NewMsg("interactions.requests." + m.source)
		if m.plain {
			msg.Subject = "plain.requests"
		}
		msg.Data = []byte(m.body)
		msg.Header.Set(jetstream.MsgIDHeader, m.name)
		for ctx.Err() == nil {
			limit, cancel := context.WithTimeout(ctx, 2*time.Second)
			ack, err := t.stream.PublishMsg(limit, msg)
			cancel()
			if err == nil && m.plain {
				t.beside.acknowledged(m.id)
				break
			}
			if err == nil {
				t.book.acknowledged(m.n, asking{ack.Sequence, m.source, m.variant})
				break
			}
			rest(ctx, 100*time.Millisecond)
		}
	}
}

// laters is what is sent later, the earliest first.
type laters []message

func (l laters) Len() int           { return len(l) }
func (l laters) Less(i, j int) bool { return l[i].due.Before(l[j].due) }
func (l laters) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }
func (l *laters) Push(x any)        { *l = append(*l, x.(message)) }
func (l *laters) Pop() any {
	last := (*l)[len(*l)-1]
	*l = (*l)[:len(*l)-1]
	return last
}
